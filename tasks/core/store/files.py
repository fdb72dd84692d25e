"""A folder as the store: file:///folder. An object appears by rename, so it is whole or not there.

The bytes lie in a temporary file of the same folder until they are on the disk; then it gets its name, and the folder
is flushed, so that a power cut loses neither.
"""

from __future__ import annotations

import errno
import os
import random
import re
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from tasks.core.errors import ObjectExists, ObjectMissing, StoreError
from tasks.core.progress import note
from tasks.core.store.base import Entry, Reader, Stored, Tally, check_key, check_prefix, printable

_ATTEMPTS = 50
_WRITE_BACK = 16 << 20  # bytes
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.part")


class FileStore:
    """Objects are files below `folder`; only their owner may read them, since dumps hold everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = folder.as_uri()

    @classmethod
    def from_url(cls, url: str) -> FileStore:
        return cls(Path(unquote(urlsplit(url).path)))

    def put(
        self, key: str, chunks: Iterable[bytes], *, size_hint: int | None = None, only_if_absent: bool = False
    ) -> Stored:
        final = self._path(key)
        temporary = final.parent / f".{final.name}.{uuid4().hex}.part"
        tally = Tally()
        doing = f"write {key} to {self.url}"
        with _errors(doing, creating=True):
            handle = self._begin(temporary)
        try:
            with os.fdopen(handle, "wb", buffering=0) as file:
                begun = 0
                for chunk in chunks:
                    with _errors(doing):
                        _write_all(file.fileno(), tally.add(chunk))
                    if tally.size - begun >= _WRITE_BACK:
                        _begin_writing_back(file.fileno(), begun, tally.size - begun)
                        begun = tally.size
                with _errors(doing):
                    os.fsync(file.fileno())
            with _errors(doing):
                _publish(temporary, final, only_if_absent)
        finally:
            temporary.unlink(missing_ok=True)
            self._remove_empty_folders(final.parent)
        return tally.stored

    @contextmanager
    def open(self, key: str) -> Iterator[Reader]:
        with _errors(f"read {key} of {self.url}"):
            file = self._path(key).open("rb")
        with file:
            yield _Reader(file.fileno(), f"read {key} of {self.url}")

    def list(self, prefix: str) -> Iterator[Entry]:
        with _errors(f"list {self.url}"):
            found = [path for path in self._files(check_prefix(prefix)) if not _TEMPORARY.fullmatch(path.name)]
        for key, path in sorted((self._key(path), path) for path in found):
            if key.startswith(prefix) and (status := self._status(path)):
                yield Entry(key, status.st_size, _modified(status))

    def delete(self, key: str) -> None:
        with _errors(f"delete {key} of {self.url}"):
            path = self._path(key)
            path.unlink(missing_ok=True)
            self._remove_empty_folders(path.parent)

    def exists(self, key: str) -> bool:
        with _errors(f"look for {key} in {self.url}"):
            return self._path(key).is_file()

    def locked_until(self, key: str) -> datetime | None:
        return None

    def unfinished(self, prefix: str, before: datetime) -> Iterator[str]:
        with _errors(f"list {self.url}"):
            for path in self._files(check_prefix(prefix)):
                name = self._key(path)
                if not (_TEMPORARY.fullmatch(path.name) and name.startswith(prefix)):
                    continue
                if (status := self._status(path)) and _modified(status) < before:
                    yield name

    def discard(self, name: str) -> None:
        folder, _, temporary = name.rpartition("/")
        if not _TEMPORARY.fullmatch(temporary):
            raise StoreError(f"{name!r} is not an unfinished upload")
        with _errors(f"delete {name} of {self.url}"):
            path = (self.folder / check_key(folder) if folder else self.folder) / temporary
            path.unlink(missing_ok=True)
            self._remove_empty_folders(path.parent)

    def shortcomings(self, key: str) -> tuple[str, ...]:
        with _errors(f"write {key} to {self.url}"):
            if _has_links(self._path(key)):
                return ()
        return ("its file system has no hard links; two runs with one id would not be noticed",)

    def _path(self, key: str) -> Path:
        return self.folder / check_key(key)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _status(self, path: Path) -> os.stat_result | None:
        """None where another run has deleted it meanwhile, and for what is no file: a pipe would be read for ever."""
        with _errors(f"list {self.url}"):
            try:
                found = path.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                if path.is_symlink():
                    note(f"{printable(str(path))} is a broken link, and not ours: passed over")
                return None
        if stat.S_ISREG(found.st_mode):
            return found
        note(f"{printable(str(path))} is no file, and not ours: passed over")
        return None

    def _files(self, prefix: str) -> Sequence[Path]:
        """Below the deepest folder that `prefix` names; a folder that is not there has none."""
        top = self.folder / prefix.rpartition("/")[0]
        found = []
        for folder, _, names in os.walk(top, onerror=_raise_unless_missing):
            found += [Path(folder, name) for name in names]
        return found

    def _begin(self, temporary: Path) -> int:
        """The new file, open. Who leaves a folder empty removes it, and may be about to: then it is made again."""
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._make_folder(temporary.parent)
                return os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileNotFoundError:
                if not left:
                    raise
                time.sleep(random.uniform(0, 0.01))  # noqa: S311 - so that two do not keep step
        raise AssertionError("the last attempt returns or raises")

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make_folder(folder.parent)
        with suppress(FileExistsError):  # where it is a file, the next step says so
            folder.mkdir(mode=0o700)
        _flush_folder(folder.parent)

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.folder and folder.is_relative_to(self.folder):
            try:
                folder.rmdir()
            except OSError:  # not empty, or another run's delete was first
                return
            folder = folder.parent


class _Reader:
    """Reads a file descriptor; an input/output error is the store's, and not the caller's own."""

    def __init__(self, descriptor: int, doing: str) -> None:
        self._descriptor, self._doing = descriptor, doing

    def read(self, size: int = -1, /) -> bytes:
        with _errors(self._doing):
            if size >= 0:
                return os.read(self._descriptor, size)
            return b"".join(iter(lambda: os.read(self._descriptor, 1 << 20), b""))


def _modified(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _publish(temporary: Path, final: Path, only_if_absent: bool) -> None:
    if only_if_absent:
        try:
            _link(temporary, final)
        except FileExistsError:
            raise ObjectExists(f"{final} already exists") from None
    else:
        temporary.replace(final)
    _flush_folder(final.parent)


def _link(temporary: Path, final: Path) -> None:
    """Unlike a rename, a link never replaces. Where there are none (FAT, some network file systems) it is looked first:
    ids are random, so nobody comes in between but by intent.
    """
    try:
        os.link(temporary, final)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if final.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        temporary.replace(final)


def _has_links(path: Path) -> bool:
    """Whether the file there can have a second name."""
    second = path.parent / f".{path.name}.{uuid4().hex}.part"
    try:
        os.link(path, second)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    second.unlink()
    return True


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _begin_writing_back(descriptor: int, first: int, size: int) -> None:
    """So that little is left for fsync, for which somebody waits. Linux begins at once with what is advised away, and
    keeps in memory what is not yet on the disk; elsewhere it is advice without effect.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, first, size, os.POSIX_FADV_DONTNEED)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no fsync of folders
            raise
    finally:
        os.close(descriptor)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


_HINTS = {
    errno.EACCES: "give this user the right to read and write that folder, or set KG_STORE_URL",
    errno.EPERM: "give this user the right to read and write that folder, or set KG_STORE_URL",
    errno.EROFS: "the file system is mounted read-only: set KG_STORE_URL to another place",
    errno.ENOSPC: "the disk is full: prune backups, or set KG_STORE_URL to another place",
    errno.EDQUOT: "the quota is used up: prune backups, or set KG_STORE_URL to another place",
    errno.ENOTDIR: "a file is in the way of the folder: set KG_STORE_URL to a folder",
    errno.ENOENT: "no folder can be made in that place: set KG_STORE_URL to another",
    errno.EIO: "look at the disk and the kernel's log, or set KG_STORE_URL to another place",
}
_HINT = "look at that folder, or set KG_STORE_URL to another place"


@contextmanager
def _errors(doing: str, *, creating: bool = False) -> Iterator[None]:
    """`creating`: what is not there should be after it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and not creating:
            raise ObjectMissing(f"could not {doing}: it is not there") from error
        raise StoreError(f"could not {doing}: {error.strerror}", hint=_HINTS.get(error.errno or 0, _HINT)) from error
