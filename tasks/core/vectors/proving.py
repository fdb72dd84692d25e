"""The old index and the new one, measured and held against each other: what the gate decides by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks.core.errors import ReindexFailed
from tasks.core.operations.operation import Operation
from tasks.core.postgres.connections import Connection, describe
from tasks.core.progress import note, track
from tasks.core.schema.report import CheckResult
from tasks.core.vectors.gate import examine
from tasks.core.vectors.indexes import HnswIndex, Target, hnsw_indexes
from tasks.core.vectors.measure import measure
from tasks.core.vectors.plan import BuildPlan
from tasks.core.vectors.probes import Probe, WrongIndex, take_probes
from tasks.core.vectors.recall import Figures


@dataclass(frozen=True)
class Proof:
    """The gate's answers, and the figures behind them; None where an index answered no search, or none was asked."""

    before: Figures | None
    after: Figures | None
    checks: tuple[CheckResult, ...]

    @property
    def failed(self) -> tuple[CheckResult, ...]:
        return tuple(check for check in self.checks if check.status == "failed")


def measure_old(operation: Operation, target: Target) -> Figures | None:
    """None where the old index cannot answer: missing, INVALID, of another operator class, or empty."""
    if not (target.found and target.found.valid):
        return None
    with operation.session("re-index probes") as conn, track("probe-old", f"Probe {target.name}"):
        probes = take_probes(conn, target.column, operation.settings.reindex)
        try:
            return _measure(conn, operation, target, target.name, probes)
        except WrongIndex as error:
            note(f"{target.name} answers no search: {error.message}")
            return None


def prove_new(operation: Operation, target: Target, plan: BuildPlan, new: str, before: Figures | None) -> Proof:
    """Measure index `new` and hold it against `before`. Raises ReindexFailed where the gate stays shut."""
    with operation.session("re-index gate") as conn, track("probe-new", f"Probe {new}"):
        found = next((one for one in hnsw_indexes(conn, operation.settings) if one.name == new), None)
        proof = Proof(before, None, examine(found, plan, None, None, operation.settings.reindex))
        if not proof.failed:
            proof = _compare(conn, operation, target, plan, found, before)
    for check in proof.checks:
        note(f"gate: {check.name} {check.status}: {check.detail}")
    if proof.failed:
        barring = "; ".join(f"{check.name}: {check.detail}" for check in proof.failed)
        raise ReindexFailed(
            f"the new index does not take the place of {target.name}: {barring}",
            hint="the old index serves on; try a greater ef_construction or m; the floors are in the TOML ([reindex])",
        )
    return proof


def _compare(
    conn: Connection,
    operation: Operation,
    target: Target,
    plan: BuildPlan,
    found: HnswIndex | None,
    before: Figures | None,
) -> Proof:
    """Latency is what else goes on at that minute, too: where only P95 speaks against the new index both are asked
    once more, and the better time of each counts.
    """
    assert found is not None
    probes = take_probes(conn, target.column, operation.settings.reindex)
    before, after = _both(conn, operation, target, found.name, probes, before)
    if after:
        note(f"gate: the new index was measured {way(after.how)}")
    checks = examine(found, plan, before, after, operation.settings.reindex)
    if [check.name for check in checks if check.status == "failed"] == ["P95"]:
        note("gate: P95 is worse; both indexes are asked once more")
        before_again, after_again = _both(conn, operation, target, found.name, probes, before)
        before, after = _quicker(before, before_again), _quicker(after, after_again)
        checks = examine(found, plan, before, after, operation.settings.reindex)
    return Proof(before, after, checks)


def _both(
    conn: Connection,
    operation: Operation,
    target: Target,
    new: str,
    probes: tuple[Probe, ...],
    before: Figures | None,
) -> tuple[Figures | None, Figures | None]:
    """A superuser asks the old index again, next to the new one: the same rows, and the same minute."""
    if before and describe(conn).superuser:
        before = _measure(conn, operation, target, target.name, probes)
    return before, _measure(conn, operation, target, new, probes)


def _quicker(one: Figures | None, other: Figures | None) -> Figures | None:
    if one is None or other is None:
        return one
    return replace(one, p50_ms=min(one.p50_ms, other.p50_ms), p95_ms=min(one.p95_ms, other.p95_ms))


def _measure(
    conn: Connection, operation: Operation, target: Target, name: str, probes: tuple[Probe, ...]
) -> Figures | None:
    others = [(one.oid, one.name) for one in hnsw_indexes(conn, operation.settings) if _serves(one, target, name)]
    return measure(conn, target.column, name, probes, operation.settings.reindex, others=others)


def _serves(one: HnswIndex, target: Target, name: str) -> bool:
    """Whether a search on the target's column could run on it instead of on index `name`."""
    place = (one.table_name, one.column_name, one.operator_class)
    wanted = (target.column.table, target.column.name, target.operator_class)
    return one.valid and one.name != name and place == wanted


def way(how: str) -> str:
    """As the end of "was measured ..."."""
    return f"with {how}" if how.startswith("the other") else how
