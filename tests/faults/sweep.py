"""Every fault at every call of backup, read back, drill and prune: `python -m tests.faults.sweep` tries them all.

A run either goes well by trying again, or fails with a clear error; nothing incomplete is ever listed, and a clean
rerun comes to the same end. Prints a table: positions tried, survived, failed loudly, wrongly passed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import OpsError
from tasks.core.postgres.scratch import private_cluster
from tasks.core.settings import load_settings
from tests.faults.bed import OPERATIONS, Bed, Operation, Wrong, bed, is_clear
from tests.faults.proxy import FAULTS, Call, Fault


@dataclass(frozen=True)
class Case:
    """A fault at one position; `lasting`: there and at every later call."""

    operation: str
    position: int
    fault: Fault
    lasting: bool


@dataclass
class Tally:
    """What became of an operation's cases."""

    positions: set[int] = field(default_factory=set)
    survived: int = 0
    loud: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.survived + self.loud + len(self.wrong)


def count_calls(found: Bed, operation: Operation) -> int:
    """How many calls a run without faults makes."""
    found.fresh()
    operation.prepare(found)
    found.proxy.reset(lambda call: None)
    operation.run(found.through)
    operation.check(found)
    return len(found.proxy.calls)


def cases(found: Bed, names: Iterable[str], faults: Sequence[Fault] = FAULTS) -> Iterator[Case]:
    for name in names:
        for position in range(1, count_calls(found, OPERATIONS[name]) + 1):
            for fault in faults:
                for lasting in (False, True):
                    yield Case(name, position, fault, lasting)


def one_of_each(every: Iterable[Case]) -> list[Case]:
    """A sample for CI: every third position once, the faults in turn, every fourth lasting."""
    chosen: dict[tuple[str, int], list[Case]] = {}
    for case in every:
        chosen.setdefault((case.operation, case.position), []).append(case)
    picked = []
    for number, choices in enumerate(list(chosen.values())[::3]):
        wanted = (FAULTS[number % len(FAULTS)], number % 4 == 3)
        picked += [case for case in choices if (case.fault, case.lasting) == wanted]
    return picked


def attempt(found: Bed, case: Case) -> str:
    """ "survived" or "loud". Raises Wrong."""
    operation = OPERATIONS[case.operation]
    found.fresh()
    operation.prepare(found)

    def decide(call: Call) -> Fault | None:
        hit = call.number >= case.position if case.lasting else call.number == case.position
        return case.fault if hit else None

    found.proxy.reset(decide)
    try:
        operation.run(found.through)
    except OpsError as error:
        if not is_clear(error):
            raise Wrong(f"the error is not clear: {error}") from error
        outcome = "loud"
    else:
        outcome = "survived"
        operation.check(found)
    operation.never(found)
    operation.run(found.direct)  # a clean rerun
    operation.check(found)
    return outcome


def sweep(found: Bed, chosen: Iterable[Case], *, log: bool = False) -> dict[str, Tally]:
    """Try each; a wrong one is kept with its reason, and an error of another kind than ours is wrong, too."""
    tallies: dict[str, Tally] = {}
    for case in chosen:
        tally = tallies.setdefault(case.operation, Tally())
        tally.positions.add(case.position)
        begun = time.monotonic()
        try:
            outcome = attempt(found, case)
        except Exception as error:
            outcome = "WRONG"
            tally.wrong.append(f"{case}: {type(error).__name__}: {error}")
        tally.survived += outcome == "survived"
        tally.loud += outcome == "loud"
        if log:
            where = f"{case.operation} call {case.position} {case.fault}{' lasting' if case.lasting else ''}"
            print(f"{time.monotonic() - begun:5.1f} s  {outcome:<8}  {where}", file=sys.stderr, flush=True)
    return tallies


def table(tallies: dict[str, Tally]) -> str:
    rows = [("operation", "positions", "tried", "survived", "failed loudly", "wrongly passed")]
    rows += [
        (name, *map(str, (len(t.positions), t.tried, t.survived, t.loud, len(t.wrong)))) for name, t in tallies.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operation", choices=OPERATIONS, action="append", help="only these; default: all")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="only these; default: all")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, private_cluster(Path(folder)) as address:
        settings = load_settings("dev", {"KG_HOME": folder}).model_copy(update={"address": address})
        with bed(settings) as found:
            chosen = cases(found, words.operation or OPERATIONS, words.fault or FAULTS)
            tallies = sweep(found, list(chosen), log=True)
    print(table(tallies))
    wrong = [line for tally in tallies.values() for line in tally.wrong]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
