"""The Kubernetes job template, rendered by the worker's own class. It was not run on a cluster."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tasks.core.settings import CHECKOUT


def test_each_way_to_run_it_has_its_section_and_says_what_was_not_tried() -> None:
    text = (CHECKOUT / "deployments" / "README.md").read_text()
    sections = dict(part.partition("\n")[::2] for part in text.split("\n## ")[1:])
    assert "prefect worker start --pool kg" in sections["A Prefect server of your own"]
    assert "docker build -f deployments/docker/Dockerfile" in sections["Docker"]
    assert "**it was not run on a cluster.**" in sections["Kubernetes"]
    assert "**It was not run there.**" in sections["Prefect Cloud"]


def rendered(**values: str) -> dict[str, Any]:
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads((CHECKOUT / "deployments" / "kubernetes" / "job-template.json").read_text())
    # No server is asked: an address keeps Prefect from starting one.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        made = asyncio.run(
            KubernetesWorkerJobConfiguration.from_template_and_values(
                template, {"name": "deploy-production", "command": "prefect flow-run execute", **values}
            )
        )
    return dict(made.job_manifest)


@pytest.mark.parametrize("image", ["kg-operations:latest", "registry.example/kg:1"])
def test_the_kubernetes_template_renders(image: str) -> None:
    manifest = rendered(image=image) if ":1" in image else rendered()
    spec = manifest["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == image
    assert container["envFrom"] == [{"secretRef": {"name": "kg-environment"}}]
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    # A migration is never run twice by the cluster on its own account.
    assert (manifest["spec"]["backoffLimit"], spec["restartPolicy"]) == (0, "Never")
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
    assert "{{" not in json.dumps(manifest)
