"""Build a vector index anew: beside the old one, proved at the gate, then swapped by name, then the old one dropped.

At every failure and at every kill an index serves the searches: the old one until the swap's commit, the new one from
then on. What an interrupted run leaves is named in the journal, and the next run drops it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from tasks.core.errors import OpsError, Refused
from tasks.core.operations.operation import Operation
from tasks.core.progress import note
from tasks.core.schema.report import CheckResult
from tasks.core.vectors.build import Built, build, drop, older_snapshots
from tasks.core.vectors.indexes import Target, hnsw_indexes, target_named, targets, working_name
from tasks.core.vectors.leftovers import drop_leftovers
from tasks.core.vectors.plan import BuildPlan, plan_build
from tasks.core.vectors.proving import measure_old, prove_new
from tasks.core.vectors.recall import Figures
from tasks.core.vectors.record import analyze, record_rebuild
from tasks.core.vectors.swap import swap


@dataclass(frozen=True)
class Rebuilt:
    """An index built anew and in its place. `before` is None where the old index answered no search; `left` names an
    old index that could not be dropped yet.
    """

    index: str
    table: str
    plan: BuildPlan
    built: Built
    before: Figures | None
    after: Figures | None
    checks: tuple[CheckResult, ...]
    size_before: int
    size_after: int
    left: str | None


def rebuild(operation: Operation, name: str, m: int | None = None, ef_construction: int | None = None) -> Rebuilt:
    """Build index `name` anew, with the guide's parameters where none are given.

    Raises UsageError (no such index, impossible parameters), Refused (it would last too long, or is not ours to build),
    ReindexFailed (the gate is shut, or the build was ended) and DatabaseError. The old index serves on then.
    """
    drop_leftovers(operation)
    target, plan = _prepare(operation, name, m, ef_construction)
    token = secrets.token_hex(4)
    new, old = working_name(name, "new", token), working_name(name, "old", token)
    with operation.step("re-index", index=name, new=new, old=old, m=plan.m, ef=plan.ef_construction) as outcome:
        with _removed_on_failure(operation, target, new):
            before = measure_old(operation, target)
            built = build(operation, target, plan, new)
            proof = prove_new(operation, target, plan, new, before)
            record = partial(record_rebuild, operation, name=name, plan=plan, built=built, after=proof.after)
            swap(operation, target, new, old, record)
        note(f"{name} is now the new index; searches were never without one")
        left = _drop_old(operation, target, old)
        size = _finish(operation, target)
        outcome |= {"seconds": round(built.seconds, 3), "recall": proof.after.recall.mean if proof.after else None}
    return Rebuilt(
        index=name,
        table=target.column.table,
        plan=plan,
        built=built,
        before=proof.before,
        after=proof.after,
        checks=proof.checks,
        size_before=target.found.size_bytes if target.found else 0,
        size_after=size,
        left=left,
    )


def _prepare(operation: Operation, name: str, m: int | None, ef_construction: int | None) -> tuple[Target, BuildPlan]:
    """The plan, said before anything starts, with whom the build will wait for."""
    with operation.session("re-index plan") as conn:
        target = target_named(targets(conn, operation.settings), name)
        if target.found and target.found.partial:
            raise Refused(f"{name} holds a part of its table only (it has a condition)", hint="build it by hand")
        plan = plan_build(conn, operation.settings, target, m, ef_construction)
        note(f"plan: {plan}")
        for line in (*plan.notes, *(() if plan.fits else (_too_small(plan), *plan.choices))):
            note(f"plan: {line}")
        for older in older_snapshots(conn):
            note(f"the build will wait for a transaction that is older: {older}")
    return target, plan


def _too_small(plan: BuildPlan) -> str:
    needed, given = (size // 2**20 for size in (plan.needed_bytes, plan.maintenance_work_mem))
    return f"the graph needs {needed:,} MB and {given:,} MB can be had: the build goes on, several times slower"


def _drop_old(operation: Operation, target: Target, old: str) -> str | None:
    """The name of the old index where it could not be dropped: the new one serves, and the next run tries again."""
    if target.found is None:
        return None
    try:
        with operation.session("re-index drop") as conn:
            drop(operation, conn, target.column.schema, old)
    except OpsError as error:
        note(f"the old index is still there as {old}, and the next re-index drops it: {error.message}")
        return old
    return None


def _finish(operation: Operation, target: Target) -> int:
    """ANALYZE; returns the new index's size."""
    with operation.session("re-index analyze") as conn:
        analyze(conn, target.column)
        found = next((one for one in hnsw_indexes(conn, operation.settings) if one.name == target.name), None)
    return found.size_bytes if found else 0


@contextmanager
def _removed_on_failure(operation: Operation, target: Target, new: str) -> Iterator[None]:
    """When the block fails the new index goes, whatever its state; the block's own error goes on."""
    try:
        yield
    except BaseException:
        try:
            with operation.session("re-index undo") as conn:
                drop(operation, conn, target.column.schema, new)
        except OpsError as error:
            note(f"{new} is left behind, and the next re-index drops it: {error.message}")
        raise
