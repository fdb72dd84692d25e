"""The watch after a deploy: deadlocks, rollbacks, a slow search, an ill application; each once well and once not."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tasks.core.addresses import Address
from tasks.core.operations.watching import watch
from tasks.core.postgres.connections import Connection, connect
from tasks.core.schema.report import Report
from tasks.core.settings import Settings
from tests.integration.application_server import application, asking
from tests.integration.graphs import deploy_graph

pytestmark = pytest.mark.slow
__all__ = ["application"]  # a fixture


def watching(settings: Settings, **wanted: Any) -> Settings:
    given = {"duration": timedelta(seconds=2.5), "interval": timedelta(milliseconds=200), **wanted}
    return settings.model_copy(update={"watch": settings.watch.model_copy(update=given)})


def said(report: Report) -> dict[str, str]:
    return {each.name: f"{each.status}: {each.detail}" for each in report.checks}


def test_a_quiet_while(settings: Settings, conn: Connection) -> None:
    deploy_graph(conn, settings, rows=50)
    report = watch(watching(settings))
    assert report.ok, report
    assert said(report)["deadlocks"] == "ok: 0 in 2 s"
    assert "probe searches" in said(report)["search P95"]
    conn.execute("TRUNCATE code_embeddings")
    assert said(watch(watching(settings)))["search P95"] == "skipped: no vector is stored to search for"


def test_a_slow_search_and_an_ill_application(settings: Settings, conn: Connection, application: str) -> None:
    deploy_graph(conn, settings, rows=50)
    ill = watching(asking(settings, health_url=f"{application}/ill"), p95_ms=0.001)
    found = said(watch(ill))
    assert found["search P95"].startswith("failed: ")
    assert "answers 503" in found["errors"]


def test_rollbacks_beyond_the_usual(settings: Settings, conn: Connection, database: Address) -> None:
    """Of an application whose statements fail; one that always did so is not the migration's fault."""
    deploy_graph(conn, settings, rows=5)
    done = threading.Event()

    def fail() -> None:
        with connect(database, purpose="application") as mine:
            while not done.wait(0.02):
                with pytest.raises(psycopg.Error):
                    mine.execute("INSERT INTO code_patterns (pattern_name) VALUES ('nothing else')")

    thread = threading.Thread(target=fail)
    thread.start()
    try:
        report = said(watch(watching(settings)))
        time.sleep(2)  # the usual share, meanwhile, has become so high that twice of it is everything
        again = said(watch(watching(settings, duration=timedelta(seconds=1.2))))
    finally:
        done.set()
        thread.join()
    assert report["rollbacks"].startswith("failed: "), report
    assert "at most" in report["rollbacks"]
    assert again["rollbacks"].startswith("ok: "), again


def test_deadlocks(settings: Settings, conn: Connection, database: Address) -> None:
    deploy_graph(conn, settings, rows=5)
    conn.execute("CREATE TABLE a (); CREATE TABLE b ()")

    def cross(first: str, second: str) -> None:
        with connect(database, purpose="application") as mine, pytest.raises(psycopg.errors.DeadlockDetected):
            mine.execute("SET deadlock_timeout = '100ms'")
            with mine.transaction():
                mine.execute(f"LOCK TABLE {first}".encode())
                time.sleep(0.5)
                mine.execute(f"LOCK TABLE {second}".encode())
            raise psycopg.errors.DeadlockDetected  # the other one was the victim

    threads = [threading.Timer(0.3, cross, words) for words in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    report = said(watch(watching(settings)))
    for thread in threads:
        thread.join()
    assert report["deadlocks"] == "failed: 1 in 2 s, and may be 0"
