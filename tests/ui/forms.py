"""What a person does in the Prefect UI, by the words that the page shows."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.ui.bed import Bed


def custom_run(bed: Bed, page: Page, flow: str, environment: str) -> None:
    """Deployments -> the flow's deployment -> Run -> Custom run: its form is open."""
    page.goto(bed.url)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_placeholder("Search deployments").fill(flow)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=flow, exact=True))
    row.get_by_role("link", name=environment, exact=True).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()


def choose(page: Page, name: str, value: str) -> None:
    """One of a dropdown's."""
    page.get_by_role("button", name=f"Select {name}").click()
    page.get_by_role("option", name=value, exact=True).click()


def fill(page: Page, name: str, text: str) -> None:
    page.get_by_role("textbox", name=name).fill(text)


def submit(bed: Bed, page: Page, deployment: str) -> str:
    """The id of the run that the form has started."""
    before = set(bed.runs(deployment))
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("button", name="Submit")).to_have_count(0)
    (started,) = set(bed.runs(deployment)) - before
    return started


def open_run(bed: Bed, page: Page, run: str) -> None:
    page.goto(f"{bed.url}/v2/runs/flow-run/{run}")


def resume(page: Page) -> Locator:
    """A paused run's menu -> Resume: its form."""
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Provide input to resume")).to_be_visible()
    return dialog


def open_artifact(bed: Bed, page: Page, run: str, key: str) -> None:
    """What the run has left under that key."""
    only = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
    (found,) = bed.api("/artifacts/filter", only)
    page.goto(f"{bed.url}/v2/artifacts/artifact/{found['id']}")
