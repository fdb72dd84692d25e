"""A day at the Prefect UI that `kg up` serves: what people do there in a browser, proved on the databases.

The tests go on from each other's state, in their order: one server, one worker, one browser.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tasks.artifacts import shown
from tasks.core.markdown import inline
from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import fingerprint, read_catalog
from tests.core.test_notices import Webhook
from tests.ui.bed import Bed
from tests.ui.conftest import screenshot
from tests.ui.forms import (
    choose,
    custom_run,
    fill,
    follow,
    open_artifact,
    open_run,
    resume,
    run_says,
    submit,
)

pytestmark = pytest.mark.timeout(900)  # a busy machine takes several times as long

OTHERS = "20260101T020000Z-0123abcd"


def state(conn: Connection) -> tuple[object, ...]:
    """Schema, ledger, and how many operations the journal knows: what a refused run must leave as it was."""
    ledger = conn.execute("SELECT array_agg((revision, state)::text ORDER BY id) FROM kg_ops.ledger").fetchone()
    operations = conn.execute("SELECT count(*) FROM kg_ops.operation").fetchone()
    return fingerprint(read_catalog(conn, "public")), ledger, operations


@pytest.fixture(scope="module")
def deployed(bed: Bed, dev: Connection) -> str:
    """dev's fingerprint before the deploy that the form then undoes."""
    before = fingerprint(read_catalog(dev, "public"))
    run = bed.start_run("deploy/dev")
    assert bed.ended(run)["state"]["name"] == "Completed"
    return before


def test_what_the_form_refuses_touches_nothing(bed: Bed, deployed: str, dev: Connection, page: Page) -> None:
    before = state(dev)
    refused = {
        "'Dev' was typed into": {"confirm": "Dev"},
        f"there is no backup {OTHERS} of dev": {"confirm": "dev", "backup": OTHERS},
        "'../production/x' is not the id of a backup": {"confirm": "dev", "backup": "../production/x"},
    }
    runs = {}
    for message, typed in refused.items():
        custom_run(bed, page, "rollback", "dev")
        choose(page, "strategy", "restore")
        for name, text in typed.items():
            fill(page, name, text)
        runs[message] = submit(bed, page, "rollback/dev", typed)
    for message, run in runs.items():
        assert bed.ended(run)["state"]["name"] == "Failed"
        run_says(bed, page, run, message)
    assert state(dev) == before


def test_a_rollback_from_the_form(bed: Bed, deployed: str, dev: Connection, page: Page) -> None:
    custom_run(bed, page, "rollback", "dev")
    choose(page, "strategy", "revert")
    typed = {"reason": "search answers with errors since the deploy", "confirm": "dev"}
    for name, text in typed.items():
        fill(page, name, text)
    screenshot(page, page.get_by_role("main"), "rollback-form")
    run = submit(bed, page, "rollback/dev", typed)
    assert bed.ended(run)["state"]["name"] == "Completed"
    open_run(bed, page, run)
    expect(page.get_by_text("rollback dev revert").first).to_be_visible()
    assert fingerprint(read_catalog(dev, "public")) == deployed
    assert dev.execute("SELECT to_regclass('code_embeddings')").fetchone() == (None,)
    said = dev.execute("SELECT detail -> 'rollback' ->> 'reason' FROM kg_ops.operation WHERE kind = 'rollback'")
    assert said.fetchone() == ("search answers with errors since the deploy",)


def test_staging_is_deployed_and_the_scheduled_nightly_backs_it_up(bed: Bed, webhook: Webhook) -> None:
    assert bed.ended(bed.start_run("deploy/staging"))["state"]["name"] == "Completed"
    nightly = bed.ended(bed.run_now("backup/staging"))
    assert (nightly["state"]["name"], nightly["auto_scheduled"]) == ("Completed", True)
    assert "staging" in " ".join(each["title"] for each in webhook.received)


def test_production_waits_in_its_window_for_somebody_who_approves(
    bed: Bed, page: Page, production: Connection, webhook: Webhook
) -> None:
    run = bed.start_run("deploy/production", started_by="Ada")
    assert bed.reached(run, "PAUSED", "FAILED")["state"]["type"] == "PAUSED"
    assert any("waits for 1 approval" in each["message"] for each in webhook.received)
    assert production.execute("SELECT to_regclass('code_embeddings')").fetchone() == (None,)
    open_run(bed, page, run)
    form = resume(page)
    expect(form.get_by_text("predicted duration", exact=True)).to_be_visible()
    screenshot(page, form, "approval-form", height=1200)
    choose(page, "Decision", "approve")
    form.get_by_role("textbox", name="Name").fill("Grace")
    form.get_by_role("textbox", name="Note").fill("seen on staging")
    screenshot(page, form, "approval-decision", height=1200)  # the same form's end: filling it in has scrolled there
    form.get_by_role("button", name="Resume").click()
    expect(form).to_have_count(0)
    assert bed.ended(run)["state"]["name"] == "Completed"
    entry = production.execute("SELECT state, release::text FROM kg_ops.ledger").fetchone()
    assert entry
    assert (entry[0], "Grace" in entry[1]) == ("applied", True)
    assert production.execute("SELECT name, decision, note FROM kg_ops.approvals").fetchall() == [
        ("Grace", "approve", "seen on staging")
    ]
    picture_of_drills(bed, page)
    open_artifact(bed, page, run, "deploy-production")
    expect(page.get_by_role("heading", name="Deploy of production")).to_be_visible()
    screenshot(page, page.get_by_role("main"), "deploy-report", width=1440)


