"""What all documents of this package have in common, and how they are printed and carried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from tasks.core.schema.report import CheckResult


class Part(BaseModel):
    """A piece of a document."""

    # A document says every field, also one that has its default: its JSON schema requires them.
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class CheckItem(Part):
    name: str
    status: Literal["ok", "failed", "skipped", "note"]
    detail: str
    remedy: str = Field("", description="The command or statement that mends it, where it is not in the detail")

    @classmethod
    def of(cls, check: CheckResult) -> Self:
        return cls(name=check.name, status=check.status, detail=check.detail, remedy=check.remedy)


class Document(Part):
    """A document of its own, or one element of a document that is a list."""

    version: Literal[1] = Field(1, alias="schema", description="Moves when a field changes its meaning")


def to_json(answer: Document | Sequence[Document]) -> str:
    """One JSON document, an object or a list of them; ASCII, so that no reader's encoding matters."""
    if isinstance(answer, Document):
        return json.dumps(answer.model_dump(mode="json", by_alias=True), indent=2)
    return json.dumps([each.model_dump(mode="json", by_alias=True) for each in answer], indent=2)


_ATTACHED = "__kg_document__"


def attach(error: BaseException, document: Document) -> None:
    """Let `error` carry the document of how far its flow came. In-process only: pickling loses it."""
    setattr(error, _ATTACHED, document)


def attached(error: BaseException) -> Document | None:
    """The document that `error`, or what it was raised from, carries."""
    seen: BaseException | None = error
    while seen is not None:
        document = getattr(seen, _ATTACHED, None)
        if isinstance(document, Document):
            return document
        seen = seen.__cause__
    return None
