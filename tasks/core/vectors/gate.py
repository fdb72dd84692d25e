"""May the new index take the old one's place? Each question with its answer and figure; one "failed" shuts the gate."""

from __future__ import annotations

from collections.abc import Iterator

from tasks.core.schema.report import CheckResult, failed, ok, skipped
from tasks.core.settings import ReindexSettings
from tasks.core.vectors.guide import CHEAPER, SMALL_TABLE
from tasks.core.vectors.indexes import HnswIndex
from tasks.core.vectors.plan import BuildPlan
from tasks.core.vectors.recall import Figures, Recall


def examine(
    index: HnswIndex | None, plan: BuildPlan, before: Figures | None, after: Figures | None, wanted: ReindexSettings
) -> tuple[CheckResult, ...]:
    """`before` is None where the old index answered no probe; `after` where there was nothing to ask the new one."""
    return (*_as_planned(index, plan), *_as_good(before, after, wanted), *_by_default(plan.rows, before, after))


def _as_planned(index: HnswIndex | None, plan: BuildPlan) -> Iterator[CheckResult]:
    if index is None:
        yield failed("valid", "the new index is not there")
        return
    yield ok("valid", "valid and ready") if index.valid else failed("valid", "the new index is INVALID")
    found = index.operator_class
    yield (ok if found == plan.operator_class else failed)(
        "operator class", found if found == plan.operator_class else f"{found}, searches need {plan.operator_class}"
    )
    options, planned = (f"m={one.m}, ef_construction={one.ef_construction}" for one in (index, plan))
    yield (
        ok("parameters", options) if options == planned else failed("parameters", f"{options}, planned were {planned}")
    )


def _as_good(before: Figures | None, after: Figures | None, wanted: ReindexSettings) -> Iterator[CheckResult]:
    if after is None:
        for name in ("recall", "worst probe", "recall in a language", "P95"):
            yield skipped(name, "the table has no vectors to ask for")
        return
    yield _recall("recall", before.recall if before else None, after.recall, wanted, floor=wanted.recall_floor)
    yield _worst(after.recall, wanted)
    if after.filtered:
        yield _recall("recall in a language", before.filtered if before else None, after.filtered, wanted, floor=0.0)
    else:
        yield skipped("recall in a language", "no probe has a language")
    yield _p95(before, after, wanted)


def _by_default(rows: int, before: Figures | None, after: Figures | None) -> Iterator[CheckResult]:
    """pgvector's cost of an index grows by leaps with rows, m and ef_search: a good one can be passed over."""
    if after is None:
        return
    if after.by_default:
        yield ok("planner", "searches use it by themselves")
    elif rows < SMALL_TABLE:
        yield ok("planner", "a table so small is read whole, rightly")
    elif before and before.by_default:
        yield failed("planner", f"searches would read the whole table, and used the old index: {CHEAPER}")
    else:
        yield skipped("planner", f"searches read the whole table, as before: {CHEAPER}")


def _recall(name: str, before: Recall | None, after: Recall, wanted: ReindexSettings, *, floor: float) -> CheckResult:
    said = f"{after.mean:.3f}, before {before.mean:.3f}" if before else f"{after.mean:.3f}, nothing to compare with"
    if after.mean < floor:
        return failed(name, f"{said}: under the environment's floor {floor:.2f}")
    if before and after.mean < before.mean - wanted.recall_tolerance:
        return failed(name, f"{said}: worse by more than {wanted.recall_tolerance:.2f}")
    return ok(name, said)


def _worst(after: Recall, wanted: ReindexSettings) -> CheckResult:
    said = f"the worst of {after.probes} probes finds {after.minimum:.2f}"
    if after.minimum < wanted.minimum_floor:
        return failed("worst probe", f"{said}, the environment's floor is {wanted.minimum_floor:.2f}")
    return ok("worst probe", said)


def _p95(before: Figures | None, after: Figures, wanted: ReindexSettings) -> CheckResult:
    if before is None:
        said = f"{after.p95_ms:.1f} ms, nothing to compare with"
        return ok("P95", said) if after.p95_ms <= wanted.slow_ms else failed("P95", f"{said}: over {wanted.slow_ms} ms")
    limit = before.p95_ms * wanted.p95_factor + wanted.p95_margin_ms
    said = f"{after.p95_ms:.1f} ms, before {before.p95_ms:.1f} ms"
    if after.p95_ms > limit:
        return failed("P95", f"{said}: more than the {limit:.1f} ms allowed")
    return ok("P95", said)
