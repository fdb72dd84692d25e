"""What people type into a deploy's form: signs that nobody sees, or that PostgreSQL keeps in no text, are no words."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.release import overriding
from tasks.core.errors import Refused, UsageError
from tasks.core.operations.plan import DeployPlan, agree
from tasks.core.settings import Settings, load_settings

UNSEEN = ["", " \n", "\0", "\u200b", "\ud800", "\u3164", "\0 \u2060\t"]


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An environment that asks one person; its database is nowhere, and is not opened."""
    monkeypatch.setenv("KG_HOME", str(tmp_path))
    found = load_settings("dev")
    return found.model_copy(update={"approvals": found.approvals.model_copy(update={"required": 1})})


@pytest.mark.parametrize("typed", UNSEEN, ids=ascii)
def test_a_starter_whom_nobody_sees_is_nobody(asking: Settings, typed: str) -> None:
    with pytest.raises(Refused, match="nobody says who starts this deploy"):
        overriding(asking, typed, False, "")


@pytest.mark.parametrize("typed", UNSEEN, ids=ascii)
def test_a_reason_that_nobody_sees_is_none(asking: Settings, typed: str) -> None:
    """It was kept as an empty one, and the deploy then waited for a window after all."""
    with pytest.raises(UsageError, match="needs a reason"):
        overriding(asking, "Ada", True, typed)


def test_a_reason_is_kept_without_them(asking: Settings) -> None:
    assert overriding(asking, "Ada\0", True, "the\0 index\u202e is corrupt\ud800") == "the index is corrupt"
    assert overriding(asking, "Ada", False, "the index is corrupt") == "", "without `now` nothing is overridden"


def test_an_endless_name_is_refused_before_a_backup_is_made(asking: Settings) -> None:
    with pytest.raises(UsageError, match="a name, of at most 200 characters"):
        overriding(asking, "Ada " * 100, False, "")


def test_another_plan_is_named_so_that_a_terminal_and_a_ledger_can_show_it() -> None:
    plan = DeployPlan("production", "graph", "", (), (), (), (), "0123abcd")
    with pytest.raises(Refused, match="is now 0123abcd") as refused:
        agree(plan, "\0\x1b[2J" * 1000)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 200
