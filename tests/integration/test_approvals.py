"""Stored plans and the decisions on them, in kg_ops."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from flows.cli.release import show_approval, show_approvals
from tasks.core.documents import WaitingDocument
from tasks.core.errors import MigrationFailed, Refused, UsageError
from tasks.core.operations.plan import make_plan
from tasks.core.operations.rehearsed import Rehearsed
from tasks.core.postgres.connections import Connection
from tasks.core.release import approvals
from tasks.core.release.approvals import Waiting
from tasks.core.release.bounds import WindowEnd, bounded
from tasks.core.schema import ledger
from tasks.core.schema.migrations import apply, load_migrations
from tasks.core.settings import Settings


def wanting(settings: Settings, people: int, **more: Any) -> Settings:
    changed = settings.approvals.model_copy(update={"required": people, **more})
    return settings.model_copy(update={"approvals": changed})


def stored(conn: Connection, settings: Settings) -> Waiting:
    ledger.identity(conn)
    return approvals.store(
        conn,
        settings,
        make_plan(conn, settings),
        started_by="Ada Lovelace",
        flow_run=None,
        backup="b1",
        predicted_seconds=42.5,
        document="# Deploy",
        detail={"rehearsed": 3.5},
    )


def test_a_database_without_plans_waits_for_nothing(conn: Connection, settings: Settings) -> None:
    assert approvals.waiting(settings) == ()
    ledger.ensure(conn)
    assert approvals.waiting(settings) == ()


def test_two_people_and_not_the_one_who_started_it(conn: Connection, settings: Settings) -> None:
    two = wanting(settings, 2)
    plan = stored(conn, two)
    assert (plan.state, plan.missing, plan.detail) == ("waiting", 2, {"rehearsed": 3.5})
    with pytest.raises(Refused, match="Ada Lovelace started plan"):
        approvals.decide(two, plan.id, "approve", " ada  LOVELACE ")
    once = approvals.decide(two, plan.id, "approve", "Grace Hopper", "looked at the locks")
    assert (once.state, once.missing) == ("waiting", 1)
    assert approvals.decide(two, plan.id, "approve", "grace hopper") == once, "a name counts once"
    [seen] = approvals.waiting(two)
    assert seen == once
    assert seen.decisions[0].note == "looked at the locks"
    both = approvals.decide(two, plan.id, "approve", "Barbara Liskov")
    assert (both.state, both.approved_by) == ("approved", ("Grace Hopper", "Barbara Liskov"))


def test_a_rejection_ends_it(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 1))
    assert approvals.decide(settings, plan.id, "reject", "Grace", "not on a Friday").state == "rejected"
    assert approvals.waiting(settings) == ()
    with pytest.raises(Refused, match="is rejected: nothing is to be decided"):
        approvals.decide(settings, plan.id, "approve", "Barbara")
    assert approvals.look(settings, plan.id).approved_by == ()


def test_the_starter_may_reject(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 1))
    assert approvals.decide(settings, plan.id, "reject", "Ada Lovelace").state == "rejected"


def test_it_expires(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 1, expire=timedelta(milliseconds=1)))
    assert approvals.look(settings, plan.id).state == "expired"
    assert approvals.waiting(settings) == ()
    with pytest.raises(Refused, match="is expired"):
        approvals.decide(settings, plan.id, "approve", "Grace")


def test_what_is_prepared_anew_supersedes(conn: Connection, settings: Settings) -> None:
    old = stored(conn, wanting(settings, 1))
    new = stored(conn, wanting(settings, 1))
    assert approvals.look(settings, old.id).state == "superseded"
    assert [each.id for each in approvals.waiting(settings)] == [new.id]


def test_an_approval_holds_until_its_window_is_over(conn: Connection, settings: Settings) -> None:
    one = wanting(settings, 1)
    plan = stored(conn, one)
    approvals.decide(one, plan.id, "approve", "Grace")
    opens = datetime.now(UTC) + timedelta(days=9)
    approvals.schedule(one, plan.id, opens, opens + timedelta(hours=2))
    [seen] = approvals.waiting(one)
    assert (seen.state, seen.scheduled_for, seen.expires_at) == ("scheduled", opens, opens + timedelta(hours=2))
    approvals.move(one, plan.id, "released")
    assert approvals.waiting(one) == ()
    approvals.move(one, plan.id, "waiting")
    assert approvals.look(one, plan.id).state == "released", "what has ended stays so"


def test_a_decision_wants_a_name(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 1))
    with pytest.raises(UsageError, match="a name"):
        approvals.decide(settings, plan.id, "approve", "  ")


def test_past_deploys_are_measured_against_their_rehearsals(conn: Connection, settings: Settings) -> None:
    ledger.ensure(conn)
    conn.execute(
        "INSERT INTO kg_ops.operation (id, kind, environment, fence, state, host, pid, backend_pid, detail)"
        " SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'deploy', 'dev', n,"
        " CASE WHEN n = 3 THEN 'failed' ELSE 'done' END, '', 0, 0,"
        """ '{"migrate": ["002"], "rehearsal": [{"up_seconds": 2.0}, {"up_seconds": 3.0}]}'"""
        " FROM generate_series(1, 3) AS n"
    )
    conn.execute(
        "INSERT INTO kg_ops.journal (operation, sequence, step, state, at)"
        " SELECT id, s, 'apply', CASE s % 2 WHEN 1 THEN 'started' ELSE 'done' END,"
        " timestamptz '2026-11-22 02:00' + make_interval(secs => s * 4 * fence)"
        " FROM kg_ops.operation, generate_series(1, 4) AS s"
    )
    assert approvals.past_ratios(conn, "dev") == (8 / 5, 16 / 5)
    assert approvals.past_ratios(conn, "staging") == ()


def test_a_terminal_shows_what_an_earlier_run_rehearsed(conn: Connection, settings: Settings) -> None:
    plan = make_plan(conn, settings)
    assert approvals.last_rehearsal(settings, plan) == ()
    ledger.ensure(conn)
    rehearsed = Rehearsed("001", "create", 1.25, 0.5, (), {})
    conn.execute(
        "INSERT INTO kg_ops.operation (id, kind, environment, fence, state, host, pid, backend_pid, started_at, detail)"
        " VALUES (gen_random_uuid(), 'deploy', 'dev', 1, 'failed', '', 0, 0, '2026-11-22 02:00+00', %s)",
        [Jsonb({"plan": plan.hash, "rehearsal": [rehearsed.to_detail()]})],
    )
    [line] = approvals.last_rehearsal(settings, plan)
    assert line == "rehearsed 001 create: up 1.25 s, down 0.50 s; locks: none of ours (on 2026-11-22 02:00 UTC)"


def test_no_statement_runs_past_the_windows_end(conn: Connection, settings: Settings, tmp_path: Path) -> None:
    """Two statements of 0.6 s each with a second left: the second is cut, though each alone would fit."""
    (tmp_path / "001_wait.up.sql").write_text("SELECT pg_sleep(0.6);\nSELECT pg_sleep(0.6);\n")
    (tmp_path / "001_wait.down.sql").write_text("SELECT 1;\n")
    [migration] = load_migrations(tmp_path)
    until = datetime.now(UTC) + timedelta(seconds=1)
    database, recorded = settings.database, []
    with pytest.raises(MigrationFailed, match=r"001_wait.up.sql:2:1: .*57014") as failed:
        end = WindowEnd(database, until)
        apply(conn, migration, bounded(database, until), lambda _: recorded.append(1), observer=end)
    assert "maintenance window" in (failed.value.hint or "")
    assert recorded == []
    assert datetime.now(UTC) - until < timedelta(seconds=0.5)
    assert bounded(database, None) is database


@pytest.mark.parametrize(
    "other",
    [
        "GRACE  hopper",
        "Grace\u200b Hopper",
        "\ufeffGrace Hopper",
        "Grace Hopper\u2060",
        "Ｇrace Hopper",
        "Grace\u3164 Hopper",
    ],
)
def test_a_name_that_looks_the_same_is_the_same_person(conn: Connection, settings: Settings, other: str) -> None:
    plan = stored(conn, wanting(settings, 2))
    approvals.decide(settings, plan.id, "approve", "Grace Hopper")
    decided = approvals.decide(settings, plan.id, "approve", other)
    assert (decided.state, decided.approved_by) == ("waiting", ("Grace Hopper",))


def test_accents_may_be_composed_or_not(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 2))
    approvals.decide(settings, plan.id, "approve", "Ren\u00e9")
    assert approvals.decide(settings, plan.id, "approve", "Rene\u0301").approved_by == ("Ren\u00e9",)


def test_the_starter_does_not_hide_behind_an_invisible_sign(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 1))
    with pytest.raises(Refused, match="does not count as its approver"):
        approvals.decide(settings, plan.id, "approve", "Ada\u200d Lovelace")
    with pytest.raises(UsageError, match="wants a name"):
        approvals.decide(settings, plan.id, "approve", "\u200b\u3164")


def test_a_note_keeps_what_can_be_kept(conn: Connection, settings: Settings) -> None:
    plan = stored(conn, wanting(settings, 2))
    decided = approvals.decide(settings, plan.id, "approve", "Grace", "read\x00 it\x1b[2J\nall")
    assert decided.decisions[0].note == "read it[2J\nall"


def test_a_password_that_slipped_into_a_note_is_not_kept(
    conn: Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODUCTION_DB_PASSWORD", "our-own-secret")
    one = wanting(settings, 2)
    plan = stored(conn, one)
    said = "tried postgresql://kg:hunter2@db/graph and our-own-secret, password=hunter3"
    approvals.decide(one, plan.id, "approve", "Grace postgresql://g:hunter4@h/", said)
    row = conn.execute("SELECT name, note FROM kg_ops.approvals").fetchone()
    assert row == ("Grace postgresql://g:***@h/", "tried postgresql://kg:***@db/graph and ***, password=***")


def silent_for(conn: Connection, seconds: int) -> None:
    """As long ago was the last look of the run that waits."""
    conn.execute(
        "UPDATE kg_ops.plans SET created_at = created_at - make_interval(secs => %(s)s), detail = detail ||"
        " jsonb_build_object('watched_at', clock_timestamp() - make_interval(secs => %(s)s))",
        {"s": seconds},
    )


def test_a_plan_that_its_run_has_left_says_so(
    conn: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run looks every 5 s; it crashed, say, and nobody goes on by himself."""
    two = wanting(settings, 2)
    plan = stored(conn, two)
    assert not plan.deserted(two)
    silent_for(conn, 20)
    assert not approvals.look(two, plan.id).deserted(two), "three looks, and a moment for a busy machine"
    silent_for(conn, 60)
    assert approvals.look(two, plan.id).deserted(two)
    assert approvals.watch(two, plan.id).detail["rehearsed"] == 3.5
    assert not approvals.look(two, plan.id).deserted(two), "it is there again"

    silent_for(conn, 60)
    said = [decided(two, plan, name, capsys) for name in ("Grace", "Barbara")]
    first, last = (f"plan {plan.hash} of dev is approved by {names}" for names in ("Grace", "Grace, Barbara"))
    assert said == [
        f"{first}; 1 more to come\nits run no longer waits: it has crashed, was cancelled, or hangs; when all have "
        "agreed, `kg deploy` takes it up; before that, it would ask anew\n",
        f"{last}\nits run no longer waits: it has crashed, was cancelled, or hangs. To go on: kg deploy dev, which "
        "takes up this plan and its approvals\n",
    ]
    assert not approvals.look(two, plan.id).deserted(two), "people are no longer waited for"


def decided(settings: Settings, plan: Waiting, name: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `kg approve` says."""
    before = approvals.look(settings, plan.id)
    after = approvals.decide(settings, plan.id, "approve", name)
    show_approval(WaitingDocument.of(after, deserted=before.deserted(settings)))
    return capsys.readouterr().out


def test_a_plan_that_is_watched_goes_on(
    conn: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    one = wanting(settings, 1)
    plan = stored(conn, one)
    assert decided(one, plan, "Grace", capsys) == f"plan {plan.hash} of dev is approved by Grace; it goes on\n"


def test_the_list_names_a_plan_that_its_run_has_left(
    conn: Connection, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = stored(conn, wanting(settings, 1))
    show_approvals([WaitingDocument.of(plan, deserted=True)])
    assert "waiting, deserted by its run" in capsys.readouterr().out
