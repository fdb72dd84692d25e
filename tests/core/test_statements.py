"""Splitting: what psql would run as one statement is one statement, with its place in the file."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import MigrationFailed
from tasks.core.schema.statements import split_statements


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split_statements(sql, "t.sql")]


@pytest.mark.parametrize(
    "one",
    [
        "SELECT 'a;b'",
        "SELECT 'it''s; fine'",
        r"SELECT E'it\'s; fine'",
        r"SELECT e'back\\', 1",
        "SELECT 'plain backslash \\', 1",
        'SELECT 1 AS "semi;colon""quoted"',
        "SELECT $$a;b$$",
        "SELECT $tag$ a; $$ b; $other$ $tag$",
        "SELECT $é$ a; $é$",
        "SELECT a$b$c FROM t",
        "SELECT 1 /* one; /* two; */ three; */ + 1",
        "SELECT 1 -- not; the end\n + 1",
        "SELECT $1",
        "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM a; DELETE FROM b)",
        "DO $do$ BEGIN PERFORM 1; END $do$",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.a := 1; RETURN NEW; END $$",
        "SELECT b'1;', x'f;', U&'d\\0061;', N'a;'",
    ],
)
def test_what_belongs_together_is_one_statement(one: str) -> None:
    assert texts(f"{one};\nSELECT 2") == [one, "SELECT 2"]


def test_comments_and_empty_statements_between_statements_are_left_out() -> None:
    assert texts("-- head; er\n;;\n/* a; */ SELECT 1 ; -- tail\n\n ; SELECT 2;\n-- end") == ["SELECT 1", "SELECT 2"]
    assert texts("-- nothing\n") == []


def test_a_file_of_ten_megabytes_takes_no_longer_a_line_than_a_small_one() -> None:
    """Counting lines from the top for every statement took more than ten minutes."""
    began = time.process_time()
    found = split_statements("SELECT 1;\n" * 1_000_000, "t.sql")
    assert (len(found), found[-1].line, found[-1].column) == (1_000_000, 1_000_000, 1)
    assert time.process_time() - began < 60


def test_each_statement_knows_its_place() -> None:
    first, second = split_statements("-- x\n  SELECT 1;\nSELECT\n   nope;", "t.sql")
    assert (first.line, first.column) == (2, 3)
    assert (second.line, second.column) == (3, 1)
    assert first.place(8) == (2, 10)
    assert second.place(second.text.index("nope") + 1) == (4, 4)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1;\n  \\i other.sql", "t.sql:2:3: a psql meta-command: it works in psql only"),
        ("SELECT 'abc", "t.sql:1:8: this quote is never closed"),
        ('SELECT "abc', "t.sql:1:8: this quote is never closed"),
        ("SELECT 1;\nSELECT $x$ abc $$", "t.sql:2:8: the quote $x$ is never closed"),
        ("SELECT 1 /* /* */", "t.sql:1:10: this comment is never closed"),
        ("SELECT 1;\nSELECT '\0';", "t.sql:2:9: a NUL byte, which no statement can hold"),
        ("SELECT 1;\nCOPY t FROM STDIN;\n1\t2\n\\.\n", "t.sql:2:1: COPY FROM STDIN: its rows work in psql only"),
    ],
)
def test_what_cannot_run_is_refused_with_its_place(sql: str, message: str) -> None:
    with pytest.raises(MigrationFailed) as caught:
        split_statements(sql, "t.sql")
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("sql", "controls"),
    [
        ("BEGIN", True),
        ("start transaction read only", True),
        ("Commit", True),
        ("END", True),
        ("ROLLBACK", True),
        ("ABORT", True),
        ("PREPARE TRANSACTION 'x'", True),
        ("PREPARE q AS SELECT 1", False),
        ("SAVEPOINT s", False),
        ("ROLLBACK TO SAVEPOINT s", False),
        ("ROLLBACK WORK TO s", False),
        ("RELEASE s", False),
        ("DO $$ BEGIN COMMIT; END $$", False),
        ("SELECT 'BEGIN'", False),
        ("(SELECT 1)", False),
        ("'stray'", False),
    ],
)
def test_transaction_control_is_recognised(sql: str, controls: bool) -> None:
    assert split_statements(sql, "t.sql")[0].controls_transaction is controls


def test_concurrently_is_seen_as_a_word_only() -> None:
    build, comment = split_statements("CREATE INDEX Concurrently i ON t (a); SELECT 'concurrently'", "t.sql")
    assert build.concurrent
    assert not comment.concurrent


QUOTED = st.sampled_from(
    ["'a;'", '"i;"', "$$;$$", "$t$;$$;$t$", "/*;/*;*/*/", "--;\n", "(;)", "word", "+", "E'\\';'", " "]
)


@given(st.lists(st.lists(QUOTED, min_size=1, max_size=6), max_size=5))
def test_any_statements_come_out_as_they_went_in(parts: list[list[str]]) -> None:
    bodies = ["x " + " ".join(part) for part in parts]
    found = split_statements("\n;\n".join(bodies), "t.sql")
    assert [statement.text.split() for statement in found] == [body.split() for body in bodies]
    assert [statement.line for statement in found] == _lines(bodies)


def _lines(bodies: list[str]) -> list[int]:
    lines, at = [], 1
    for body in bodies:
        lines.append(at)
        at += body.count("\n") + 2
    return lines
