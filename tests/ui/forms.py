"""What a person does in the Prefect UI, by the words that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from playwright.sync_api import Locator, Page, expect

from tests.ui.bed import Bed


def custom_run(bed: Bed, page: Page, flow: str, environment: str) -> None:
    """Deployments -> the flow's deployment -> Run -> Custom run: its form is open."""
    page.goto(bed.url)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_placeholder("Search deployments").fill(flow)
    page.wait_for_url(f"**flowOrDeploymentName={flow}**")  # a search that is still to come would lead back here
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


def submit(bed: Bed, page: Page, deployment: str, typed: Mapping[str, str]) -> str:
    """The id of the run that the form has started, with what was typed into it."""
    before = set(bed.runs(deployment))
    button = page.get_by_role("button", name="Submit")
    for _ in range(4):  # a click while the form is still being checked does nothing; what came late empties its fields
        for name, text in typed.items():
            fill(page, name, text)
        button.click()
        with suppress(AssertionError):
            expect(button).to_have_count(0, timeout=15_000)
            break
    (started,) = set(bed.runs(deployment)) - before
    return started


def open_run(bed: Bed, page: Page, run: str) -> None:
    page.goto(f"{bed.url}/v2/runs/flow-run/{run}")


def run_says(bed: Bed, page: Page, run: str, text: str) -> None:
    """Its page shows `text`. That of an ended run asks for the log once, and its last lines come some time after."""
    for _ in range(20):
        open_run(bed, page, run)
        with suppress(AssertionError):
            expect(page.get_by_text(text).first).to_be_visible(timeout=3_000)
            return
    raise AssertionError(f"the run's page never said {text!r}")


def resume(page: Page) -> Locator:
    """A paused run's menu -> Resume: its form."""
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Resume").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Provide input to resume")).to_be_visible()
    return dialog


def open_artifact(bed: Bed, page: Page, run: str, key: str) -> None:
    """What the run has left under that key, from the run's page on: Artifacts -> the key's history -> this one."""
    open_run(bed, page, run)
    page.get_by_role("tab", name="Artifacts", exact=True).click()
    page.get_by_role("link", name=key).click()
    page.wait_for_url(f"**/artifacts/key/{key}")
    page.get_by_role("link", name=artifact_of(bed, run, key).partition("-")[0]).click()
    page.wait_for_url("**/artifacts/artifact/*")


def artifact_of(bed: Bed, run: str, key: str) -> str:
    """Its id."""
    only = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": [key]}}}
    (found,) = bed.api("/artifacts/filter", only)
    return str(found["id"])


def follow(page: Page, words: str, leads_to: str, text: str) -> None:
    """The link of these words leads to a page of that address on which `text` stands; and back."""
    page.get_by_role("link", name=words, exact=True).click()
    page.wait_for_url(f"**{leads_to}/*")
    expect(page.get_by_text(text).first).to_be_visible()
    page.go_back()
