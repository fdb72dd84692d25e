"""What chaos does, and what came of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, get_args

What = Literal["deploy", "revert", "restore", "reset", "whole database", "kg deploy"]
Victim = Literal["kg", "server -9", "server immediate"]
VICTIMS: tuple[Victim, ...] = get_args(Victim)


@dataclass(frozen=True)
class Kill:
    """Of `victim` during `what`: at its Nth event, or (`after`, in seconds) at a moment. `again`: recover dies too.
    `rival`: a second deploy races it, and must not be let in beside it. "kg deploy" is the whole command.
    """

    what: What
    victim: Victim
    event: int = 0
    after: float = 0.0
    again: int = 0
    rival: bool = False

    def __str__(self) -> str:
        when = f"at event {self.event}" if self.event else f"after {self.after:.2f} s"
        also = f"{f', recover at {self.again}' if self.again else ''}{', with a rival' if self.rival else ''}"
        return f"{self.victim} {when} of {self.what}{also}"


@dataclass
class Tally:
    kills: int = 0
    missed: int = 0
    recoveries: int = 0
    lost: int = 0
    rows: int = 0
    slowest: float = 0.0
    actions: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    rivals: Counter[str] = field(default_factory=Counter)
    victims: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"kills {self.kills} (and {self.missed} that came too late), recoveries {self.recoveries} (slowest "
            f"{self.slowest:.1f} s), wrong states {len(self.wrong)}, lost committed rows {self.lost} of {self.rows}\n"
            f"  killed: {dict(self.victims)}\n"
            f"  ended at: {dict(self.ends)}; recover: {dict(self.actions) or 'nothing to do'}; "
            f"rivals: {dict(self.rivals) or 'none'}"
        )
