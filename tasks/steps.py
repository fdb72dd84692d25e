"""What every task of ours has in common: a run name, retries only for what passes, its progress as an artifact."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from tasks.artifacts import key_of
from tasks.core.errors import ConnectionFailed, OpsError, StoreUnavailable
from tasks.core.markdown import inline
from tasks.core.progress import reporting

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

UPDATE_SECONDS = 1.0  # an update is a call of the API


class ProgressArtifacts:
    """Shows work with a known total as a progress artifact of the task run; its last state stays on the run's page.

    Its key is the work's and the environment's, like `progress-dump-dev`: one series over all runs.
    """

    def __init__(self, environment: str) -> None:
        self._environment = environment
        self._shown: dict[str, tuple[UUID, float]] = {}

    def started(self, key: str, title: str, total: float | None, unit: str) -> None:
        if total and TaskRunContext.get():
            with _never_in_the_way():
                name = re.sub(r"-\d+$", "", key)  # without the process id of an index build
                stable = key_of(f"progress-{name}-{self._environment}")
                made = create_progress_artifact(progress=0.0, key=stable, description=inline(title))
                assert isinstance(made, UUID)
                self._shown[key] = (made, time.monotonic())

    def advanced(self, key: str, done: float, total: float | None) -> None:
        if key not in self._shown or not total:
            return
        artifact, updated = self._shown[key]
        if time.monotonic() - updated >= UPDATE_SECONDS:
            with _never_in_the_way():
                update_progress_artifact(artifact, progress=min(100.0, 100 * done / total))
            self._shown[key] = (artifact, time.monotonic())

    def finished(self, key: str, detail: str, ok: bool) -> None:
        artifact, _ = self._shown.pop(key, (None, 0.0))
        if artifact and ok:
            with _never_in_the_way():
                update_progress_artifact(artifact, progress=100.0)

    def noted(self, text: str) -> None:
        """Notes are log lines of the run already."""


@contextmanager
def _never_in_the_way() -> Iterator[None]:
    """A dump of hours does not fail because the Prefect server was away while its bar moved."""
    try:
        yield
    except Exception as error:
        log.debug("a progress artifact was not moved: %s", type(error).__name__)


def step(name: str, *, retries: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A task named `name`. `retries` only where running it twice is harmless: dump, upload, fetch, never a migration.

    Retried are faults that pass (a store or server that cannot be reached), never a refusal or a mistake.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def observed(*args: P.args, **kwargs: P.kwargs) -> R:
            environment = kwargs.get("environment", next(iter(args), ""))
            with reporting(ProgressArtifacts(str(environment))):
                return function(*args, **kwargs)

        return task(
            name=name,
            task_run_name=name + " {environment}",
            retries=retries,
            retry_delay_seconds=[5.0, 30.0, 120.0][: max(retries, 1)],
            retry_condition_fn=_passes,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(observed)

    return decorate


def _passes(_task: Any, _run: Any, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, OpsError) and isinstance(error, ConnectionFailed | StoreUnavailable)
