"""`kg status` as a person sees it: on a narrow terminal, without colours, in a pipe."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.cli.answer import status_of
from flows.cli.status import show
from tasks.core.documents.status import (
    EnvironmentStatus,
    FailedItem,
    ProvedBackup,
    RunningItem,
    Standing,
    StatusDocument,
    WaitingItem,
)
from tasks.core.operations.status import status
from tasks.core.settings import CHECKOUT
from tests.terminal import on_a_terminal

ID = "20261114T021503Z-5ba87c1e"
SHOW = "from tests.core.test_cli_status import document; from flows.cli.status import show; show(document())"


def document() -> StatusDocument:
    now = datetime.now(UTC)
    old = now - timedelta(days=9)
    backup = ProvedBackup(id=ID, created=old, proved_at=old, grade="restorable", restore_seconds=252.3, stored_bytes=10)
    staging = EnvironmentStatus(
        environment="staging",
        standing="not-safe",
        verdict="the newest proved backup is 9 days old, the limit is 7 days",
        next="kg backup staging",
        revision="001",
        pending=("002_add_reviews",),
        backup=backup,
        running=(RunningItem(kind="index", since=now, host="h", pid=3, step="build", alive=True),),
    )
    production = EnvironmentStatus(
        environment="production",
        standing="safe",
        verdict="safe as of 7 h ago: comes back in 252.3 s from a backup that was restored, and more",
        revision="001",
        backup=backup,
        windows=True,
        window_start=now + timedelta(days=2),
        window_end=now + timedelta(days=2, hours=3),
        waiting=(WaitingItem(plan="5085e406a3ce", state="waiting", started_by="Ada", missing=2, expires=now),),
    )
    return StatusDocument(safe=False, environments=(staging, production))


def test_a_pipe_has_a_line_for_each_thing(capsys: pytest.CaptureFixture[str]) -> None:
    show(document())
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == "✗ staging     the newest proved backup is 9 days old, the limit is 7 days"
    assert "    next      kg backup staging" in lines
    assert "    revision  001, 1 pending: 002_add_reviews" in lines
    assert f"    backup    {ID}, 9 days old, restores in 4 min 12 s" in lines
    assert "    running   index, at build, begun 0 min ago" in lines
    assert re.search(r"    window    next \w{3} \d{4}-\d\d-\d\d \d\d:\d\d to \w{3} \d\d:\d\d \S+", said)
    assert "plan 5085e406a3ce of Ada: 2 approvals until" in said
    assert "(kg approve production --name NAME)" in said
    assert "\x1b" not in said


def test_a_plan_that_its_run_has_left_is_not_said_to_wait(capsys: pytest.CaptureFixture[str]) -> None:
    staging, production = document().environments
    left = production.waiting[0].model_copy(update={"deserted": True})
    show(StatusDocument(safe=False, environments=(staging, production.model_copy(update={"waiting": (left,)}))))
    said = capsys.readouterr().out
    assert "plan 5085e406a3ce of Ada: its run no longer waits (crashed, cancelled or hanging); kg deploy produ" in said
    assert "kg approve" not in said


def test_what_could_not_be_looked_at_is_not_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    blind = EnvironmentStatus(
        environment="staging",
        standing="not-safe",
        verdict="role ro may not read the ledger",
        next="an administrator runs",
    )
    show(StatusDocument(safe=False, environments=(blind,)))
    assert capsys.readouterr().out.splitlines() == [
        "✗ staging     role ro may not read the ledger",
        "    next      an administrator runs",
    ]


def test_a_failed_deploy_is_said_where_the_database_is_safe(capsys: pytest.CaptureFixture[str]) -> None:
    _, production = document().environments
    gone = FailedItem(kind="deploy", state="rolled-back", at=datetime.now(UTC) - timedelta(minutes=3))
    show(StatusDocument(safe=True, environments=(production.model_copy(update={"failed": gone}),)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("! production  safe as of"), "not the green of a day without news"
    (said,) = [line for line in lines if line.startswith("    deploy")]
    assert re.fullmatch(r"    deploy    the last one failed and was rolled back, 3 min ago \(.+ \w+\)", said)


@pytest.mark.parametrize(
    ("standing", "exists", "status"),
    [
        ("safe", True, 0),
        ("not-configured", True, 0),
        ("not-safe", True, 1),
        ("unreachable", True, 1),
        ("nothing-yet", True, 1),
        ("nothing-yet", False, 0),
    ],
)
def test_the_exit_status_is_the_verdict(standing: Standing, exists: bool, status: int) -> None:
    one = EnvironmentStatus(environment="staging", standing=standing, verdict="", exists=exists)
    assert status_of(StatusDocument(safe=one.fine, environments=(one,))) == status


def test_a_narrow_terminal_wraps_beneath_the_values() -> None:
    status, shown = on_a_terminal(SHOW, COLUMNS="80")
    assert status == 0, shown
    assert "\x1b[32m✓" in shown
    assert "\x1b[1;31m✗" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", "").splitlines()
    assert max(map(len, plain)) <= 80
    assert [line for line in plain if not re.match(r"[✓✗] \w|    \w|              \S", line)] == []
    assert f"    backup    {ID}, 9 days old, restores in 4 min 12 s" in plain


def test_no_color_is_obeyed() -> None:
    _, shown = on_a_terminal(SHOW, COLUMNS="80", NO_COLOR="1")
    assert "\x1b[1m✗\x1b[0m staging" in shown, "bold is no colour"
    assert not re.search(r"\x1b\[(\d+;)?[34]\dm", shown)


def test_a_file_with_a_mistake_is_not_an_environment_that_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing runs there, no nightly either: whoever asks whether he is safe is told so."""
    folder = shutil.copytree(CHECKOUT / "deployments" / "environments", tmp_path / "environments")
    with (folder / "dev.toml").open("a") as file:
        file.write('[[freeze]]\nfrom = "yesterday"\nuntil = 2026-12-31\n')
    monkeypatch.setenv("KG_ENVIRONMENTS", str(folder))
    monkeypatch.delenv("STAGING_DB_URL", raising=False)
    found = status(["dev", "staging"])
    assert [each.standing for each in found.environments] == ["not-safe", "not-configured"]
    assert found.safe is False
    assert "dev.toml: freeze.0.from" in found.environments[0].verdict
    assert "STAGING_DB_URL is not set" in found.environments[1].verdict
