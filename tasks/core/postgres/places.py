"""Where the files of a cluster of ours lie: in KG_HOME where the server's account gets there, else in a root folder.

Each place holds the cluster's data, its log, our password and two lock files. A place outside of KG_HOME is named by a
pointer file in it, and names that pointer file itself: deleting KG_HOME starts fresh, and what it left is swept.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import OpsError
from tasks.core.postgres import guardian, locks
from tasks.core.postgres.accounts import Account, can_write, open_owned

ROOT_FOLDER = Path("/var/lib/kg")
# A moved KG_HOME looks like a deleted one until kg runs there again; after this long (s) it counts as deleted.
_ORPHAN_AGE = 24 * 3600.0


@dataclass(frozen=True)
class Place:
    """The folder of one cluster."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def password(self) -> Path:
        return self.folder / "password"

    @property
    def users_lock(self) -> Path:
        """Held shared by every process that uses the server."""
        return self.folder / "users.lock"

    @property
    def guardian_lock(self) -> Path:
        """Held by the guardian for as long as it lives."""
        return self.folder / "guardian.lock"

    @property
    def owner(self) -> Path:
        """In a place outside of KG_HOME: the path of the pointer file that names it."""
        return self.folder / "owner"


@contextmanager
def usable(home: Path) -> Iterator[Path]:
    """`home` by its one true name (a server is known by its path), with the system's refusals as OpsError."""
    try:
        yield home.resolve()
    except OSError as error:
        raise OpsError(
            f"{error.filename or home} cannot be used: {error.strerror}", hint="set KG_HOME to a folder of your own"
        ) from error


def make_folder(folder: Path) -> Path:
    """A folder of ours that others may pass through but not list."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.geteuid():
        folder.chmod(0o711)
    return folder


def root_folder(name: str) -> Path:
    """A folder of root's that every account can pass through. Raises OpsError where it is not safely root's."""
    for folder in (ROOT_FOLDER, ROOT_FOLDER / name):
        with suppress(FileExistsError):
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)
        found = folder.lstat()
        if found.st_uid != 0 or found.st_mode & 0o022 or not folder.is_dir() or folder.is_symlink():
            raise OpsError(f"{folder} can be changed by others than root", hint="give it to root with mode 755")
    return ROOT_FOLDER / name


def embedded_place(home: Path, account: Account | None) -> Place:
    """The place of the shared server of `home`, decided once and then kept. The caller holds the start lock."""
    own = Place(make_folder(home / "postgres"))
    pointer = own.folder / "place"
    if pointed := _pointed(pointer):
        return pointed
    if own.data.exists() or account is None or holds(own.folder, account):
        return own
    return _elsewhere(pointer)


def new_scratch_place(home: Path, account: Account | None) -> tuple[Place, int]:
    """A fresh place for a cluster of this process alone, and the users' lock held on it; sweeps those of the dead."""
    folder = make_folder(home / "scratch")
    if account is not None and not holds(folder, account):
        folder = root_folder("scratch")
    with locks.locked(folder / "lock", timeout=60):
        sweep(folder, lambda place: True)
        place = Place(folder / secrets.token_hex(6))
        place.folder.mkdir(mode=0o711)
        users = locks.open_lock(place.users_lock)
        locks.wait_lock(users, shared=True, timeout=5, what="a fresh lock")
    return place, users


def holds(folder: Path, account: Account) -> bool:
    """Whether `account` can have a folder of its own in `folder`."""
    probe = folder / f"probe.{secrets.token_hex(4)}"
    probe.mkdir(mode=0o700)
    try:
        account.own(probe)
        return can_write(probe, account)
    except OSError:  # a file system without owners
        return False
    finally:
        probe.rmdir()


def sweep(folder: Path, orphaned: Callable[[Place], bool]) -> None:
    """Remove the places in `folder` that are `orphaned` and that nobody uses, with the server that may run there.

    The caller holds the folder's lock, so that no place is half made.
    """
    for path in folder.iterdir():
        place = Place(path)
        if re.fullmatch(r"[0-9a-f]{12}", path.name) and not path.is_symlink() and orphaned(place):
            remove_unless_used(place)


def sweep_orphans() -> None:
    """Remove the embedded databases in root's folder whose KG_HOME has been gone for a day."""
    folder = root_folder("databases")
    with locks.locked(folder / "lock", timeout=60):
        sweep(folder, _is_orphan)


def remove_unless_used(place: Place) -> None:
    """Remove a place with the server that may run there; one with a user or a guardian is left alone."""
    with ExitStack() as held:
        for file in (place.users_lock, place.guardian_lock):
            try:
                fd = locks.open_lock(file)
            except FileNotFoundError:
                return  # its own process has just disposed of it
            held.callback(os.close, fd)
            if not locks.try_lock(fd):
                return
        _kill_server(place)
        shutil.rmtree(place.folder, ignore_errors=True)


def _kill_server(place: Place) -> None:
    """End a server whose guardian was killed; its data is about to go."""
    found = guardian.running(str(place.data))
    while found and guardian.is_server(found[0], str(place.data)):
        with suppress(ProcessLookupError):
            os.kill(found[0], signal.SIGQUIT)
        time.sleep(0.02)


def _elsewhere(pointer: Path) -> Place:
    folder = root_folder("databases")
    with locks.locked(folder / "lock", timeout=60):
        place = Place(folder / secrets.token_hex(6))
        place.folder.mkdir(mode=0o711)
        place.folder.chmod(0o711)
        write_owned(place.owner, str(pointer))
        write_owned(pointer, str(place.folder))
    return place


def _pointed(pointer: Path) -> Place | None:
    """The place that `pointer` names, if that is one of ours and not another home's (this one may be a copy)."""
    named = _text(pointer)
    if not re.fullmatch(re.escape(str(ROOT_FOLDER / "databases")) + r"/[0-9a-f]{12}", named):
        return None
    place = Place(Path(named))
    owner = _text(place.owner)
    if not owner:
        return None
    if owner != str(pointer):
        if _text(Path(owner)) == named:
            return None
        write_owned(place.owner, str(pointer))  # KG_HOME was moved
    return place


def _is_orphan(place: Place) -> bool:
    if _text(Path(_text(place.owner) or "/nowhere")) == str(place.folder):
        return False
    used = [path.stat().st_mtime for path in (place.folder, place.log) if path.exists()]
    return time.time() - max(used, default=0.0) > _ORPHAN_AGE


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        raise OpsError(
            f"{path} belongs to another user", hint="run as that user, or set KG_HOME to a folder of your own"
        ) from error


def write_owned(path: Path, text: str) -> None:
    """Put `text` into the file at `path` (0600), whole or not at all."""
    making = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(open_owned(making, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    making.rename(path)
