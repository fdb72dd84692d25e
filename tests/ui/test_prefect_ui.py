"""A day at the Prefect UI that `kg up` serves: what people do there in a browser, proved on the databases.

The tests go on from each other's state, in their order: one server, one worker, one browser.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tasks.core.postgres.connections import Connection
from tasks.core.schema.catalog import fingerprint, read_catalog
from tests.core.test_notices import Webhook
from tests.ui.bed import Bed
from tests.ui.conftest import screenshot
from tests.ui.forms import choose, custom_run, fill, open_run, submit

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
        runs[message] = submit(bed, page, "rollback/dev")
    for message, run in runs.items():
        assert bed.ended(run)["state"]["name"] == "Failed"
        open_run(bed, page, run)
        expect(page.get_by_text(message).first).to_be_visible()
    assert state(dev) == before


def test_a_rollback_from_the_form(bed: Bed, deployed: str, dev: Connection, page: Page) -> None:
    custom_run(bed, page, "rollback", "dev")
    choose(page, "strategy", "revert")
    fill(page, "reason", "search answers with errors since the deploy")
    fill(page, "confirm", "dev")
    screenshot(page, page.get_by_role("main"), "rollback-form")
    run = submit(bed, page, "rollback/dev")
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
