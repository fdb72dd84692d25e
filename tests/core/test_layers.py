"""The house's layers: an import may only point to the right (flows -> tasks -> tasks/core -> sql)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tasks.core.settings import CHECKOUT

LAYERS = ("flows", "tasks", "tasks.core", "sql")
PACKAGES = {"flows", "tasks", "sql", "deployments", "tests"}


def layer_of(module: str) -> str:
    return "tasks.core" if module.startswith("tasks.core") else module.split(".", 1)[0]


def sources() -> list[Path]:
    return [path for name in ("flows", "tasks", "sql", "deployments") for path in (CHECKOUT / name).rglob("*.py")]


def imported(path: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            found.append(node.module or "")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_imports_point_to_the_right(path: Path) -> None:
    module = ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    own = LAYERS.index(layer_of(module)) if layer_of(module) in LAYERS else len(LAYERS)
    for name in imported(path):
        if name.split(".", 1)[0] not in PACKAGES:
            continue
        assert layer_of(name) in LAYERS, f"{module} imports {name}"
        assert LAYERS.index(layer_of(name)) >= own, f"{module} imports {name}"


@pytest.mark.parametrize(
    "path", [path for path in sources() if "core" in path.parts], ids=lambda path: str(path.relative_to(CHECKOUT))
)
def test_core_knows_no_flow_engine(path: Path) -> None:
    assert not [name for name in imported(path) if name.split(".", 1)[0] == "prefect"]


@pytest.mark.parametrize("package", ["flows", "tasks"])
def test_package_files_are_empty(package: str) -> None:
    assert (CHECKOUT / package / "__init__.py").read_text() == ""


def test_the_environments_are_those_of_the_toml_files() -> None:
    from typing import get_args

    from tasks.core.settings import Environment

    files = {path.stem for path in (CHECKOUT / "deployments" / "environments").glob("*.toml")}
    assert files == set(get_args(Environment))
