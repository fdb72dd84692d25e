"""What is wrong with a settings file, in words for whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def wrong(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that does not fit `model`: the key's place, and what it should be."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if where in ("windows", "freeze") and isinstance(first["input"], dict):
        return f"{where}: there may be several: write [[{where}]]"
    if first["type"] == "extra_forbidden":
        *section, key = first["loc"]
        keys = _keys(model, section)
        place = f"[{'.'.join(str(part) for part in section)}] has no" if section else "there is no"
        return f"{place} key {key}{_meant(str(key), keys)}"
    return f"{where}: {first['msg']}"


def _meant(key: str, keys: list[str]) -> str:
    close = get_close_matches(key, keys, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it knows {', '.join(keys)}" if keys else ""


def _keys(model: type[BaseModel], section: Iterable[object]) -> list[str]:
    """What a section may hold; nothing where it is none of ours."""
    found: Any = model
    for part in section:
        if isinstance(part, int):  # one of several
            continue
        field = found.model_fields.get(part) or next(
            (each for each in found.model_fields.values() if each.alias == part), None
        )
        found = _model_in(field.annotation) if field else None
        if found is None:
            return []
    return [field.alias or name for name, field in found.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of a section, or of each one of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for each in get_args(annotation) if (model := _model_in(each))), None)
