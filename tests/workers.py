"""How many processes run the tests, and in which order: see README.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.databases import cannot_run_on_supabase

# The rooms whose tests take longest, in the order in which they begin: the quick files fill the gaps at the end.
_LONGEST_FIRST = ("ui", "flows", "faults", "servers")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One process a core and one for those that wait; none besides this one for files that are named, nor on a server
    that all would share: roles and scratch databases belong to a server, not to a database.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # pytest-xdist asks it itself
    rooms = all(Path(argument).is_dir() for argument in config.args)
    return min(os.cpu_count() or 1, 4) + 1 if rooms and not shared(config) else 0


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whole flows, faults and servers take seconds each: all are slow, so that the quick run stays under 3 minutes."""
    for item in items:
        if {"flows", "faults", "servers", "ui"} & set(item.path.parent.parts):
            item.add_marker(pytest.mark.slow)
        if config.getoption("--postgres") == "supabase" and (why := cannot_run_on_supabase(item.name)):
            item.add_marker(pytest.mark.skip(reason=f"--postgres=supabase: {why}"))
    if hasattr(config, "workerinput"):
        items.sort(key=_place)


def pytest_configure(config: pytest.Config) -> None:
    if shared(config) and config.getoption("numprocesses", 0):
        raise pytest.UsageError("--postgres=URL is one server, for tests of one process: -n 0")
    if hasattr(config, "workerinput"):
        os.environ.pop(
            "COLUMNS", None
        )  # pytest-xdist tells its processes its own terminal's, and kg obeys it in a pipe


def shared(config: pytest.Config) -> bool:
    """Is the tests' PostgreSQL one that was there before, and not one a process?"""
    return "://" in str(config.getoption("--postgres"))


def _place(item: pytest.Item) -> int:
    room = item.path.parent.name
    return _LONGEST_FIRST.index(room) if room in _LONGEST_FIRST else len(_LONGEST_FIRST)
