"""The README's lines for restoring by hand, run as they stand there, without this project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pyrage
import pytest

from tasks.core.backup.dump import back_up
from tasks.core.operations.operation import operation
from tasks.core.postgres.connections import Connection, connect
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import CHECKOUT, Settings
from tests.integration.graphs import deploy_graph, with_section
from tests.integration.test_streams import TABLES, contents

# What `age -d -i IDENTITY [FILE]` does, for machines without age.
AGE = f"""#!{sys.executable}
import sys, pyrage
_, decrypt, identity, keys, *files = sys.argv
assert (decrypt, identity) == ("-d", "-i")
lines = [line.strip() for line in open(keys) if line.strip() and not line.startswith("#")]
found = (open(files[0], "rb") if files else sys.stdin.buffer).read()
sys.stdout.buffer.write(pyrage.decrypt(found, [pyrage.x25519.Identity.from_str(line) for line in lines]))
"""


def lines(form: str) -> str:
    """The README's script; of an encrypted backup with the line that takes another's place."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", readme.partition("### Restoring by hand")[2], re.DOTALL)
    found = blocks[0].splitlines()
    if form == "encrypted":
        [first] = [number for number, line in enumerate(found) if line.startswith("zstd -d")]
        found[first] = blocks[1].strip()
        assert found[first].startswith("age -d")
    return "\n".join(found)


@pytest.mark.parametrize(
    ("form", "scope"),
    [
        ("binary", "database"),
        pytest.param("portable", "database", marks=pytest.mark.slow),
        pytest.param("encrypted", "database", marks=pytest.mark.slow),
        pytest.param("binary", ("public", "kg_ops", "Odd $chema"), marks=pytest.mark.slow),
    ],
    ids=["binary", "portable", "encrypted", "some-schemas"],
)
def test_a_backup_restores_by_the_readmes_lines(
    settings: Settings, conn: Connection, tmp_path: Path, form: str, scope: str | tuple[str, ...]
) -> None:
    deploy_graph(conn, settings)
    conn.execute(TABLES.encode())
    format_ = "portable" if form == "portable" else "binary"
    chosen = with_section(with_section(settings, "database", scope=scope), "backup", format=format_, binary_from_mb=0)
    identity = pyrage.x25519.Identity.generate()
    if form == "encrypted":
        chosen = chosen.model_copy(update={"store_key": str(identity.to_public())})
    with operation(settings, "backup"):
        made = back_up(chosen)
        live = contents(conn, made.manifest.tables)
    assert made.manifest.format == format_
    assert settings.address is not None
    folder = Path(urlsplit(settings.store_url).path) / made.manifest.folder
    tools = tools_for(conn.info.server_version // 10_000, settings.home).pg_dump.parent
    name = f"restored_{os.getpid()}_{form}_{len(scope)}"
    stored = sorted(folder.rglob("*"))
    if shutil.which("age") is None:
        (tmp_path / "age").write_text(AGE)
        (tmp_path / "age").chmod(0o755)
    script = lines(form).replace("createdb restored", f"createdb {name}").replace("-d restored", f"-d {name}")
    script, found = re.subn(r"\.kg/backups/dev/\w+-\w+", f"'{folder}'", script)
    assert found == 1
    script = script.replace("cd by-hand", f"cd by-hand && echo '{identity}' > identity.txt", 1)
    env = {**os.environ, **settings.address.environment(), "PATH": f"{tools}:{os.environ['PATH']}:{tmp_path}"}
    try:
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        with connect(settings.address.database(name), purpose="test") as copy:
            assert contents(copy, made.manifest.tables) == live
        assert sorted(folder.rglob("*")) == stored, "nothing is unpacked into the store"
    finally:
        conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
