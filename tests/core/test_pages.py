"""Addresses of a run's page in messages and terminals: each opens the interface that its server shows by default."""

from __future__ import annotations

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_UI_V2_ENABLED,
    PREFECT_UI_URL,
    temporary_settings,
)

from tasks.pages import run_page

RUN = "0196f7a4-0000-7000-8000-000000000000"
CLOUD = "https://api.prefect.cloud/api/accounts/a/workspaces/w"


@pytest.mark.parametrize(
    ("api", "ui", "leads_to"),
    [
        ("http://127.0.0.1:4200/api", None, "http://127.0.0.1:4200/v2/runs/flow-run/"),
        ("http://127.0.0.1:4200/api", "https://prefect.example/kg/", "https://prefect.example/kg/v2/runs/flow-run/"),
        ("http://127.0.0.1:4200/api", "https://prefect.example/v2", "https://prefect.example/v2/runs/flow-run/"),
        (CLOUD, None, "https://app.prefect.cloud/account/a/workspace/w/runs/flow-run/"),
    ],
)
def test_it_is_in_the_interface_that_is_shown_by_default(api: str, ui: str | None, leads_to: str) -> None:
    with temporary_settings({PREFECT_API_URL: api, PREFECT_UI_URL: ui}):
        assert run_page(RUN) == f"{leads_to}{RUN}"


def test_the_old_interface_where_the_server_shows_that() -> None:
    ours = {PREFECT_API_URL: "http://127.0.0.1:4200/api", PREFECT_SERVER_UI_V2_ENABLED: False}
    with temporary_settings(ours):
        assert run_page(RUN) == f"http://127.0.0.1:4200/runs/flow-run/{RUN}"


@pytest.mark.parametrize("ui", [None, "https://[prefect"])
def test_no_server_has_no_pages(ui: str | None) -> None:
    with temporary_settings({PREFECT_API_URL: None, PREFECT_UI_URL: ui}):
        assert run_page(RUN) == ""
