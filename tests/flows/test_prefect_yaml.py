"""prefect.yaml as Prefect reads it: each entrypoint, form and schedule; and the guard of its environments."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import yaml

from tasks.core.errors import Refused
from tasks.core.settings import CHECKOUT, Environment

FLOWS = {"check", "backup", "restore-drill", "deploy", "verify", "rollback", "recover", "reindex", "prune"}


def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["deployments"])


def entrypoints() -> list[str]:
    return sorted({str(each["entrypoint"]) for each in deployments()})


def test_each_environment_has_each_flow() -> None:
    from prefect.flows import load_flow_from_entrypoint

    names = {entrypoint: load_flow_from_entrypoint(entrypoint).name for entrypoint in entrypoints()}
    found = {(names[each["entrypoint"]], each["name"]) for each in deployments()}
    assert found == {(flow, environment) for flow in FLOWS for environment in get_args(Environment)}
    for each in deployments():
        assert each["parameters"] == {"environment": each["name"]}
        assert [tag for tag in each["tags"] if tag.startswith("environment:")] == [f"environment:{each['name']}"]
        assert each["description"]


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_the_form_of_each_flow_is_what_the_ui_needs(entrypoint: str) -> None:
    """A dropdown of environments; every parameter typed, described, and filled by default or required."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    schema = parameter_schema(load_flow_from_entrypoint(entrypoint)).model_dump()
    form = schema["properties"]
    assert form["environment"]["enum"] == list(get_args(Environment))
    assert "environment" in schema["required"]
    for name, field in form.items():
        assert field.get("description"), f"{name} has no description"
        assert field.get("type") in ("string", "boolean", "integer", "number"), f"{name}: {field}"
        assert name in schema["required"] or "default" in field, name
    if entrypoint == "flows.rollback.rollback":
        assert form["strategy"]["enum"] == ["auto", "revert", "restore", "reset"]


def test_nothing_is_pulled_and_that_is_said() -> None:
    """Entrypoints are modules of what is installed, on a worker's machine and in an image alike; Prefect would fill in
    a step of its own, which clones or copies.
    """
    assert yaml.safe_load((CHECKOUT / "prefect.yaml").read_text())["pull"] == []
    assert all("pull" not in each for each in deployments())
    assert all(":" not in entrypoint and "/" not in entrypoint for entrypoint in entrypoints())


def test_run_names_say_what_and_where() -> None:
    from prefect.flows import load_flow_from_entrypoint

    for entrypoint in entrypoints():
        flow = load_flow_from_entrypoint(entrypoint)
        assert str(flow.flow_run_name).startswith(f"{flow.name} {{environment}}")


def test_schedules() -> None:
    """Each has a slug and a time zone, none says `active`; prune comes after the nightly, and really deletes."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in deployments():
        for schedule in each.get("schedules", ()):
            assert set(schedule) <= {"slug", "cron", "timezone", "parameters"}
            assert {"slug", "cron", "timezone"} <= set(schedule)
            found.setdefault(each["entrypoint"].rpartition(".")[2], []).append(schedule)
    assert {name: {each["cron"] for each in schedules} for name, schedules in found.items()} == {
        "backup": {"15 2 * * *"},
        "restore_drill": {"30 6 * * 0"},
        "prune": {"45 5 * * *"},
    }
    assert all(each["parameters"] == {"apply": True} for each in found["prune"])


@pytest.mark.parametrize("entrypoint", entrypoints())
def test_the_guard_is_the_first_line_of_each_flow(entrypoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bare function, as a run of dev's deployment with production's parameter: refused before settings are read."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.runtime import flow_run

    monkeypatch.setitem(flow_run.FIELDS, "tags", lambda: ["kg", "environment:dev"])
    monkeypatch.setenv("KG_ENVIRONMENTS", "/nowhere")
    with pytest.raises(Refused, match="belongs to dev, and its parameter says production"):
        load_flow_from_entrypoint(entrypoint).fn(environment="production")
