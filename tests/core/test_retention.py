"""Retention: what may go, and above all what may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.backup.manifest import (
    DUMP,
    Backup,
    Identity,
    Manifest,
    Proof,
    ServerFacts,
    StoredObject,
    Toc,
    ToolFacts,
    new_id,
)
from tasks.core.backup.retention import RetentionPlan, Standing, plan
from tasks.core.settings import RetentionSettings

NOW = datetime(2026, 5, 1, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
OURS = Identity(uuid="9f0c", system_identifier="7001", name="kg")
THEIRS = Identity(uuid="9f0c", system_identifier="7002", name="kg")
WEEK = RetentionSettings(days=7, minimum_proved=1)


def backup(
    age_days: float, *, proved: bool = True, revision: str = "001", database: Identity = OURS, ok: bool = True
) -> Backup:
    created = NOW - age_days * DAY
    manifest = Manifest(
        id=new_id(created),
        environment="dev",
        created=created,
        revision=revision,
        scope="database",
        database=database,
        server=ServerFacts(version="18.6", major=18, encoding="UTF8", collation="C"),
        tool=ToolFacts(pg_dump="18.6", pg_dump_major=18, zstd_level=1),
        tables={},
        samples={},
        sequences=(),
        our_schema="public",
        our_tables=(),
        fingerprint="1:00",
        roles=(),
        extensions={},
        objects=(StoredObject(name=DUMP, plain_bytes=9, plain_sha256="p", stored_bytes=4, stored_sha256="s"),),
        toc=Toc(entries=1, sha256="t"),
        snapshot_held_seconds=0.1,
    ).sealed()
    values: dict[str, Any] = {"backup": manifest.id, "manifest": manifest.checksum, "ok": ok, "created": created}
    return Backup(manifest=manifest, proof=Proof(**values, grade="restorable") if proved else None)


def decide(backups: list[Backup], policy: RetentionSettings = WEEK, now: datetime = NOW, **facts: Any) -> RetentionPlan:
    return plan(backups, policy, now, Standing(OURS, **facts))


def deleted(decided: RetentionPlan) -> set[str]:
    return {decision.id for decision in decided.delete}


def test_older_than_the_window_goes_and_the_rest_stays() -> None:
    assert RetentionSettings() == WEEK, "seven days by default"
    nights = [backup(age) for age in (20, 9, 7.5, 6.5, 1, 0)]
    decided = decide(nights)
    assert deleted(decided) == {nights[0].id, nights[1].id, nights[2].id}
    assert [decision.id for decision in decided.keep] == [each.id for each in nights[3:]]
    assert {reason for _, reason in decided.delete} == {"older than 7 days"}
    assert decided.stored_bytes[nights[0].id] == 4


def test_weeks_and_months_keep_their_newest_proved() -> None:
    nights = [backup(age) for age in range(120, -1, -1)]
    plain = decide(nights)
    assert len(plain.keep) == 8
    longer = decide(nights, RetentionSettings(days=7, weekly=4, monthly=3))
    assert deleted(longer) < deleted(plain)
    added = [decision.reason for decision in longer.keep if decision.id in deleted(plain)]
    assert added == [f"the newest proved of the {name}" for name in ("month 2026-03", "week 2026-W15", "week 2026-W16")]
    never = [backup(age, proved=False) for age in (30, 60, 90)]
    assert deleted(decide([*never, backup(0)], RetentionSettings(weekly=9, monthly=9))) == {b.id for b in never}


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(0, 8), st.integers(0, 14))
def test_more_keeps_never_delete_more(ages: list[int], weekly: int, monthly: int) -> None:
    nights = [backup(age) for age in ages]
    more = RetentionSettings(days=7, weekly=weekly, monthly=monthly)
    assert deleted(decide(nights, more)) <= deleted(decide(nights))


def test_each_reason_is_given() -> None:
    before_deploy, other, referred, first = (
        backup(40),
        backup(30, database=THEIRS),
        backup(35),
        backup(50, revision="000"),
    )
    recent, newest = backup(1), backup(0)
    decided = decide(
        [first, before_deploy, referred, other, recent, newest],
        revisions=frozenset({"000", "001"}),
        deployed=NOW - 38 * DAY,
        protected={referred.id: "an unfinished deploy refers to it"},
    )
    assert dict(decided.keep) == {
        first.id: "the newest proved of revision 000",
        before_deploy.id: "the newest proved before the newest deploy",
        referred.id: "an unfinished deploy refers to it",
        other.id: "of another database (kg)",
        recent.id: "not older than 7 days",
        newest.id: "the newest proved",
    }
    assert decided.delete == ()


def test_a_failed_proof_is_none() -> None:
    good, bad = backup(10), backup(0, ok=False)
    assert deleted(decide([good, bad])) == set()


def test_fifteen_failed_nights_delete_nothing_good() -> None:
    nights = [backup(age) for age in range(14, -1, -1)]
    good = {each.id for each in nights if each.id not in deleted(decide(nights))}
    for failed in range(1, 16):
        later = NOW + failed * DAY
        nights.append(backup(-failed, proved=False))
        gone = deleted(decide(nights, now=later))
        assert not gone & good
        nights = [each for each in nights if each.id not in gone]
    assert good <= {each.id for each in nights}


def test_nights_without_any_backup_delete_nothing() -> None:
    nights = [backup(age) for age in range(6, -1, -1)]
    assert deleted(decide(nights, now=NOW + 400 * DAY)) == set()


def test_a_backup_from_the_future_deletes_nothing() -> None:
    assert deleted(decide([backup(30), backup(20), backup(0), backup(-2, proved=False)])) == set()


def test_a_jumped_clock_deletes_nothing() -> None:
    years = timedelta(days=3 * 365)
    nights = [backup(age) for age in range(6, -1, -1)]
    assert deleted(decide(nights, now=NOW + years)) == set()
    assert deleted(decide(nights, now=NOW - years)) == set()
    assert deleted(decide([*nights, backup(-3 * 365)], now=NOW + years)) == set()


def test_after_a_pause_the_second_backup_lets_the_old_ones_go() -> None:
    before, first, second = backup(100), backup(1), backup(0)
    assert deleted(decide([before, first])) == set()
    assert deleted(decide([before, first, second])) == {before.id}


def test_a_hold_deletes_nothing() -> None:
    decided = plan([backup(30), backup(0)], WEEK, NOW, Standing(OURS), hold="the clocks differ")
    assert decided.delete == ()
    assert "the clocks differ" in dict(decided.keep).values()


@pytest.mark.parametrize("minimum", [1, 2, 3, 5])
def test_the_minimum_is_kept_whatever_their_age(minimum: int) -> None:
    nights = [backup(age) for age in (60, 50, 40, 30, 20, 10)]
    decided = decide(nights, RetentionSettings(days=1, minimum_proved=minimum))
    assert len(decided.keep) == minimum


def test_an_unproved_backup_goes_only_behind_proved_ones() -> None:
    old, other = backup(20, proved=False), backup(8, proved=False)
    assert deleted(decide([old, other])) == set()
    assert deleted(decide([old, other, backup(0)])) == {old.id, other.id}
    assert deleted(decide([old, other, backup(0)], RetentionSettings(days=7, minimum_proved=2))) == set()


ages = st.floats(min_value=-3, max_value=60, allow_nan=False)
some_backups = st.lists(
    st.builds(
        backup,
        ages,
        proved=st.booleans(),
        ok=st.booleans(),
        revision=st.sampled_from(["", "001", "002", "003"]),
        database=st.sampled_from([OURS, OURS, OURS, THEIRS, Identity(name="kg")]),
    ),
    max_size=14,
)
policies = st.builds(
    RetentionSettings, days=st.integers(min_value=1, max_value=30), minimum_proved=st.integers(min_value=1, max_value=5)
)
offsets = st.one_of(st.just(0.0), st.floats(min_value=-4000, max_value=4000, allow_nan=False))


@given(some_backups, policies, offsets, st.sets(st.sampled_from(["001", "002", "003"])), st.data())
def test_what_never_goes(
    backups: list[Backup], policy: RetentionSettings, offset: float, revisions: set[str], data: st.DataObject
) -> None:
    now = NOW + offset * DAY
    deployed = data.draw(st.one_of(st.none(), ages.map(lambda age: NOW - age * DAY)))
    referred = data.draw(st.lists(st.sampled_from(backups), max_size=2)) if backups else []
    standing = Standing(OURS, frozenset(revisions), deployed, {each.id: "referred to" for each in referred})
    decided = plan(backups, policy, now, standing)
    gone = deleted(decided)

    own = sorted((b for b in backups if b.manifest.database.is_same(OURS)), key=lambda b: (b.created, b.id))
    proved = [each for each in own if each.proved]
    left = [each for each in proved if each.id not in gone]
    assert {d.id for d in decided.keep} | gone == {b.id for b in backups}
    assert len(decided.keep) + len(decided.delete) == len(backups)
    assert gone <= {b.id for b in own}, "another database's is never touched"
    assert not gone & {b.id for b in referred}
    assert not proved or proved[-1].id not in gone, "the newest proved stays"
    assert len(left) >= min(policy.minimum_proved, len(proved))
    for revision in revisions:
        of_it = [b for b in proved if b.manifest.revision == revision]
        assert not of_it or of_it[-1].id not in gone
    if deployed:
        before = [b for b in proved if b.created <= deployed]
        assert not before or before[-1].id not in gone
    if any(b.created > now + timedelta(hours=1) for b in own):
        assert not gone, "a backup from the future"
    assert all(b.created < now - policy.days * DAY for b in own if b.id in gone), "what is young stays"
    assert all(reason for _, reason in (*decided.keep, *decided.delete))


@given(some_backups, policies)
def test_pruning_twice_deletes_nothing_more(backups: list[Backup], policy: RetentionSettings) -> None:
    gone = deleted(decide(backups, policy))
    assert deleted(decide([each for each in backups if each.id not in gone], policy)) == set()
