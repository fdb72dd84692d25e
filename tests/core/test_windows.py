"""Maintenance windows: which time is open, whatever the clocks do. Beside a model that walks every minute."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.release.prediction import MARGIN, factor, predict, ratio
from tasks.core.release.rules import Freeze, WindowRule, instant
from tasks.core.release.windows import Opening, next_window, openings
from tasks.core.settings import Settings, load_settings

unhurried = examples(deadline=None, max_examples=60)  # a busy machine is no fault of a window

BERLIN = ZoneInfo("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rule(cron: str, hours: float, timezone: str = "UTC") -> WindowRule:
    return WindowRule(cron=cron, duration=timedelta(hours=hours), timezone=timezone)


def frozen(begin: Any, until: Any, **more: Any) -> Freeze:
    return Freeze.model_validate({"from": begin, "until": until, **more})


def first(windows: Sequence[WindowRule], since: str, count: int = 1, freezes: Sequence[Freeze] = ()) -> list[str]:
    return [str(each) for each in islice(openings(windows, freezes, utc(since)), count)]


def with_windows(*windows: WindowRule, freeze: Sequence[Freeze] = ()) -> Settings:
    return load_settings("dev", {}).model_copy(update={"windows": windows, "freeze": tuple(freeze)})


# Hours of the day, weekdays and durations that cross midnight, overlap, touch and stand alone.
rules = st.builds(
    lambda hour, minute, days, minutes, zone: WindowRule(
        cron=f"{minute} {hour} * * {','.join(map(str, sorted(days)))}",
        duration=timedelta(minutes=minutes),
        timezone=zone,
    ),
    st.integers(0, 23),
    st.sampled_from([0, 30]),
    st.sets(st.integers(0, 6), min_size=1, max_size=7),
    st.integers(15, 2000),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)
# Around both changes of clocks of 2026 in these zones, and a quiet week.
moments = st.sampled_from(["2026-03-27", "2026-10-23", "2026-04-03", "2026-10-02", "2026-07-14"]).flatmap(
    lambda day: st.integers(0, 5 * 24 * 60).map(lambda minutes: utc(day) + timedelta(minutes=minutes))
)
freezes = st.builds(
    lambda start, minutes: frozen(start, start + timedelta(minutes=minutes)), moments, st.integers(1, 4000)
)


def is_open(windows: Sequence[WindowRule], frozen: Sequence[Freeze], now: datetime) -> bool:
    """The model: opened by some wall time of some day, not shut yet, not frozen."""
    if any(each.start <= now < each.end for each in frozen):
        return False
    for window in windows:
        minute, hour, _, _, days = window.cron.split()
        for back in range(-1, 4):
            zone = ZoneInfo(window.timezone)
            day = (now.astimezone(zone) - timedelta(days=back)).date()
            if str(day.isoweekday() % 7) not in days.split(","):
                continue
            opens = instant(datetime(day.year, day.month, day.day, int(hour), int(minute)), zone)
            if opens <= now < opens + window.duration:
                return True
    return False


@unhurried
@given(st.lists(rules, min_size=1, max_size=3), st.lists(freezes, max_size=2), moments, st.integers(0, 3000))
def test_open_is_what_the_model_says(
    windows: list[WindowRule], frozen: list[Freeze], since: datetime, after: int
) -> None:
    now = since + timedelta(minutes=after)
    found = any(each.is_open(now) for each in islice(openings(windows, frozen, since), 20))
    assert found == is_open(windows, frozen, now)


@unhurried
@given(st.lists(rules, min_size=1, max_size=3), st.lists(freezes, max_size=2), moments)
def test_openings_come_in_order_are_never_empty_and_never_overlap(
    windows: list[WindowRule], frozen: list[Freeze], since: datetime
) -> None:
    found = list(islice(openings(windows, frozen, since), 12))
    assert all(each.start < each.end and each.end > since for each in found)
    assert all(one.end <= other.start for one, other in pairwise(found))


@unhurried
@given(st.lists(rules, min_size=1, max_size=3), moments, st.integers(0, 600))
def test_the_next_window_is_the_first_that_is_long_enough(
    windows: list[WindowRule], now: datetime, minutes: int
) -> None:
    needed = timedelta(minutes=minutes)
    found = next_window(with_windows(*windows), now, needed)
    for each in islice(openings(windows, (), now), 50):
        if each == found:
            assert each.left(now) >= needed
            return
        assert each.left(now) < needed
    assert found is None or found.start > now + timedelta(days=7)


@unhurried
@given(moments)
def test_every_wall_time_has_one_moment_and_their_order_stays(moment: datetime) -> None:
    wall = moment.replace(tzinfo=None)
    here, later = instant(wall, BERLIN), instant(wall + timedelta(minutes=1), BERLIN)
    assert here <= later
    shown = here.astimezone(BERLIN).replace(tzinfo=None)
    assert shown == wall or (shown - wall <= timedelta(hours=1) and shown.minute == 0)


def test_clocks_that_jump_forward() -> None:
    """On 2026-03-29 02:00 to 03:00 is left out in Berlin: what would open then opens at 03:00, for as long."""
    night = rule("30 2 * * *", 2, "Europe/Berlin")
    assert first([night], "2026-03-28T12:00") == ["2026-03-29 01:00 to 03:00 UTC"]
    assert first([night], "2026-03-29T12:00") == ["2026-03-30 00:30 to 02:30 UTC"]


def test_clocks_that_go_back() -> None:
    """On 2026-10-25 02:30 comes twice in Berlin: open once, the first time."""
    night = rule("30 2 * * *", 1, "Europe/Berlin")
    assert first([night], "2026-10-24T12:00", 2) == [
        "2026-10-25 00:30 to 01:30 UTC",
        "2026-10-26 01:30 to 02:30 UTC",
    ]


def test_across_midnight_it_is_still_open() -> None:
    late = rule("0 23 * * SAT", 4)
    assert first([late], "2026-11-22T01:00") == ["2026-11-21 23:00 to 2026-11-22 03:00 UTC"]


def test_overlapping_and_touching_windows_are_one() -> None:
    windows = [rule("0 1 * * *", 2), rule("0 2 * * *", 2), rule("0 4 * * *", 1)]
    assert first(windows, "2026-11-22T00:00") == ["2026-11-22 01:00 to 05:00 UTC"]


def test_a_freeze_cuts_and_shuts() -> None:
    cut = frozen(datetime(2026, 11, 22, 2), datetime(2026, 11, 22, 3))
    assert first([rule("0 1 * * *", 3)], "2026-11-22T00:00", 2, [cut]) == [
        "2026-11-22 01:00 to 02:00 UTC",
        "2026-11-22 03:00 to 04:00 UTC",
    ]
    holidays = frozen(date(2026, 12, 20), date(2027, 1, 7), timezone="Europe/Berlin")
    assert first([rule("0 1 * * *", 1)], "2026-12-20T00:30", 1, [holidays]) == ["2027-01-07 01:00 to 02:00 UTC"]


def test_a_freeze_without_windows_shuts_what_is_else_always_open() -> None:
    settings = with_windows(freeze=[frozen(date(2026, 12, 20), date(2027, 1, 7))])
    inside = next_window(settings, utc("2026-12-24T18:00"))
    assert inside
    assert inside.start == utc("2027-01-07")
    before = next_window(settings, utc("2026-12-19T23:30"), timedelta(hours=1))
    assert before
    assert before.start == utc("2027-01-07")


def test_an_rrule_counts_on_its_own_clocks() -> None:
    second_saturday = WindowRule(
        rrule="FREQ=MONTHLY;BYDAY=2SA;BYHOUR=22;BYMINUTE=0;BYSECOND=0",
        duration=timedelta(hours=3),
        timezone="Europe/Berlin",
    )
    assert first([second_saturday], "2026-11-22T00:00") == ["2026-12-12 21:00 to 2026-12-13 00:00 UTC"]


def test_always_open_and_never_open() -> None:
    hourly = rule("0 * * * *", 1)
    assert next_window(with_windows(hourly), utc("2026-11-22T00:30"), timedelta(days=10))
    once = WindowRule(rrule="DTSTART:20250101T000000\nRRULE:FREQ=DAILY;COUNT=1", duration=timedelta(hours=1))
    assert next_window(with_windows(once), utc("2026-11-22T00:30")) is None
    assert next_window(with_windows(), utc("2026-11-22T00:30"), timedelta(hours=1)) is not None


def test_too_little_left_waits_for_the_next() -> None:
    settings = with_windows(rule("0 2 * * *", 2))
    now = utc("2026-11-22T03:30")
    assert next_window(settings, now, timedelta(minutes=30)) == Opening(
        utc("2026-11-22T02:00"), utc("2026-11-22T04:00")
    )
    assert next_window(settings, now, timedelta(minutes=31)) == Opening(
        utc("2026-11-23T02:00"), utc("2026-11-23T04:00")
    )
    assert next_window(settings, now, timedelta(hours=3)) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cron": "0 2 * *"}, "has 4 fields"),
        ({"cron": "0 26 * * *"}, "Bad hour"),
        ({"rrule": "FREQ=SOMETIMES"}, "rrule"),
        ({"rrule": "FREQ=MINUTELY"}, "HOURLY"),
        ({"rrule": "garbage"}, "is none; FREQ=WEEKLY"),
        ({"rrule": "FREQ=DAILY;INTERVAL=0"}, "INTERVAL is 1 at least"),
        ({"rrule": "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30"}, "never opens"),
        ({"rrule": "DTSTART:99991231T000000\nFREQ=DAILY"}, "never opens"),
        ({}, "either cron or rrule"),
        ({"cron": "0 2 * * *", "rrule": "FREQ=DAILY"}, "either cron or rrule"),
        ({"cron": "0 2 * * *", "timezone": "Mars/Olympus"}, "not a time zone"),
        ({"cron": "0 2 * * *", "duration": "PT0S"}, "greater than 0"),
    ],
)
def test_a_wrong_window_says_what_is_wrong(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        WindowRule.model_validate({"duration": "PT1H", **fields})


def test_a_freeze_ends_after_it_begins() -> None:
    with pytest.raises(ValidationError, match="ends after it begins"):
        frozen(date(2026, 12, 20), date(2026, 12, 20))


@pytest.mark.parametrize(("begin", "zone"), [(2026, "America/New_York"), (1, "Asia/Tokyo")])
def test_a_freeze_is_within_the_calendar(begin: int, zone: str) -> None:
    fields = {"from": datetime(begin, 1, 1), "until": datetime(9999, 12, 31, 23), "timezone": zone}
    with pytest.raises(ValidationError, match="within the calendar"):
        Freeze.model_validate(fields)


def test_three_times_the_rehearsal_until_three_deploys_are_known() -> None:
    assert factor([]) == factor([1.0, 1.2]) == MARGIN
    assert factor([1.0, 1.2, 0.9]) == 1.2
    assert factor([9.0] + [1.5] * 10) == 1.5
    assert ratio(0.2, 0.001) == 1.0
    assert ratio(30, 10) == 3.0
    assert predict(10, [], timedelta(minutes=5)).seconds == 30 + 300 + 30
    assert predict(10, [1, 2, 1.5], timedelta(0), again=60).seconds == 20 + 30 + 60
    assert "not rehearsed" in predict(None, [], timedelta(0)).because
