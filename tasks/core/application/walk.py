"""The source files of a tree, in a fixed order, and by name whatever was left out."""

from __future__ import annotations

import hashlib
import os
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from stat import S_ISREG

from tasks.core.errors import UsageError

MAX_BYTES = 1 << 20  # a larger file is data or generated code: its few words of meaning drown

_MAX_PATH_BYTES = 2000  # a B-tree's entry holds 2,704 bytes, and the path shares it with the hash

# Folders of other people's code, or of none. Hidden ones are left out as well.
_IGNORED_FOLDERS = frozenset({"__pycache__", "CVS", "_darcs"})
_DEPENDENCIES = frozenset({"node_modules", "bower_components", "site-packages", "dist-packages"})
_ENVIRONMENT_MARK = "pyvenv.cfg"  # stands at the top of every virtual environment, whatever its name

_EXTENSIONS = {
    "bash": "sh bash zsh",
    "c": "c h",
    "cpp": "cc cpp cxx hh hpp hxx",
    "csharp": "cs",
    "css": "css scss less",
    "dart": "dart",
    "elixir": "ex exs",
    "erlang": "erl hrl",
    "go": "go",
    "graphql": "graphql gql",
    "haskell": "hs",
    "html": "html htm",
    "ini": "ini cfg",
    "java": "java",
    "javascript": "js jsx mjs cjs",
    "json": "json",
    "julia": "jl",
    "kotlin": "kt kts",
    "lua": "lua",
    "markdown": "md markdown",
    "ocaml": "ml mli",
    "perl": "pl pm",
    "php": "php",
    "powershell": "ps1 psm1",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "r": "r",
    "restructuredtext": "rst",
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala",
    "sql": "sql",
    "svelte": "svelte",
    "swift": "swift",
    "terraform": "tf",
    "text": "txt",
    "toml": "toml",
    "typescript": "ts tsx mts cts",
    "vue": "vue",
    "xml": "xml",
    "yaml": "yaml yml",
    "zig": "zig",
}
_LANGUAGES = {extension: language for language, many in _EXTENSIONS.items() for extension in many.split()}
_NAMES = {"dockerfile": "dockerfile", "makefile": "make", "cmakelists.txt": "cmake"}


@dataclass(frozen=True)
class Skipped:
    """A file (or a folder, its path ends in a slash) that was not indexed. `lasting`: its content is known to be
    none of ours; otherwise it could not be read this time, and what is known about it stays.
    """

    path: str
    reason: str
    lasting: bool = True


@dataclass(frozen=True)
class Found:
    """A source file by its name. `path` is relative to the tree, POSIX form."""

    path: str
    language: str


@dataclass(frozen=True)
class Source:
    """A source file by its content. `sha256` is of the bytes, in hex; `text` keeps its line ends."""

    path: str
    language: str
    sha256: str
    text: str


def language_of(path: str) -> str | None:
    """The language by name or extension; None for what is no source text."""
    name = path.rpartition("/")[2].lower()
    return _NAMES.get(name) or _LANGUAGES.get(name.rpartition(".")[2] if "." in name else "")


def walk(root: Path, *, max_bytes: int = MAX_BYTES) -> tuple[tuple[Found, ...], tuple[Skipped, ...]]:
    """Source files below `root` sorted by path, and what was left out with its reason.

    Hidden files and folders and caches are left out silently. Symbolic links are never followed, so no loop can
    hold us and no file outside the tree comes in. Raises UsageError when `root` is no folder that can be read.
    """
    try:
        with os.scandir(root):
            pass
    except OSError as error:
        raise UsageError(
            f"{root} cannot be indexed: {error.strerror}", hint="give the folder of a source tree"
        ) from error
    found: list[Found] = []
    skipped: list[Skipped] = []
    for entry, path in _entries(root, skipped):
        reason = _unfit(entry, path, max_bytes)
        if reason is None:
            found.append(Found(path, language_of(path) or "text"))
        else:
            skipped.append(reason)
    return tuple(sorted(found, key=lambda file: file.path)), tuple(sorted(skipped, key=lambda item: item.path))


def read(root: Path, file: Found) -> Source | Skipped:
    """The content of `file`, or why it is not to be had as text."""
    try:
        data = (root / file.path).read_bytes()
    except OSError as error:
        return Skipped(file.path, f"cannot be read: {error.strerror}", lasting=False)
    if b"\0" in data:
        return Skipped(file.path, "binary")
    text = _decoded(data, file.language)
    if text is None:
        return Skipped(file.path, "not UTF-8")
    return Source(file.path, file.language, hashlib.sha256(data).hexdigest(), text)


def _entries(root: Path, skipped: list[Skipped]) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Every visible entry that is no folder, with its path; folders not entered go to `skipped`."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        try:
            with os.scandir(root / prefix) as listing:
                entries = list(listing)
        except OSError as error:
            skipped.append(Skipped(_shown(prefix), f"cannot be read: {error.strerror}", lasting=False))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _IGNORED_FOLDERS:
                continue
            path = prefix + entry.name
            if not entry.is_dir(follow_symlinks=False):
                yield entry, path
            elif _foreign(entry):
                skipped.append(Skipped(f"{path}/", "installed packages"))
            else:
                pending.append(f"{path}/")


def _foreign(folder: os.DirEntry[str]) -> bool:
    return folder.name in _DEPENDENCIES or Path(folder.path, _ENVIRONMENT_MARK).is_file()


def _unfit(entry: os.DirEntry[str], path: str, max_bytes: int) -> Skipped | None:
    """Why this entry is not to be read: decided by name, kind and size, without opening it."""
    if not _storable(path):
        return Skipped(_shown(path), "a name that cannot be stored")
    if entry.is_symlink():
        return Skipped(path, "symbolic link")
    if language_of(path) is None:
        return Skipped(path, "not a known kind of source")
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror}", lasting=False)
    if not S_ISREG(status.st_mode):
        return Skipped(path, "not a regular file")
    if status.st_size > max_bytes:
        return Skipped(path, f"larger than {max_bytes:,} bytes")
    return None


def _storable(path: str) -> bool:
    """UTF-8 (surrogates stand for bytes that are not), and short enough for a B-tree's entry."""
    try:
        return len(path.encode()) <= _MAX_PATH_BYTES
    except UnicodeEncodeError:
        return False


def _shown(path: str) -> str:
    """`path` with its bytes that are no UTF-8 written out."""
    return path.encode("utf-8", "backslashreplace").decode()


def _decoded(data: bytes, language: str) -> str | None:
    """The text; Python files may name an encoding of their own (PEP 263), all others are UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if language != "python":
            return None
    try:
        encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
        return data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError, LookupError):
        return None
