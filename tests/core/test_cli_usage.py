"""The command line without any database: help, wrong words, missing settings; as a user runs it, in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.cli.app import run
from tests.terminal import MAIN, kg

VERBS = ["check", "verify", "backups", "search", "deploy", "rollback", "reindex", "backup", "restore-drill"]
VERBS += ["prune", "index"]


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_help_lists_every_verb_and_is_quick() -> None:
    taken = []
    for _ in range(3):
        begun = sum(os.times()[2:4])  # processor seconds of children: what a busy machine does not change
        done = kg("--help")
        taken.append(sum(os.times()[2:4]) - begun)
    assert done.returncode == 0
    assert all(f" {verb} " in done.stdout for verb in VERBS)
    assert min(taken) < 1.0  # 0.3 s on an idle machine


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_the_common_options(verb: str) -> None:
    done = kg(verb, "--help")
    assert done.returncode == 0
    assert "ENVIRONMENT" in done.stdout
    assert "--json" in done.stdout
    assert "--verbose" in done.stdout


def test_version() -> None:
    done = kg("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "kg")


def test_nothing_said_shows_the_help_but_is_no_success() -> None:
    done = kg()
    assert done.returncode == 2
    assert "restore-drill" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("deplay", "dev"), "No such command 'deplay'"),
        (("deploy",), "Missing argument 'ENVIRONMENT'"),
        (("check", "dev", "--force"), "No such option: --force"),
        (("rollback", "dev", "--strategy", "hope"), "'hope' is not one of"),
        (("search", "dev", "x", "--limit", "0"), "Invalid value for '--limit'"),
        (("check", "prod"), "'prod' is not an environment"),
        (("verify", "staging"), "STAGING_DB_URL is not set"),
    ],
)
def test_a_wrong_line_is_one_line_with_a_hint_and_status_2(words: tuple[str, ...], said: str) -> None:
    done = kg(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    first, second = done.stderr.splitlines()
    assert first.startswith("kg: ")
    assert said in first
    assert second.startswith("hint: ")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("check", "dev", "--force", "--json"), "usage"),
        (("--json", "deplay"), "usage"),
        (("check", "prod", "--json"), "usage"),
        (("check", "staging", "--json"), "settings"),
        (("deploy", "prod", "--json"), "usage"),
        (("deploy", "staging", "--json"), "settings"),
    ],
)
def test_with_json_a_wrong_line_is_one_document(words: tuple[str, ...], code: str, tmp_path: Path) -> None:
    done = kg(*words, PREFECT_HOME=str(tmp_path))
    assert done.returncode == 2
    found = document(done)
    assert (found["schema"], found["state"], found["error"]["code"]) == (1, "failed", code)
    assert set(found) == {"schema", "state", "error"}
    assert done.stderr.startswith("kg: ")


def test_verbose_shows_where_it_came_from() -> None:
    done = kg("check", "prod", "--verbose")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    """`kg --help | true`, with more output than a pipe holds in one go or not."""
    line = f"{sys.executable} -c '{MAIN}' --help | true"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_a_password_in_the_engine_s_address_is_not_shown() -> None:
    for url in (
        "http://me:hunter22@127.0.0.1:9/api",
        "http://me:hunt/er22@127.0.0.1:9/api",
        "http://me:er22@localhost",
    ):
        done = kg("prune", "dev", "--apply", PREFECT_API_URL=url)
        assert done.returncode == 1
        assert "no Prefect server at PREFECT_API_URL (" in done.stderr
        assert "er22" not in done.stderr


def test_an_empty_path_is_not_the_current_folder() -> None:
    done = kg("index", "dev", "")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("kg: PATH is empty\nhint: ")


@pytest.mark.parametrize("words", [("restore-drill", "dev"), ("rollback", "dev", "--strategy", "restore")])
def test_a_wrong_backup_id_is_said_before_the_engine_starts(words: tuple[str, ...], tmp_path: Path) -> None:
    variables = {"KG_STORE_URL": tmp_path.as_uri(), "KG_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9"}
    for wrong in ("nope", ""):
        done = kg(*words, "--backup", wrong, **variables)
        assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"kg: {wrong!r} is not the id of a backup")
    done = kg(*words, "--backup", "20260101T020000Z-0123abcd", **variables)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        1,
        "kg: there is no backup 20260101T020000Z-0123abcd of dev",
    )


def test_what_can_change_something_is_not_listed_as_looking() -> None:
    looking = kg("--help").stdout.partition("Look: nothing is changed")[2].partition("Change the database")[0]
    assert " status " in looking
    assert not {"psql", "verify"} & set(looking.split()), (
        "psql does what it is told; verify's probes write and roll back"
    )


def test_a_rollback_s_reason_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def worker(output: object, flow: str, environment: str, parameters: Callable[[None], dict[str, Any]]) -> int:
        seen.update(parameters(None))
        return 0

    monkeypatch.setattr("flows.cli.database.answer_from_worker", worker)
    assert run(["rollback", "dev", "--remote", "--yes", "--reason", "wrong rows"]) == 0
    assert seen["reason"] == "wrong rows"


def test_help_names_a_type_only_where_a_value_is_typed_and_cuts_no_word() -> None:
    for verb in ("rollback", "backup", "psql", "status"):
        said = kg(verb, "--help", COLUMNS="80").stdout
        assert "[[" not in said
        lines = [line for line in said.splitlines() if "--help" not in line]
        assert not [line for line in lines if "<bool>" in line], "a flag takes none"
    said = kg("rollback", "--help", COLUMNS="80").stdout
    assert "auto, revert, restore or" in said
