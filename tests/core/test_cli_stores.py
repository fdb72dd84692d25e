"""What is malformed about the store is refused before a flow engine, a database or the store is asked for anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.cli import engine
from flows.cli.app import run

VERBS = {
    "backup": ["backup", "dev"],
    "drill": ["restore-drill", "dev"],
    "prune": ["prune", "dev", "--apply"],
    "restore": ["rollback", "dev", "--strategy", "restore", "--yes"],
}


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("the flow engine was started")

    monkeypatch.setattr(engine, "OwnServer", started)
    monkeypatch.setattr(engine, "engine", started)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("KG_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KG_STORE_URL", "s3:/bucket"),
        ("KG_STORE_KEY", "age1nonsense"),
        ("KG_STORE_SSE", "rot13"),
        ("KG_STORE_LOCK", "for ever"),
        ("KG_STORE_ADDRESSING", "sideways"),
        ("KG_STORE_IDENTITY", "/no/such/file"),
        ("KG_STORE_IDENTITY", "AGE-SECRET-KEY-1HUSH"),
    ],
)
def test_it_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("KG_STORE_URL", "s3://bucket/kg")
    monkeypatch.setenv(name, value)
    for verb, words in VERBS.items():
        if (verb, name) == ("prune", "KG_STORE_IDENTITY"):
            continue  # what is pruned is not read
        assert run(words) == 2, verb
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith(f"kg: {name} is "), verb
        assert second.startswith("hint: ")
        assert "1HUSH" not in first + second
    assert not (tmp_path / "home").exists()


def test_an_identity_of_no_use_keeps_nobody_from_reverting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what reads a backup wants it."""
    monkeypatch.setenv("KG_STORE_IDENTITY", "/no/such/file")
    assert run(["rollback", "dev", "--strategy", "revert", "--yes"]) != 2
    assert "the flow engine was started" in capsys.readouterr().err
