"""The README's lines for restoring by hand, run as they stand there, without this project."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tasks.core.backup.dump import back_up
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.graphs import deploy_graph, with_section
from tests.integration.test_streams import TABLES, contents


def lines() -> str:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"### Restoring by hand.*?```bash\n(.*?)```", readme, re.DOTALL)
    assert block
    return "\n".join(line for line in block[1].splitlines() if not line.startswith("cd "))


@pytest.mark.parametrize(
    ("form", "scope"),
    [
        ("binary", "database"),
        pytest.param("portable", "database", marks=pytest.mark.slow),
        pytest.param("binary", ("public", "kg_ops", "Odd $chema"), marks=pytest.mark.slow),
    ],
    ids=["binary", "portable", "some-schemas"],
)
def test_a_backup_restores_by_the_readmes_lines(
    settings: Settings, conn: Connection, form: str, scope: str | tuple[str, ...]
) -> None:
    deploy_graph(conn, settings)
    conn.execute(TABLES.encode())
    chosen = with_section(with_section(settings, "database", scope=scope), "backup", format=form, binary_from_mb=0)
    with operation(settings, "backup"):
        made = back_up(chosen)
        live = contents(conn, made.manifest.tables)
    assert made.manifest.format == form
    assert settings.address is not None
    folder = Path(urlsplit(settings.store_url).path) / made.manifest.folder
    tools = tools_for(conn.info.server_version // 10_000, settings.home).pg_dump.parent
    name = f"restored_{os.getpid()}_{form}_{len(scope)}"
    script = lines().replace("createdb restored", f"createdb {name}").replace("-d restored", f"-d {name}")
    env = {**os.environ, **settings.address.environment(), "PATH": f"{tools}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        with connect(settings.address.database(name), purpose="test") as copy:
            assert contents(copy, made.manifest.tables) == live
    finally:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
