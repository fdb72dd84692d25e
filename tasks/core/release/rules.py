"""When an environment may be changed and who must agree, as its TOML says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from dateutil.rrule import rrulestr
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

# What an RRULE without a DTSTART counts from: with INTERVAL=2 it decides which week is meant. A Monday.
RRULE_START = datetime(2024, 1, 1)  # wall time: the window's own time zone comes later
LONGEST = timedelta(days=14)
YEAR = timedelta(days=366)


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is not a time zone; Europe/Berlin is one") from error
    return name


class ApprovalSettings(BaseModel):
    """Who must agree to a deploy between its preparation and its migration, and how it waits for its window."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    required: int = Field(0, ge=0, le=5, description="How many people, none of them the one who started it")
    expire: timedelta = Field(
        timedelta(days=1), gt=timedelta(0), le=YEAR, description="A decision counts, and is waited for"
    )
    poll: timedelta = Field(
        timedelta(seconds=5), gt=timedelta(0), le=timedelta(hours=1), description="How often kg_ops is asked for one"
    )
    notice: timedelta = Field(
        timedelta(minutes=30), ge=timedelta(0), le=YEAR, description="Heads-up before a window opens"
    )


class WindowRule(BaseModel):
    """A maintenance window that recurs: a cron line or an RRULE says when it opens, on the clocks of `timezone`.

    A wall time that a change of clocks leaves out opens when the clocks have jumped; one that comes twice opens the
    first time. The duration is real time, whatever the clocks do in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str = Field("", description="Five fields: '0 2 * * SUN'")
    rrule: str = Field("", description="'FREQ=MONTHLY;BYDAY=2SA;BYHOUR=22;BYMINUTE=0', DTSTART on a line before it")
    duration: timedelta = Field(gt=timedelta(0), le=LONGEST, description="How long it is open: PT2H")
    timezone: str = Field("UTC", description="Whose clocks: Europe/Berlin")

    _known_zone = field_validator("timezone")(_zone)

    @model_validator(mode="after")
    def _recurs(self) -> Self:
        if bool(self.cron) == bool(self.rrule):
            raise ValueError("a window has either cron or rrule")
        if self.cron and len(self.cron.split()) != 5:
            raise ValueError(f"cron {self.cron!r} has {len(self.cron.split())} fields, not five")
        what = f"cron {self.cron!r}" if self.cron else f"rrule {self.rrule!r}"
        if any(word in self.rrule.upper() for word in ("SECONDLY", "MINUTELY", "TZID")):
            raise ValueError("rrule: HOURLY at the most often, and timezone says whose clocks")
        if self.rrule and "FREQ=" not in self.rrule.upper():
            raise ValueError(f"{what} is none; FREQ=WEEKLY;BYDAY=SU;BYHOUR=2;BYMINUTE=0 is one")
        if re.search(r"INTERVAL=0*(?![0-9])", self.rrule.upper()):  # dateutil would look for its next time for ever
            raise ValueError(f"{what}: INTERVAL is 1 at least")
        try:
            opens = next(self.wall_times(RRULE_START), None)
        except (CronSimError, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{what}: {error}") from error
        if opens is None or opens.year == datetime.max.year:
            raise ValueError(f"{what} never opens")
        return self

    def wall_times(self, after: datetime) -> Iterator[datetime]:
        """When it opens, on its own clocks, later than `after` (both without a time zone)."""
        if self.cron:
            return iter(CronSim(self.cron, after))
        return iter(rrulestr(self.rrule, dtstart=RRULE_START).xafter(after))

    def openings(self, since: datetime) -> Iterator[tuple[datetime, datetime]]:
        """(opens, shuts) in UTC, by when it opens: those that shut after `since`, and then for ever."""
        zone = ZoneInfo(self.timezone)
        for wall in self.wall_times((since - self.duration).astimezone(zone).replace(tzinfo=None) - timedelta(days=1)):
            opens = instant(wall, zone)
            if opens + self.duration > since:
                yield opens, opens + self.duration


class Freeze(BaseModel):
    """A time in which no window opens, from its beginning to (without) its end."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    begin: datetime | date = Field(alias="from", description="2026-12-20, or with a time: 2026-12-20T18:00:00")
    until: datetime | date = Field(description="A date counts as its midnight")
    timezone: str = Field("UTC", description="Whose clocks, where from and until do not say it")
    reason: str = Field("", description="Shown to who is kept waiting")

    _known_zone = field_validator("timezone")(_zone)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        try:
            ordered = self.start < self.end
        except OverflowError as error:
            raise ValueError("a freeze is within the calendar: until = 9999-12-31 is its last day") from error
        if not ordered:
            raise ValueError("a freeze ends after it begins")
        return self

    @property
    def start(self) -> datetime:
        """In UTC."""
        return _moment(self.begin, self.timezone)

    @property
    def end(self) -> datetime:
        """In UTC."""
        return _moment(self.until, self.timezone)


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment in UTC of a wall time: the first of two, and the end of the gap for one that is left out."""
    first = wall.replace(tzinfo=zone).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    low, high = wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first
    before = low.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):  # the clocks jump between these two
        middle = (low + (high - low) / 2).replace(microsecond=0)
        low, high = (middle, high) if middle.astimezone(zone).utcoffset() == before else (low, middle)
    return high


def _moment(value: datetime | date, timezone: str) -> datetime:
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.astimezone(UTC) if value.tzinfo else instant(value, ZoneInfo(timezone))
