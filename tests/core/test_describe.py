"""What approvers and pages show of other people's words: to the letter, in its place, and without a password."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from flows.cli.confirm import show_plan
from flows.cli.plain import RULE, plain
from tasks.core.markdown import block, code, inert, inline
from tasks.core.operations.plan import DeployPlan
from tasks.core.release.describe import Prepared, describe, fitting, outline
from tasks.core.release.prediction import Prediction
from tasks.core.schema.hazards import Linted
from tasks.core.schema.migrations import Migration, load_migrations

NASTY = [
    "a | b",
    "`code` ``more``",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://evil.example/p.png)",
    "one\n\n# two\n| three |",
    "*bold* _it_ ~~gone~~ &lt; \\| \\",
    "<img src=x onerror=alert(1)>",
    "ends with a backslash \\",
]


def rendered(text: str) -> str:
    """As CommonMark with tables and strikethrough makes HTML of it, HTML let through: what a UI may do at worst."""
    return str(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text))


def shown(html: str) -> str:
    from html import unescape

    return " ".join(unescape(re.sub(r"<[^>]*>", "", html)).split())


@pytest.mark.parametrize("text", NASTY)
def test_words_stay_words(text: str) -> None:
    table = rendered(f"| a | b |\n|---|---|\n| {inline(text)} | right |")
    assert table.count("<tr>") == 2
    assert table.count("<td>") == 2
    assert "<td>right</td>" in table
    assert set(re.findall(r"<(\w+)", table)) == {"table", "thead", "tbody", "tr", "th", "td"}
    cell = re.search(r"<td>(.*?)</td>", table, re.S)
    assert cell
    assert shown(cell[1]) == " ".join(text.split()), "to the letter"


@pytest.mark.parametrize("text", NASTY)
def test_code_stays_code(text: str) -> None:
    html = rendered(f"x {code(text)} y")
    assert set(re.findall(r"<(\w+)", html)) == {"p", "code"}
    assert shown(html) == f"x {' '.join(text.split())} y"
    fenced = rendered("\n".join(block(["select 1; -- ```", "````", text, "<b>"], "sql")))
    assert set(re.findall(r"<(\w+)", fenced)) == {"pre", "code"}


@pytest.mark.parametrize("text", NASTY)
def test_a_cell_holds_nothing_that_is_obeyed_and_reads_the_same(text: str) -> None:
    """At worst it is in bold, or code: the old interface makes Markdown of it, the new one shows what is there."""
    html = rendered(inert(text))
    assert not set(re.findall(r"<(\w+)", html)) & {"a", "img", "script", "b"}
    assert inert(text).replace("\u2060", "") == text
    assert inert("index a of b: 3 < 4, [1] kg backup dev") == "index a of b: 3 < 4, [1] kg backup dev"


def prepared(migration: Migration, **words: str) -> Prepared:
    plan = DeployPlan("production", "gr`aph", "", (migration,), (), (), (), "0123abcd")
    return Prepared(
        plan=plan,
        linted=Linted("squawk", {}),
        rehearsed=(),
        backup=None,
        prediction=Prediction(3.0, "because"),
        opening=None,
        **words,
    )


@pytest.mark.parametrize("text", NASTY)
def test_the_form_is_as_it_is_whatever_the_starter_is_called(text: str, tmp_path: Path) -> None:
    (tmp_path / "001_create_it.up.sql").write_text("SELECT 1; -- ```\n# no heading\n```\n<script>\n")
    (tmp_path / "001_create_it.down.sql").write_text("SELECT 1;\n")
    [script] = load_migrations(tmp_path)
    html = rendered(describe(prepared(script, override=text, started_by=text), datetime.now(UTC)))
    assert set(re.findall(r"<(\w+)", html)) == {
        *("h1", "h2", "p", "code", "pre", "table", "thead", "tbody", "tr", "th", "td")
    }
    assert html.count("<tr>") == 5
    assert html.count("<h1") == html.count("<h2") == 1
    planned = rendered(outline(prepared(script, override=text, started_by=text).plan))
    assert set(re.findall(r"<(\w+)", planned)) == {"h1", "h2", "p", "code", "pre"}


def long(folder: Path, lines: int = 2000) -> Migration:
    (folder / "001_create_it.up.sql").write_text("".join(f"SELECT {n}; -- ```\n" for n in range(lines)))
    (folder / "001_create_it.down.sql").write_text("SELECT 1;\n")
    return load_migrations(folder)[0]


def test_approvers_see_all_of_the_sql(tmp_path: Path) -> None:
    document = describe(prepared(long(tmp_path), override="", started_by="Ada"), datetime.now(UTC))
    for n in range(2000):
        assert f"SELECT {n}; -- ```\n" in document
    assert fitting(document, "production") == document
    assert fitting(document, "production", 100_000_000) == document


def test_a_form_that_is_cut_says_so_and_where_the_whole_is(tmp_path: Path) -> None:
    document = describe(prepared(long(tmp_path), override="", started_by="Ada"), datetime.now(UTC))
    cut = fitting(document, "production", 5000)
    assert len(cut) < 5300
    html = rendered(cut)
    assert html.count("<pre>") == html.count("</pre>") == 1
    after = shown(html.partition("</pre>")[2])
    gone = document.count("\n") + 1 - (cut[: cut.index("\n````\n\n")].count("\n") + 1)
    assert after.startswith(f"⚠ {gone:,} of 2,0")
    assert "kg approve production --name NAME shows all of it" in after


@pytest.mark.parametrize("text", NASTY)
def test_a_terminal_shows_no_markdown(text: str, tmp_path: Path) -> None:
    document = describe(prepared(long(tmp_path, 3), override=text, started_by="Ada"), datetime.now(UTC))
    lines = plain(document).splitlines()
    assert lines[0] == "Deploy to production (plan 0123abcd)"
    assert lines[1] == "Database gr`aph goes from revision none to 001; started by Ada."
    assert lines[3:7] == [
        "  backup              none: the gate asks for a proved one before anything runs",
        "  predicted duration  3 s (because)",
        f"  window              overridden by Ada: {' '.join(text.split())}",
        "  hazards             squawk",
    ]
    assert lines[8:] == ["001_create_it", "", RULE, *(f"SELECT {n}; -- ```" for n in range(3)), RULE]


def test_nothing_in_a_file_hides_itself_on_a_terminal() -> None:
    assert plain("```sql\nDROP TABLE t; \x1b[1A\x1b[2K-- \rfine\n```").splitlines()[1] == (
        "DROP TABLE t; \ufffd[1A\ufffd[2K-- \ufffdfine"
    )


def test_a_person_is_shown_the_whole_file_and_a_script_where_the_rest_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = prepared(long(tmp_path, 100), override="", started_by="Ada").plan
    show_plan(plan, whole=True)
    said = capsys.readouterr().err
    assert "SELECT 99; " in said
    assert "more line" not in said
    show_plan(plan, whole=False)
    said = capsys.readouterr().err
    assert "SELECT 12; " not in said
    assert f"... and 88 more lines: {tmp_path / '001_create_it.up.sql'}" in said


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODUCTION_DB_PASSWORD", "under_score*d")
    for text in (
        "see postgresql://kg:hunter2@h/d",
        "postgresql://kg:hun/ter2@x@h/d",
        "host=h password=hunter2 user=kg",
        "password = 'hunt er2'",
        "it is under_score*d",
    ):
        for made in (inline(text), code(text), "\n".join(block([text], ""))):
            assert "***" in made.replace("\\", "")
            assert not re.search(r"hun|er2|score", made), made
