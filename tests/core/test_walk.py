"""Which files of a tree are source text, and what is said of the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.core.application.walk import Skipped, Source, language_of, read, walk
from tasks.core.errors import UsageError


def found(root: Path) -> list[str]:
    return [file.path for file in walk(root)[0]]


def put(root: Path, path: str, content: bytes = b"x = 1\n") -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def test_files_come_sorted_and_relative_to_the_tree(tmp_path: Path) -> None:
    for path in ("b.py", "a/z.ts", "a/b/c.go", "Makefile"):
        put(tmp_path, path)
    assert found(tmp_path) == ["Makefile", "a/b/c.go", "a/z.ts", "b.py"]


@pytest.mark.parametrize(
    "path",
    [".git/config.py", ".hidden.py", "a/__pycache__/x.py", "CVS/x.py", ".venv/lib/x.py"],
)
def test_hidden_files_and_caches_are_left_out_silently(tmp_path: Path, path: str) -> None:
    put(tmp_path, path)
    assert walk(tmp_path) == ((), ())


@pytest.mark.parametrize("folder", ["node_modules", "lib/site-packages"])
def test_installed_packages_are_left_out_by_name(tmp_path: Path, folder: str) -> None:
    put(tmp_path, f"{folder}/p/x.py")
    assert walk(tmp_path) == ((), (Skipped(f"{folder}/", "installed packages"),))


def test_a_virtual_environment_is_known_by_its_mark_not_its_name(tmp_path: Path) -> None:
    put(tmp_path, "env311/pyvenv.cfg")
    put(tmp_path, "env311/lib/x.py")
    assert walk(tmp_path) == ((), (Skipped("env311/", "installed packages"),))


def test_installed_packages_can_be_the_tree_itself(tmp_path: Path) -> None:
    put(tmp_path, "site-packages/p/x.py")
    assert found(tmp_path / "site-packages") == ["p/x.py"]


def test_links_are_named_and_never_followed(tmp_path: Path) -> None:
    put(tmp_path, "a/x.py")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "y.py").symlink_to("/etc/passwd")
    files, skipped = walk(tmp_path)
    assert [file.path for file in files] == ["a/x.py"]
    assert skipped == (Skipped("a/loop", "symbolic link"), Skipped("a/y.py", "symbolic link"))


def test_a_pipe_with_a_source_name_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    assert walk(tmp_path) == ((), (Skipped("pipe.py", "not a regular file"),))


def test_large_and_unknown_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, "large.py", b"#" * 101)
    put(tmp_path, "photo.jpeg")
    assert walk(tmp_path, max_bytes=100) == (
        (),
        (Skipped("large.py", "larger than 100 bytes"), Skipped("photo.jpeg", "not a known kind of source")),
    )


def test_a_name_that_is_no_utf8_is_named_with_its_bytes(tmp_path: Path) -> None:
    try:
        put(tmp_path, os.fsdecode(b"\xff.py"))
    except OSError:
        pytest.skip("this file system admits UTF-8 names only")
    assert walk(tmp_path) == ((), (Skipped("\\udcff.py", "a name that cannot be stored"),))


@pytest.mark.parametrize("path", ["absent", "file.py"])
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, path: str) -> None:
    put(tmp_path, "file.py")
    with pytest.raises(UsageError, match="cannot be indexed"):
        walk(tmp_path / path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x = 1\n", "x = 1\n"),
        (b"\xef\xbb\xbfx = 1\r\n", "x = 1\r\n"),
        (
            "# -*- coding: latin-1 -*-\nname = 'Zo\u00eb'\n".encode("latin-1"),
            "# -*- coding: latin-1 -*-\nname = 'Zo\u00eb'\n",
        ),
        (b"", ""),
    ],
)
def test_text_is_read_in_its_own_encoding(tmp_path: Path, content: bytes, expected: str) -> None:
    put(tmp_path, "x.py", content)
    [file] = walk(tmp_path)[0]
    source = read(tmp_path, file)
    assert isinstance(source, Source)
    assert source.text == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"x\0y", "binary"), (b"caf\xe9", "not UTF-8"), (b"# coding: no-such-encoding\n\xe9", "not UTF-8")],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    put(tmp_path, "x.py", content)
    [file] = walk(tmp_path)[0]
    assert read(tmp_path, file) == Skipped("x.py", reason)


def test_a_file_that_went_away_meanwhile_counts_as_unread(tmp_path: Path) -> None:
    place = put(tmp_path, "x.py")
    [file] = walk(tmp_path)[0]
    place.unlink()
    assert read(tmp_path, file) == Skipped("x.py", "cannot be read: No such file or directory", lasting=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_named(tmp_path: Path) -> None:
    put(tmp_path, "closed/x.py")
    (tmp_path / "closed").chmod(0)
    try:
        assert walk(tmp_path) == ((), (Skipped("closed/", "cannot be read: Permission denied", lasting=False),))
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("B.TSX", "typescript"),
        ("Dockerfile", "dockerfile"),
        ("x/Makefile", "make"),
        ("no_extension", None),
        ("x.bin", None),
        ("py", None),
        ("a.py/b", None),
    ],
)
def test_languages_go_by_name(path: str, language: str | None) -> None:
    assert language_of(path) == language