def picture_of_drills(bed: Bed, page: Page) -> None:
    """Restore time and size over the drills: drawn in the new interface and in the old one."""
    only = {"artifacts": {"key": {"any_": ["drill-history-production"]}}, "limit": 1}
    (found,) = bed.api("/artifacts/filter", only)
    for interface in ("/v2", ""):
        page.goto(f"{bed.url}{interface}/artifacts/artifact/{found['id']}")
        picture = page.locator("img[src^='data:image/png;base64,']")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 100


def test_a_deploy_whose_verification_fails_goes_back_and_says_so(
    bed: Bed, page: Page, dev: Connection, migrations: Path, webhook: Webhook
) -> None:
    """Applied, but in dev's own schema not what the migrations make elsewhere."""
    before = fingerprint(read_catalog(dev, "public"))
    there = "current_schema() = 'public' AND current_database() = 'test_ui_dev'"
    (migrations / "002_lose_index.up.sql").write_text(
        "ALTER TABLE code_patterns ADD COLUMN reviewed boolean;\n"
        f"DO $$ BEGIN IF {there} THEN DROP INDEX code_patterns_language_idx; END IF; END $$;\n"
    )
    (migrations / "002_lose_index.down.sql").write_text(
        "ALTER TABLE code_patterns DROP COLUMN reviewed;\n"
        "CREATE INDEX IF NOT EXISTS code_patterns_language_idx ON code_patterns (language);\n"
    )
    run = bed.start_run("deploy/dev")
    assert bed.ended(run)["state"]["name"] == "Failed"
    assert fingerprint(read_catalog(dev, "public")) == before
    assert any("rolled back" in each["title"] for each in webhook.received)
    page.goto(link_of(webhook, "dev: deploy FAILED"))
    assert page.url == f"{bed.url}/v2/runs/flow-run/{run}", "a message leads to the interface that the server shows"
    page.get_by_role("tab", name="Subflow Runs").click()
    page.get_by_role("link", name="rollback dev auto").click()
    expect(page.get_by_text("Completed").first).to_be_visible()
    open_artifact(bed, page, run, "deploy-dev")
    every_link_of_the_report(page)


def link_of(webhook: Webhook, title: str) -> str:
    """Where the newest message of that title leads: its line `run: `."""
    *_, message = (each["message"] for each in webhook.received if each["title"] == title)
    (address,) = re.findall(r"^run: (\S+)$", message, re.MULTILINE)
    return str(address)


def every_link_of_the_report(page: Page) -> None:
    """Each leads to the page that it names, in the interface that it is read in."""
    report = page.url
    backup = page.get_by_role("row").filter(has_text="backup").get_by_role("link").first.inner_text()
    plan = page.get_by_role("row").filter(has_text="plan").get_by_role("link").first.inner_text()
    artifacts = report.rpartition("/")[0]
    follow(page, plan, artifacts, f"Deploy to dev (plan {plan})")
    follow(
        page, "its rehearsal", artifacts, "Rehearsal on the restored copy: rehearsed 001 create_knowledge_graph_tables"
    )
    follow(page, backup, artifacts, f"Backup {backup} is restorable")
    follow(page, "all backups", artifacts, "Backups of dev, newest first")
    follow(page, "by revert", artifacts, "Rolled back by revert: dev")
    follow(page, "its run", artifacts.replace("artifacts/artifact", "runs/flow-run"), "rollback dev auto")


HOSTILE = ("<img src=x onerror=\"document.title='obeyed'\">", "[x](javascript:alert(1))", "**bold** | `code` <b>b</b>")


def test_what_is_not_ours_stays_text_in_tables(bed: Bed, page: Page) -> None:
    """The new interface shows a cell to the letter, the old one as Markdown: no tag, no link, no picture in either."""
    for number, said in enumerate(HOSTILE):
        cell = {
            "data": json.dumps([{"said": shown(said)}]),
            "description": inline(f"said: {said}"),
        }  # as artifacts.table
        found = bed.api("/artifacts/", {"key": f"hostile-{number}", "type": "table", **cell})
        for interface in ("/v2", ""):
            page.goto(f"{bed.url}{interface}/artifacts/artifact/{found['id']}")
            expect(page.get_by_text(f"said: {said}", exact=True)).to_be_visible()
            expect(page.get_by_role("cell")).to_have_count(1)
            assert page.locator("table img, table a, table b, img[src='x'], a[href^='javascript']").count() == 0
            assert page.title() != "obeyed"
            if interface:
                expect(page.get_by_role("cell")).to_have_text(str(shown(said)))
