"""Where the pages of a run are: links from one page of the UI to another, and addresses for messages and terminals.

Links are relative, so that they stay in the interface and behind the proxy that somebody reads them in. Prefect's own
`url_for` knows no artifact, and leads into the old interface, wherever one comes from.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.settings import PREFECT_API_URL, PREFECT_CLOUD_API_URL, PREFECT_SERVER_UI_V2_ENABLED, PREFECT_UI_URL
from prefect.utilities.urls import url_for

from tasks.artifacts import key_of
from tasks.core.markdown import inline

log = logging.getLogger(__name__)

_ROOT = "../.."  # an artifact's page is <interface>/artifacts/artifact/<id>
_NEW = "v2"  # the interface that a server shows unless told otherwise; a page's address without it is the old one's

Left = Mapping[str, UUID]


def left_by(flow_runs: Iterable[str | None], keys: Iterable[str]) -> Left:
    """Key -> the newest artifact that one of the runs has left under it; nothing where Prefect does not answer."""
    wanted = ArtifactFilter(
        key=ArtifactFilterKey(any_=[key_of(each) for each in keys]),
        flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(each) for each in flow_runs if each]),
    )
    try:
        with get_client(sync_client=True) as client:
            found = client.read_artifacts(artifact_filter=wanted, sort=ArtifactSort.UPDATED_DESC)
    except Exception as error:
        # A report without links is one, too.
        log.warning("what the run has left could not be listed: %s", type(error).__name__)
        return {}
    return {each.key: each.id for each in reversed(found) if each.key}


def link(words: str, key: str, left: Left) -> str:
    """Markdown: `words`, leading to the artifact of that key where there is one."""
    found = left.get(key_of(key))
    return f"[{inline(words)}]({_ROOT}/artifacts/artifact/{found})" if found else inline(words)


def run_link(words: str, flow_run: str) -> str:
    """Likewise, to the page of a flow run."""
    return f"[{inline(words)}]({_ROOT}/runs/flow-run/{flow_run})"


def run_page(flow_run: str | UUID) -> str:
    """The address of a run's page, for those who read of it elsewhere; empty where no server shows pages, or a
    PREFECT_UI_URL is no address.
    """
    try:
        found, root = url_for("flow-run", obj_id=flow_run) or "", (PREFECT_UI_URL.value() or "").rstrip("/")
    except ValueError:
        return ""  # the message matters more than its link
    on_cloud = (PREFECT_API_URL.value() or "").startswith(PREFECT_CLOUD_API_URL.value())
    if on_cloud or not PREFECT_SERVER_UI_V2_ENABLED.value() or not found.startswith(f"{root}/runs/"):
        return found
    return found if root.endswith(f"/{_NEW}") else f"{root}/{_NEW}{found.removeprefix(root)}"
