"""The first line of each flow: a deployment acts on its own environment and on no other."""

from __future__ import annotations

import logging

from prefect.runtime import flow_run

from tasks.core.errors import Refused
from tasks.core.settings import Environment

TAG = "environment:"


def own_environment(environment: Environment) -> None:
    """Return where this run may act on `environment`; nothing is read or opened before that.

    A run bears the tags of its deployment and whoever starts it can add to them, not take away. So `rollback/dev`,
    started with `environment: production`, ends here. A run without such a tag (the terminal's) is its starter's
    business. Raises Refused.
    """
    _speak()
    named = {tag.removeprefix(TAG) for tag in flow_run.tags or () if tag.startswith(TAG)}
    if named - {environment}:
        wrong = ", ".join(sorted(named - {environment}))
        raise Refused(
            f"this run belongs to {wrong}, and its parameter says {environment}; nothing was opened",
            hint=f"start the deployment of {environment}, or set the parameter to {wrong}",
        )


def _speak() -> None:
    """What core and the steps say at INFO is for the run's page, also in a worker's process, where nobody else has set
    their loggers' level: by the root's, which is Prefect's, it would begin with warnings.
    """
    for name in ("tasks", "flows"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.INFO)
