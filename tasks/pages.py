"""Links from one page of the UI to another: what a deploy's report leads to.

They are relative, so that they stay in the interface and behind the proxy that somebody reads them in. Prefect's own
`url_for` knows no artifact, and leads from the new interface into the old one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from tasks.artifacts import key_of
from tasks.core.markdown import inline

log = logging.getLogger(__name__)

_ROOT = "../.."  # an artifact's page is <interface>/artifacts/artifact/<id>

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
