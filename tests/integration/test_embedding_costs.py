"""What embeddings cost: a cache that pays for no text twice, a daily limit, processes that race for the last dollar."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks.core.application.choosing import chosen_embedder
from tasks.core.application.index import index
from tasks.core.application.search import search
from tasks.core.errors import OpsError, SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.settings import CHECKOUT, Settings
from tests.embeddings_server import KEY, EmbeddingsServer
from tests.integration.embedding_fixtures import (
    FILES,
    PRICE,
    Listener,
    api,
    changed,
    keyed,
    running,
    spent,
    stored,
    tree,
)
from tests.processes import free_port
from tests.redis_server import redis_server

pytestmark = pytest.mark.slow
__all__ = ["api", "keyed", "running", "tree"]  # fixtures


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis server."""
    with redis_server(tmp_path_factory.mktemp("redis")) as place:
        yield f"redis://{place}/0"


def test_a_cached_embedding_is_not_paid_for_again(
    keyed: Settings, conn: Connection, api: EmbeddingsServer, tree: Path, redis: str
) -> None:
    cached = keyed.model_copy(update={"redis_url": SecretStr(redis)})
    index(cached, tree)
    before = conn.execute("SELECT file_path, embedding::text FROM code_embeddings ORDER BY 1").fetchall()
    conn.execute("TRUNCATE code_embeddings")
    assert index(cached, tree).indexed == FILES
    assert api.asked == 2
    assert conn.execute("SELECT file_path, embedding::text FROM code_embeddings ORDER BY 1").fetchall() == before
    counted = conn.execute("SELECT cache_hits_count, cache_miss_count FROM embedding_cache_stats").fetchone()
    assert counted == (FILES, FILES)
    conn.execute("TRUNCATE code_embeddings")
    index(changed(cached, embedding_model="local-model", embedding_price=0.0), tree)
    assert api.asked == 4


def test_a_dead_cache_is_said_once_and_slows_nothing_down(
    keyed: Settings, conn: Connection, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hung:  # takes connections, and never says a word
        for port in (hung.getsockname()[1], free_port()):
            dead = keyed.model_copy(update={"redis_url": SecretStr(f"redis://:hush@127.0.0.1:{port}/0")})
            conn.execute("TRUNCATE code_embeddings")
            started = time.monotonic()
            with reporting(listener := Listener()):
                index(dead, tree)
            assert time.monotonic() - started < 5
            assert stored(conn) == FILES
            [said] = [note for note in listener.notes if "REDIS_URL" in note]
            assert "left out of this run" in said
            assert "hush" not in said
    monkeypatch.setitem(sys.modules, "redis", None)
    with reporting(listener := Listener()):
        search(dead, "mail")
    assert [note for note in listener.notes if "uv sync --extra redis" in note]


def test_the_run_that_would_exceed_the_limit_stops_before_the_call(
    keyed: Settings, conn: Connection, api: EmbeddingsServer, tree: Path
) -> None:
    first = [path for path in sorted(tree.iterdir()) if path.name.startswith("m")][:31]
    first.insert(0, tree / "empty.py")
    for path in set(tree.iterdir()) - set(first):
        path.write_text("#" * 8000)
    limit = sum(len(f"{path.name}\n\n{path.read_text()}".encode()) for path in first) * PRICE
    limited = keyed.model_copy(update={"openai_max_daily_cost": limit})
    with pytest.raises(OpsError, match=r"OPENAI_MAX_DAILY_COST of .* would be exceeded") as caught:
        index(limited, tree)
    assert caught.value.exit_status == 1
    assert caught.value.message.endswith("; 32 files were indexed and stay")
    assert "at 00:00 UTC" in (caught.value.hint or "")
    assert api.asked == 1
    assert stored(conn) == 32
    calls, tokens, cost = spent(conn)
    assert (calls, tokens) == (1, api.tokens())
    assert math.isclose(cost, tokens * PRICE, rel_tol=1e-9)
    assert index(keyed, tree).indexed == FILES - 32
    unknown = changed(limited, embedding_model="local-model")
    with pytest.raises(SettingsError, match="what local-model costs is not known"):
        search(unknown, "mail")


_SPENDER = """
import sys
from tasks.core.application.choosing import chosen_embedder
from tasks.core.errors import OpsError
from tasks.core.settings import load_settings
try:
    with chosen_embedder(load_settings("dev")) as embedder:
        while True:
            embedder.embed(["x" * 4000])
except OpsError as error:
    print(error.message)
"""


def test_processes_that_race_for_the_budget_stay_within_it(
    keyed: Settings, conn: Connection, api: EmbeddingsServer
) -> None:
    """A call of 4,000 bytes may cost 4,000 tokens and costs 1,000; the limit is what thirty calls cost."""
    limit, address = 30_000 * PRICE, keyed.address
    assert address is not None
    env = {
        **os.environ,
        "SUPABASE_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
        "SUPABASE_DB_PASSWORD": address.password.get_secret_value() if address.password else "",
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": api.url,
        "OPENAI_MAX_DAILY_COST": f"{limit:.9f}",
        "KG_HOME": str(keyed.home),
    }
    argv = [sys.executable, "-c", _SPENDER]
    racers = [subprocess.Popen(argv, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [racer.communicate(timeout=60)[0] for racer in racers]
    assert all("would be exceeded" in each for each in said), said
    calls, tokens, cost = spent(conn)
    assert (calls, tokens) == (api.asked, 1000 * api.asked)
    # At the end each of the others may have held a call's 4,000 tokens when the last one was refused.
    assert 18 <= calls <= 30
    assert math.isclose(cost, tokens * PRICE, rel_tol=1e-9)


def test_the_bound_of_a_killed_process_stays_counted(keyed: Settings, conn: Connection) -> None:
    with chosen_embedder(keyed) as embedder:
        embedder.embed(["x"])
    before = spent(conn)[2]
    conn.execute("UPDATE embedding_cache_stats SET estimated_cost = estimated_cost + 1")  # what one would leave
    limited = keyed.model_copy(update={"openai_max_daily_cost": 1.0})
    with pytest.raises(OpsError, match=r"of \$1\.00 would be exceeded: \$1\.00 is spent today"):
        search(limited, "mail")
    assert math.isclose(spent(conn)[2], 1 + before)
