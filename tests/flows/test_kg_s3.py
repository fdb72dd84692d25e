"""`kg backup`, `backups --verify`, `restore-drill` and `prune --apply` on S3 servers, encrypted, as an operator runs
them; afterwards no secret is in what was said, in Prefect's database (logs, artifacts, parameters), or in the store.

moto's server, SeaweedFS, and whatever KG_TEST_S3_ENDPOINT names (with KG_TEST_S3_BUCKET and AWS_*).
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pyrage
import pytest
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, PREFECT_API_URL

from tasks.core.backup.library import backups, write_proof
from tasks.core.backup.manifest import MANIFEST, Backup, new_id
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tasks.core.store.base import Store, open_store
from tests.integration.graphs import deploy_graph
from tests.s3 import moto_server, s3_variables
from tests.seaweed import seaweed
from tests.terminal import kg

pytestmark = pytest.mark.slow

MOTO_SECRET = "a-secret-that-nothing-may-show"


@pytest.fixture(params=["moto", "seaweed", "KG_TEST_S3_ENDPOINT"])
def bucket(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """s3://bucket/prefix, empty; the AWS variables name its server."""
    if request.param == "KG_TEST_S3_ENDPOINT":
        if not os.environ.get(request.param):
            pytest.skip(f"{request.param} is not set")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", os.environ[request.param])
        yield f"s3://{os.environ.get('KG_TEST_S3_BUCKET', 'kg-test')}/t-{secrets.token_hex(4)}/kg"
        return
    (tmp_path / "weed").mkdir()
    on_moto = request.param == "moto"
    with moto_server() if on_moto else seaweed(tmp_path / "weed") as endpoint:
        for variable, value in s3_variables(endpoint, *(("test", MOTO_SECRET) if on_moto else ())).items():
            monkeypatch.setenv(variable, value)
        name = f"kg-{secrets.token_hex(4)}"
        boto3.Session().client("s3").create_bucket(Bucket=name)
        yield f"s3://{name}/kg"


def older(store: Store, backup: Backup, days: float) -> str:
    """A copy of it, as if made so many days before; its id."""
    created = backup.created - timedelta(days=days)
    manifest = backup.manifest.model_copy(update={"id": new_id(created), "created": created}).sealed()
    for each in manifest.objects:
        with store.open(backup.key(each.name)) as reader:
            store.put(f"{manifest.folder}/{each.name}", [reader.read()])
    store.put(f"{manifest.folder}/{MANIFEST}", [manifest.to_json()])
    assert backup.proof
    proof = backup.proof.model_copy(update={"backup": manifest.id, "manifest": manifest.checksum})
    return write_proof(store, Backup(manifest=manifest), proof).id


def test_the_verbs_on_a_bucket(
    engine: None, variables: dict[str, str], settings: Settings, conn: Connection, bucket: str, tmp_path: Path
) -> None:
    deploy_graph(conn, settings, rows=80)
    conn.execute("UPDATE kg_ops.ledger SET applied_at = now() - interval '400 days'")  # else the older backup is kept
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity.txt").write_text(f"{identity}\n")
    own = {
        **variables,
        "KG_STORE_URL": bucket,
        "KG_STORE_KEY": str(identity.to_public()),
        "KG_STORE_IDENTITY": str(tmp_path / "identity.txt"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
    }
    heard: list[str] = []

    def said(*words: str, status: int = 0, **other: str) -> Any:
        done = kg(*words, "--json", "--verbose", **{**own, **other})
        heard.extend((done.stdout, done.stderr))
        assert done.returncode == status, done.stderr
        return json.loads(done.stdout)

    made = said("backup", "dev")
    assert (made["proved"], made["tables"]["public.code_embeddings"]) == (True, 80)
    on_s3 = settings.model_copy(update={"store_url": bucket})
    store = open_store(on_s3)
    [found] = backups(store, "dev")
    assert (found.id, found.manifest.dump.age) == (made["id"], own["KG_STORE_KEY"])
    with store.open(found.dump_key) as reader:
        assert reader.read().startswith(b"age-encryption.org/v1")

    [checked] = said("backups", "dev", "--verify")["checks"]
    assert (checked["status"], "unchanged" in checked["detail"]) == ("ok", True)
    drilled = said("restore-drill", "dev", "--backup", found.id)
    assert (drilled["ok"], drilled["tables"]) == (True, made["tables"])

    old = older(store, found, 30)
    assert [each["id"] for each in said("prune", "dev", "--apply")["delete"]] == [old]
    assert [each.id for each in backups(store, "dev")] == [found.id]

    blind = said("restore-drill", "dev", "--backup", found.id, status=2, KG_STORE_IDENTITY="")
    assert "KG_STORE_IDENTITY" in " ".join(str(blind["error"][part]) for part in ("message", "hint"))
    nowhere = said("backup", "dev", status=1, KG_STORE_URL="s3://no-such-bucket-of-ours/kg")
    assert "no-such-bucket-of-ours" in nowhere["error"]["message"]

    hidden = [os.environ["AWS_SECRET_ACCESS_KEY"], str(identity), own["SUPABASE_DB_PASSWORD"]]
    _in_none_of(hidden, "".join(heard).encode(), "what was said")
    database = Path(PREFECT_API_DATABASE_CONNECTION_URL.value().partition("///")[2])
    kept = list(database.parent.glob(f"{database.name}*"))
    assert any(b"restore-drill" in file.read_bytes() for file in kept)
    for file in (*kept, *(tmp_path / "prefect").rglob("*")):
        if file.is_file():
            _in_none_of(hidden, file.read_bytes(), str(file))
    for entry in store.list(""):
        with store.open(entry.key) as reader:
            _in_none_of(hidden, reader.read(), entry.key)


def _in_none_of(hidden: list[str], content: bytes, where: str) -> None:
    for number, secret in enumerate(hidden):
        assert secret.encode() not in content, f"secret {number} is in {where}"
