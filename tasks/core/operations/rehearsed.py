"""What a rehearsal found out about one migration, and how people read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tasks.core.schema.observing import Lock, Observed

_UNCOUNTED = "by their number: updates are not counted outside a transaction"


@dataclass(frozen=True)
class Rehearsed:
    """One migration on the copy. Seconds of its way up, and of its way down (None: it has none, or one above has none).

    `rows` of the tables that it locks, as they are in the copy. `rights`: whose it was tried with. `changed`: what its
    way up does to the rows of tables that were there before; `counted`: exactly, or else by their number only.
    """

    revision: str
    name: str
    up_seconds: float
    down_seconds: float | None
    statements: tuple[Observed, ...]
    rows: Mapping[str, int]
    rights: str = ""
    changed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    counted: bool = True

    def to_detail(self) -> dict[str, Any]:
        """For the operation's row in the journal; `said` is what people read of it later."""
        return {**asdict(self), "said": str(self)}

    def __str__(self) -> str:
        found = [lock for each in self.statements for lock in each.locks]
        locks = {lock.table: lock.mode for lock in sorted(found, key=Lock.strength)}  # the strongest stays
        held = ", ".join(f"{mode} on {table} ({self.rows.get(table, 0):,} rows)" for table, mode in locks.items())
        down = "no way down" if self.down_seconds is None else f"down {self.down_seconds:.2f} s"
        said = f"rehearsed {self.revision} {self.name}: up {self.up_seconds:.2f} s, {down}"
        rights = f"; with the rights of {self.rights}" if self.rights else ""
        return f"{said}; locks: {held or 'none of ours'}{self._rows_changed()}{rights}"

    def _rows_changed(self) -> str:
        each = (
            f"{table} {', '.join(f'{count:,} {kind}' for kind, count in kinds.items())}"
            for table, kinds in self.changed.items()
        )
        rows = "; ".join(each)
        if self.counted:
            return f"; rows: {rows}" if rows else ""
        return f"; rows: {rows or 'none more or fewer'} ({_UNCOUNTED})"


def changes(
    before: Mapping[str, int], after: Mapping[str, int], counted: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """What a way up did to the rows that were `before` by table: `counted` as the server counted it in the transaction,
    and what no counter has, by the difference: a TRUNCATE, a dropped table, scripts outside a transaction.
    """
    found = {table: dict(kinds) for table, kinds in counted.items()}
    for table, rows in before.items():
        kinds = found.setdefault(table, {})
        left = after.get(table, 0)
        uncounted = rows + kinds.get("inserted", 0) - kinds.get("deleted", 0) - left
        if table not in after:
            found[table] = {"dropped": rows} if rows else {}
        elif uncounted:
            kinds["removed" if uncounted > 0 else "added"] = abs(uncounted)
    return {table: kinds for table, kinds in found.items() if kinds}
