"""The documents that scripts rely on: their schemas are those of the checked-in file, and core's values fit in.

After a wanted change: `uv run python tests/core/test_documents.py` writes the file anew; look at the difference.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from flows.cli.options import StrategyName
from tasks.core import documents
from tasks.core.backup.retention import Decision, RetentionPlan
from tasks.core.documents import (
    BackupDocument,
    CheckItem,
    DeployDocument,
    Document,
    ErrorDetail,
    FailureDocument,
    PruneDocument,
    ReindexDocument,
    ReportDocument,
    RollbackDocument,
    attach,
    attached,
    to_json,
)
from tasks.core.errors import MigrationFailed
from tasks.core.schema.report import Report, failed, ok
from tasks.core.vectors.advice import Advice

CHECKED_IN = Path(__file__).with_name("documents.schema.json")


def schemas() -> dict[str, Any]:
    return {
        verb: model.model_json_schema(by_alias=True, mode="serialization")
        for verb, model in documents.DOCUMENTS.items()
    }


def test_the_schemas_are_the_checked_in_ones() -> None:
    assert schemas() == json.loads(CHECKED_IN.read_text()), "write it anew as this file's docstring says, and look"


def test_every_document_is_among_them() -> None:
    assert set(documents.DOCUMENTS.values()) == set(Document.__subclasses__())


@pytest.mark.parametrize("model", documents.DOCUMENTS.values(), ids=lambda model: model.__name__)
def test_every_document_says_schema_1(model: type[Document]) -> None:
    schema = model.model_json_schema(by_alias=True, mode="serialization")
    assert schema["properties"]["schema"]["const"] == 1
    assert "schema" in schema["required"]


def test_the_issue_s_fields_are_there() -> None:
    wanted = {
        "failure": {"state", "error"},
        "check, verify": {"ok", "checks"},
        "backup, backups[]": {"id", "environment", "created", "revision", "stored_bytes", "tables", "proved"},
        "restore-drill": {"ok", "backup", "tables", "seconds"},
        "deploy": {"state", "revision", "backup", "rolled_back", "fingerprint_before", "fingerprint_after"},
        "rollback": {"state", "strategy", "fingerprint"},
        "prune": {"keep", "delete"},
        "reindex": {"indexes"},
        "search[]": {"file_path", "similarity"},
    }
    for verb, fields in wanted.items():
        assert fields <= set(documents.DOCUMENTS[verb].model_fields), verb


def test_strategies_have_one_list() -> None:
    assert tuple(name.value for name in StrategyName) == get_args(documents.Strategy)


def test_a_list_is_one_document_of_many() -> None:
    each = FailureDocument(state="failed", error=ErrorDetail(code="x", message="é"))
    said = to_json([each, each])
    assert said.isascii()
    assert [found["schema"] for found in json.loads(said)] == [1, 1]
    assert json.loads(to_json([])) == []
    assert json.loads(to_json(each))["error"] == {"code": "x", "message": "é", "hint": None}


def test_documents_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        DeployDocument(state="half", environment="dev")
    with pytest.raises(ValidationError):
        DeployDocument(state="held", environment="dev", revison="001")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        DeployDocument(state="held", environment="dev").state = "failed"  # type: ignore[misc]


def test_an_error_carries_the_document_of_its_flow() -> None:
    document = RollbackDocument(state="failed", environment="dev", strategy="auto")
    inner = MigrationFailed("no")
    attach(inner, document)
    outer = RuntimeError()
    outer.__cause__ = inner
    assert attached(outer) == document
    assert attached(MigrationFailed("no")) is None


def test_a_report_becomes_a_document() -> None:
    document = ReportDocument.of("dev", Report((ok("server", "18.6"), failed("store", "no"))))
    assert not document.ok
    assert document.checks[1] == CheckItem(name="store", status="failed", detail="no")


def test_a_retention_plan_becomes_a_document() -> None:
    plan = RetentionPlan(
        keep=(Decision("a", "the newest proved"),),
        delete=(Decision("b", "older than 7 days"),),
        sweep=(Decision("c", "never finished"),),
        problems=(Decision("d", "not ours"),),
        stored_bytes={"a": 5},
    )
    document = PruneDocument.of("dev", plan, applied=True)
    assert [item.id for item in (*document.keep, *document.delete, *document.problems)] == ["a", "b", "c", "d"]
    assert (document.keep[0].stored_bytes, document.delete[1].stored_bytes) == (5, None)


def test_advice_becomes_a_document() -> None:
    advice = Advice(
        name="i",
        table="t",
        column="c",
        rows=20_000,
        rows_at_build=10,
        size_bytes=1,
        valid=True,
        m=16,
        ef_construction=64,
        suggested=(32, 128),
        build_memory_bytes=2,
        p50_ms=1.0,
        p95_ms=2.0,
        reasons=("grown",),
    )
    document = ReindexDocument.of("dev", (advice,))
    assert document.indexes[0].advice == "rebuild"
    assert document.indexes[0].suggested == {"m": 32, "ef_construction": 128}
    assert not document.applied


def test_times_are_told_with_their_zone() -> None:
    document = BackupDocument(
        id="x",
        environment="dev",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        revision=None,
        stored_bytes=1,
        tables={"public.code_embeddings": 3},
        proved=False,
    )
    assert json.loads(to_json(document))["created"] == "2026-01-02T03:04:05Z"


if __name__ == "__main__":
    CHECKED_IN.write_text(json.dumps(schemas(), indent=2) + "\n")
