"""Advisory file locks (flock): the kernel frees them when their last holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import OpsError
from tasks.core.postgres.accounts import open_owned

_POLL = 0.01  # seconds


def open_lock(path: Path) -> int:
    """A descriptor on the lock file at `path`; its lock lasts until it and its copies in forked children are closed."""
    return open_owned(path, os.O_RDWR)


def try_lock(fd: int, *, shared: bool = False) -> bool:
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_lock(fd: int, *, shared: bool = False, timeout: float, what: str) -> None:
    """Lock `fd`, waiting at most `timeout` seconds. Raises OpsError that names `what`."""
    deadline = time.monotonic() + timeout
    while not try_lock(fd, shared=shared):
        if time.monotonic() > deadline:
            raise OpsError(f"{what} did not come free within {timeout:.0f} s", hint="is another kg stopped or hung?")
        time.sleep(_POLL)


@contextmanager
def locked(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold the exclusive lock at `path`."""
    fd = open_lock(path)
    try:
        wait_lock(fd, timeout=timeout, what=f"the lock {path}")
        yield
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    """Whether any process, or another descriptor of ours, holds the lock at `path`."""
    fd = open_lock(path)
    try:
        return not try_lock(fd)
    finally:
        os.close(fd)
