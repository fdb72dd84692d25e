"""`kg index` and `kg search` through an embeddings API: a real server that speaks it, and its faults."""

from __future__ import annotations

import math
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tasks.core.application.choosing import chosen_embedder
from tasks.core.application.index import index
from tasks.core.application.search import search
from tasks.core.errors import OpsError, SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.progress import reporting
from tasks.core.settings import Settings
from tests.embeddings_server import CONTEXT_BYTES, KEY, EmbeddingsServer
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

pytestmark = pytest.mark.slow
__all__ = ["api", "keyed", "running", "tree"]  # fixtures


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
