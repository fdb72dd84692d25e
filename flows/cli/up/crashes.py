"""What `kg up` has the server do about a run that died with nobody left to say so: silence means Crashed, Crashed means
recover.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY

from flows.guard import TAG
from tasks.core.errors import SettingsError, quoted
from tasks.core.settings import Environment

SILENCE = "KG_SILENCE_SECONDS"
_LONGEST = 86_400

_HEARTBEAT = "prefect.flow-run.heartbeat"
_LIFE_GOES_ON = {
    _HEARTBEAT,
    *(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "Suspended")),
}


def crash_automations(client: SyncPrefectClient, environments: list[Environment]) -> Iterator[AutomationCore]:
    """One for the silence of every run of ours; one for each environment, whose `recover` is registered already."""
    yield silence_means_crashed()
    for environment in environments:
        yield crashed_means_recover(client, environment)


def silence_means_crashed() -> AutomationCore:
    """Only for runs that bear an environment: others on this server may send their heartbeats seldom, or not at all."""
    return AutomationCore(
        name="kg: no heartbeat means Crashed",
        description="A flow whose process or machine died says nothing more.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect=_LIFE_GOES_ON,
            for_each={"prefect.resource.id"},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}*"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence(),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="no heartbeat: its process died")],
    )


def silence() -> timedelta:
    """How long a run may say nothing: KG_SILENCE_SECONDS, else three heartbeats.

    Raises SettingsError for one in which a run that lives would be silent, too.
    """
    beat = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value() or 30
    given = os.environ.get(SILENCE) or str(3 * beat)
    if not (given.isascii() and given.isdigit() and beat < int(given) <= _LONGEST):
        raise SettingsError(
            f"{SILENCE} is {quoted(given)}: heartbeats come every {beat} s, and without one for more than that, "
            f"and at most {_LONGEST} s, a run counts as crashed",
            hint=f"unset it, for three heartbeats; it is a whole number above {beat}",
        )
    return timedelta(seconds=int(given))


def crashed_means_recover(client: SyncPrefectClient, environment: Environment) -> AutomationCore:
    return AutomationCore(
        name=f"kg: Crashed means recover {environment}",
        description="recover reads the journal: a crash that changed nothing undoes nothing.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"},
            # Not its own crash: a recover that dies every time would start itself for ever.
            match={"prefect.resource.id": "prefect.flow-run.*", "prefect.resource.name": "!recover *"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}{environment}"},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=client.read_deployment_by_name(f"recover/{environment}").id,
                parameters={},
            )
        ],
    )
