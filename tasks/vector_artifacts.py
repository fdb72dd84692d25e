"""What the reindex flow leaves on its page: the advice as a table, tuning and re-index as a table with its picture."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.artifacts import key_of, leave, picture
from tasks.core.markdown import inline
from tasks.core.settings import Environment
from tasks.core.vectors import pictures
from tasks.core.vectors.proving import way
from tasks.core.vectors.recall import Figures
from tasks.core.vectors.reindex import Rebuilt
from tasks.core.vectors.tune import Candidate


def rebuilt_artifact(environment: Environment, done: Rebuilt) -> None:
    """Before and after, the gate's answers, and what the build took."""
    plan, built = done.plan, done.built
    lines = [
        f"# {inline(done.index)} of {environment}, built anew",
        f"m={plan.m}, ef_construction={plan.ef_construction} over {plan.rows:,} vectors in {built.seconds:.1f} s, "
        f"{plan.maintenance_work_mem // 2**20:,} MB of maintenance_work_mem, parallel workers: {built.workers}.",
        "Searches were not without an index.",
        *([f"{plan.expected_seconds:.0f} s were forecast, from a sample."] if plan.expected_seconds else []),
        *([f"The new index was measured {way(done.after.how)}."] if done.after else []),
        "",
        *_compared(done.before, done.after, done.size_before, done.size_after),
        "",
        "| gate | | |",
        "|---|---|---|",
        *(f"| {check.name} | {check.status} | {inline(check.detail)} |" for check in done.checks),
        "",
        *(f"- it waited for {inline(one)}" for one in built.waited_for),
        *([f"- {inline(built.outgrown)}"] if built.outgrown else []),
        *([f"- the old index is still there as {inline(done.left)}"] if done.left else []),
        *picture(pictures.before_and_after(done.before, done.after), "recall and latency before and after"),
    ]
    leave("\n".join(lines), key=key_of(f"reindexed-{environment}-{done.index}"))


def tuned_artifact(
    environment: Environment, index: str, candidates: Sequence[Candidate], best: Candidate | None
) -> None:
    rows = candidates[0].rows if candidates else 0
    lines = [
        f"# Parameters for {inline(index)} of {environment}, measured on {rows:,} rows",
        "| m / ef_construction | recall@10 | worst | P50 | P95 | build | size | |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {one.m} / {one.ef_construction} | {one.recall:.3f} | {one.recall_minimum:.2f} | {one.p50_ms:.2f} ms "
            f"| {one.p95_ms:.2f} ms | {one.build_seconds:.1f} s | {one.size_bytes / 2**20:,.0f} MB "
            f"| {'best' if one == best else ''} |"
            for one in candidates
        ),
        "",
        *picture(pictures.curve(candidates), "recall over latency"),
    ]
    leave("\n".join(lines), key=key_of(f"tuned-{environment}-{index}"))


def _compared(before: Figures | None, after: Figures | None, size_before: int, size_after: int) -> list[str]:
    columns = (_told(before, size_before), _told(after, size_after))
    return ["| | before | after |", "|---|---|---|"] + [
        f"| {what} | {columns[0][what]} | {columns[1][what]} |" for what in columns[0]
    ]


def _told(figures: Figures | None, size: int) -> dict[str, str]:
    filtered = figures.filtered if figures else None
    return {
        "recall@10, mean": f"{figures.recall.mean:.3f}" if figures else "-",
        "recall@10, worst": f"{figures.recall.minimum:.2f}" if figures else "-",
        "recall@10 in a language": f"{filtered.mean:.3f}" if filtered else "-",
        "P50, ms": f"{figures.p50_ms:.2f}" if figures else "-",
        "P95, ms": f"{figures.p95_ms:.2f}" if figures else "-",
        "size, MB": f"{size / 2**20:,.0f}",
    }
