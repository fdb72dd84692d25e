"""Whom a server of ours runs as. PostgreSQL refuses root, so root lends it another account and what that can reach."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.core import commands
from tasks.core.errors import CommandFailed, OpsError


@dataclass(frozen=True)
class Account:
    """Another system user; `None` in its stead means the user that we are."""

    uid: int
    gid: int

    def own(self, path: Path) -> None:
        """Give this account a file or folder that we have just made."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)


def server_account() -> Account | None:
    """For root the `postgres` user where there is one, else `nobody`; None for anybody else. Raises OpsError."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(user.pw_uid, user.pw_gid)
    raise OpsError(
        "PostgreSQL does not run as root, and there is no user postgres or nobody to run it as",
        hint="run kg as an ordinary user, or add one of them",
    )


def owner_of(path: Path) -> Account | None:
    """The account that a server on the existing folder `path` must run as: its owner, where we are root."""
    if os.geteuid() != 0:
        return None
    found = path.stat()
    return Account(found.st_uid, found.st_gid)


def open_owned(path: Path, flags: int) -> int:
    """A descriptor on a file of ours, made (0600) where it is missing, which no child inherits through exec.

    It belongs to the owner of its folder, so that a visit of root's does not lock the owner out. Raises OpsError where
    it is another user's.
    """
    try:
        fd = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as error:
        raise OpsError(
            f"{path} belongs to another user", hint="run as that user, or set KG_HOME to a folder of your own"
        ) from error
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(fd, folder.st_uid, folder.st_gid)
    return fd


def can_write(folder: Path, account: Account | None) -> bool:
    """Whether `account` can go into `folder` and write there."""
    # Tried and not worked out from modes: access lists, mounts and security modules have their say too.
    return succeeds(["/bin/sh", "-c", 'cd -- "$1" && : > .probe && rm .probe', "sh", folder], account)


def succeeds(argv: Sequence[str | Path], account: Account | None) -> bool:
    """Whether the program ends with 0 in that account, within ten seconds."""
    try:
        done = commands.run(argv, timeout=10, check=False, cwd=Path("/"), user=account.uid if account else None)
    except CommandFailed:
        return False
    return done.returncode == 0
