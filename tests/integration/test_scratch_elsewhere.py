"""Scratch clusters of programs that are not the wheel's: those on the PATH, and those of an image in a container."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import CommandFailed
from tasks.core.postgres import scratch as scratch_module
from tasks.core.postgres.binaries import Binaries, path_with_vector, wheel
from tasks.core.postgres.connections import Connection, Server, connect, describe
from tasks.core.postgres.containers import LABEL
from tasks.core.postgres.scratch import scratch_database
from tasks.core.schema.check import check
from tasks.core.settings import Settings
from tests.docker.container import docker_answers
from tests.integration.graphs import deploy_graph
from tests.processes import Person, kill
from tests.servers.components import missing

# Starts a container and stays in it.
ENTER = """
from tasks.core.postgres.containers import start
said = {"name": start("pgvector/pgvector:pg17", "kg", {})[0]}
"""


@pytest.fixture
def own(settings: Settings) -> Settings:
    return settings.model_copy(update={"scratch": None})


def like(conn: Connection, **changes: Any) -> Server:
    return replace(describe(conn), **changes)


def test_programs_on_the_path_are_taken_where_they_have_pgvector(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours = wheel()
    monkeypatch.setenv("PATH", f"{ours.folder}:/usr/bin:/bin")
    found = path_with_vector(ours.major)
    assert found
    assert (found.folder, found.version) == (ours.folder.resolve(), ours.version)
    assert path_with_vector(ours.major - 1) is None
    monkeypatch.setattr(scratch_module, "wheel", lambda: Binaries(tmp_path, "99.0", "another"))
    assert scratch_module.binaries_for(ours.major) == found
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert path_with_vector(ours.major) is None


def containers() -> set[str]:
    said = subprocess.run(["docker", "ps", "-aq", "--filter", f"label={LABEL}"], capture_output=True, check=True)
    return set(said.stdout.decode().split())


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Person]:
    person = Person(sys.executable, tmp_path)
    yield person
    person.finish()


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> str:
    """Of PostgreSQL 17, which this machine has no programs of."""
    if not docker_answers():
        missing("no Docker engine has the image of a server")
    if scratch_module.binaries_for(17).major == 17:
        pytest.skip("programs of PostgreSQL 17 are here, and go before a container")
    monkeypatch.setenv("KG_SCRATCH_IMAGE", "pgvector/pgvector:pg{major}")
    return "pgvector/pgvector:pg17"


@pytest.mark.slow
def test_a_cluster_in_a_container(own: Settings, conn: Connection, image: str, another: Person) -> None:
    before = containers()
    with scratch_database(own, like=like(conn, major=17)) as scratch:
        assert (scratch.server.major, scratch.own, bool(scratch.vector)) == (17, True, True)
        with connect(scratch.address, purpose="test") as inside:
            assert inside.execute("SHOW fsync").fetchone() == ("off",)
        assert len(containers() - before) == 1
    assert containers() == before
    child, said = another.run(ENTER)
    kill(child)
    assert said["name"]
    assert len(containers() - before) == 1
    with scratch_database(own, like=like(conn, major=17)):
        assert len(containers() - before) == 1, "the killed one's was swept"
    assert containers() == before


def test_an_image_that_is_not_there_is_one_line(
    own: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KG_SCRATCH_IMAGE", "no-such/image:pg{major}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    with pytest.raises(CommandFailed) as caught, scratch_database(own, like=like(conn, major=12)):
        pass
    assert "\n" not in str(caught.value)
    assert "docker" in f"{caught.value}"
    with scratch_database(own, like=like(conn, major=wheel().major)) as scratch:
        assert scratch.server.major == wheel().major, "its own programs need no image"


def test_what_is_proved_in_a_container_of_its_major_is_restorable(own: Settings, conn: Connection, image: str) -> None:
    """Of a 17 server, as `--postgres=docker` has it: the embedded 18 would say readable."""
    if describe(conn).major != 17:
        pytest.skip("the tests' server is not of PostgreSQL 17")
    deploy_graph(conn, own, rows=20)
    conn.execute("CREATE ROLE reader_of_copies NOLOGIN")
    conn.execute("GRANT SELECT ON code_embeddings TO reader_of_copies")
    try:
        proof = drill(own, back_up(own))
        assert (proof.ok, proof.grade) == (True, "restorable")
        assert any(image in each.detail for each in check(own).checks if each.name == "scratch server")
    finally:
        conn.execute("DROP OWNED BY reader_of_copies")
        conn.execute("DROP ROLE reader_of_copies")
