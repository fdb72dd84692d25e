"""What `kg up` remembers in PREFECT_HOME: where its server is, which runs are under way, what is owed after a crash.

A lock says whether a `kg up` lives; the kernel lets go of it however that one ended. Imports no Prefect.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.errors import EngineFailed, Refused


@dataclass
class UpState:
    """`runs` are flow run id -> process id; `recover` the environments whose dead runs nobody has settled yet."""

    folder: Path
    url: str = ""
    runs: dict[str, int] = field(default_factory=dict)
    recover: list[str] = field(default_factory=list)
    paused: bool = False  # it was we who paused the work pool

    def save(self) -> None:
        """Whole or not at all: the file is replaced."""
        text = json.dumps({name: value for name, value in asdict(self).items() if name != "folder"})
        with tempfile.NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            file.write(text)
        Path(file.name).replace(self.folder / "state.json")


def prefect_home() -> Path:
    """Where Prefect keeps its database, as it finds it itself."""
    return Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser().absolute()


@contextmanager
def claimed() -> Iterator[UpState]:
    """The state that the last `kg up` on this PREFECT_HOME has left, for the only one that lives now.

    Raises Refused where another lives, EngineFailed where PREFECT_HOME cannot be written.
    """
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as error:
        raise EngineFailed(f"{folder} cannot be written: {error.strerror}", hint="set PREFECT_HOME") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(
                f"kg up runs already, with the server at {_read(folder).get('url') or 'its start'}",
                hint="stop that one, or set PREFECT_HOME to another folder",
            ) from error
        left = _read(folder)
        state = UpState(folder, "", *(left.get(name, empty) for name, empty in (("runs", {}), ("recover", []))))
        state.paused = bool(left.get("paused"))
        try:
            yield state
        finally:
            state.url = ""
            state.save()


def running_url() -> str:
    """The API's address of a `kg up` that lives on this PREFECT_HOME and is ready; else empty."""
    folder = _folder()
    try:
        with (folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return str(_read(folder).get("url", ""))
    except OSError:
        pass
    return ""


def _folder() -> Path:
    return prefect_home() / "kg-up"


def _read(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError):
        return {}
