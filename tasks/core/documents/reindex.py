"""What `kg reindex --json` prints: each index with its advice, what was built anew, and what tuning found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from tasks.core.documents.base import CheckItem, Document, Part
from tasks.core.settings import Environment

if TYPE_CHECKING:
    from tasks.core.vectors.advice import Advice
    from tasks.core.vectors.recall import Figures
    from tasks.core.vectors.reindex import Rebuilt
    from tasks.core.vectors.tune import Candidate


class RecallItem(Part):
    """Share of the ten nearest that is found, 0 to 1, over so many probes."""

    mean: float
    minimum: float = Field(description="Of the probe that is answered worst")
    probes: int


class FiguresItem(Part):
    """An index as measured. Latencies in milliseconds."""

    recall: RecallItem
    filtered: RecallItem | None = Field(None, description="The same among rows of the probe's own language")
    p50_ms: float
    p95_ms: float
    how: str = Field(description="In which way the probes were made to run on this index")
    by_default: bool = Field(True, description="False: the planner by itself would read the whole table instead")

    @classmethod
    def of(cls, figures: Figures) -> Self:
        return cls.model_validate(_same(cls, figures))


class FindingItem(Part):
    """One line of an advice."""

    what: str
    figure: str = Field(description="As measured, for people")
    verdict: Literal["ok", "rebuild", "note", "unknown"]
    why: str


class IndexAdvice(Part):
    """One vector index. Sizes in bytes, latencies in milliseconds."""

    name: str
    table: str
    column: str
    advice: Literal["keep", "rebuild"]
    reasons: tuple[str, ...]
    rows: int
    rows_at_build: int | None = None
    size_bytes: int
    valid: bool
    parameters: dict[str, int] = Field(description="m and ef_construction as they are")
    suggested: dict[str, int] = Field(description="... and as they should be for so many rows")
    build_memory_bytes: int | None = Field(None, description="maintenance_work_mem that a build in memory needs")
    p50_ms: float | None = None
    p95_ms: float | None = None
    recall: RecallItem | None = None
    filtered: RecallItem | None = Field(None, description="Recall among rows of the probe's own language")
    findings: tuple[FindingItem, ...] = ()
    of_revision: bool = Field(True, description="False: somebody's own index, which no migration makes")

    @classmethod
    def of(cls, advice: Advice) -> Self:
        derived = {
            "advice": "rebuild" if advice.reasons else "keep",
            "parameters": {"m": advice.m, "ef_construction": advice.ef_construction},
            "suggested": dict(zip(("m", "ef_construction"), advice.suggested, strict=True)),
        }
        return cls.model_validate({**_same(cls, advice), **derived})


class IndexRebuild(Part):
    """An index that was built anew. Sizes in bytes, durations in seconds."""

    name: str
    table: str
    rows: int
    parameters: dict[str, int]
    before: FiguresItem | None = Field(None, description="None: the old index answered no search, or there are no rows")
    after: FiguresItem | None = None
    checks: tuple[CheckItem, ...] = ()
    build_seconds: float
    expected_seconds: float | None = Field(None, description="As predicted from a sample before the start")
    seconds_without_index: float | None = Field(0.0, description="None: there was none before")
    maintenance_work_mem_bytes: int
    parallel_workers: int = Field(description="The most that were seen at work")
    size_bytes_before: int
    size_bytes_after: int
    left: str | None = Field(None, description="The old index under its new name, where it could not be dropped yet")

    @classmethod
    def of(cls, done: Rebuilt) -> Self:
        return cls(
            name=done.index,
            table=done.table,
            rows=done.plan.rows,
            parameters={"m": done.plan.m, "ef_construction": done.plan.ef_construction},
            before=FiguresItem.of(done.before) if done.before else None,
            after=FiguresItem.of(done.after) if done.after else None,
            checks=tuple(CheckItem.of(check) for check in done.checks),
            build_seconds=round(done.built.seconds, 3),
            expected_seconds=done.plan.expected_seconds,
            seconds_without_index=0.0 if done.before else None,
            maintenance_work_mem_bytes=done.plan.maintenance_work_mem,
            parallel_workers=done.built.workers,
            size_bytes_before=done.size_before,
            size_bytes_after=done.size_after,
            left=done.left,
        )


class TunedItem(Part):
    """A candidate of `--tune`, measured on a sample of `rows` rows. Times in seconds and ms, size in bytes."""

    index: str
    m: int
    ef_construction: int
    rows: int
    recall: float
    recall_minimum: float
    p50_ms: float
    p95_ms: float
    build_seconds: float
    size_bytes: int
    best: bool = Field(False, description="The quickest search among those that meet the environment's floors")

    @classmethod
    def of(cls, index: str, candidate: Candidate, *, best: bool) -> Self:
        return cls(index=index, best=best, **asdict(candidate))


class ReindexDocument(Document):
    """`kg reindex`."""

    environment: Environment
    applied: bool = Field(False, description="False: advice only, nothing was built")
    indexes: tuple[IndexAdvice, ...] = Field(description="With --apply: as they were before it")
    rebuilt: tuple[IndexRebuild, ...] = ()
    tuned: tuple[TunedItem, ...] = ()

    @classmethod
    def of(
        cls,
        environment: Environment,
        advice: Sequence[Advice],
        *,
        rebuilt: Sequence[Rebuilt] = (),
        tuned: Sequence[TunedItem] = (),
        applied: bool = False,
    ) -> Self:
        return cls(
            environment=environment,
            applied=applied,
            indexes=tuple(IndexAdvice.of(each) for each in advice),
            rebuilt=tuple(IndexRebuild.of(each) for each in rebuilt),
            tuned=tuple(tuned),
        )


def _same(model: type[Part], value: Advice | Figures) -> dict[str, object]:
    """The fields of `value` that the model has under the same name."""
    return {name: found for name, found in asdict(value).items() if name in model.model_fields}
