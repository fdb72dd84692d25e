"""Dumps encrypted with age: nothing plain in the store, the identity only where a backup is looked into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyrage
import pytest
from pydantic import SecretStr

from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.backup.encryption import DecryptionFailed, decrypted, encrypted
from tasks.core.backup.library import find
from tasks.core.backup.manifest import ENCRYPTED
from tasks.core.backup.readback import verify_backups
from tasks.core.errors import SettingsError
from tasks.core.postgres.connections import Connection
from tasks.core.schema.check import check
from tasks.core.settings import Settings
from tasks.core.store.base import open_store
from tests.integration.graphs import deploy_graph, files


@pytest.fixture(scope="module")
def identity() -> pyrage.x25519.Identity:
    return pyrage.x25519.Identity.generate()


def test_the_whole_way_encrypted(
    settings: Settings, conn: Connection, tmp_path: Path, identity: pyrage.x25519.Identity
) -> None:
    deploy_graph(conn, settings, rows=50)
    conn.execute("UPDATE code_embeddings SET content_preview = 'a very recognisable word' WHERE file_path = 'src/1'")
    writer = settings.model_copy(update={"store_key": str(identity.to_public())})
    backup = back_up(writer)
    assert backup.manifest.dump.age == str(identity.to_public())
    assert [name.rpartition("/")[2] for name in files(settings)] == [ENCRYPTED, "globals.sql", "manifest.json"]
    stored = Path(settings.store_url.removeprefix("file://"), backup.dump_key).read_bytes()
    assert stored.startswith(b"age-encryption.org/v1")
    assert "need KG_STORE_IDENTITY" in verify_backups(writer).checks[0].detail

    with pytest.raises(SettingsError, match="is encrypted to age1"):
        drill(writer, backup)
    other = SecretStr(str(pyrage.x25519.Identity.generate()))
    with pytest.raises(SettingsError, match="KG_STORE_IDENTITY does not fit"):
        drill(writer.model_copy(update={"store_identity": other}), backup)
    assert find(open_store(settings), "dev", backup.id).proof is None, "a missing key is no verdict"

    file = tmp_path / "identity.txt"
    file.write_text(f"# created: today\n{identity}\n")
    reader = settings.model_copy(update={"store_identity": SecretStr(str(file))})
    assert "entries: unchanged" in verify_backups(reader).checks[0].detail
    assert drill(reader, backup).ok


def test_damage_is_named_with_and_without_the_identity(
    settings: Settings, conn: Connection, identity: pyrage.x25519.Identity
) -> None:
    deploy_graph(conn, settings, rows=50)
    writer = settings.model_copy(update={"store_key": str(identity.to_public())})
    path = Path(settings.store_url.removeprefix("file://"), back_up(writer).dump_key)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for look in (writer, writer.model_copy(update={"store_identity": SecretStr(str(identity))})):
        [found] = verify_backups(look).checks
        assert found.status == "failed"
        assert "was changed" in found.detail


def test_after_a_change_of_keys_each_is_verified_as_far_as_its_identity_goes(
    settings: Settings, conn: Connection, identity: pyrage.x25519.Identity
) -> None:
    deploy_graph(conn, settings, rows=5)
    new = pyrage.x25519.Identity.generate()
    old = back_up(settings.model_copy(update={"store_key": str(identity.to_public())}))
    back_up(settings.model_copy(update={"store_key": str(new.to_public())}))
    reader = settings.model_copy(update={"store_identity": SecretStr(str(new))})
    first, second = verify_backups(reader).checks
    assert (first.name, first.status, "does not fit" in first.detail) == (old.id, "failed", True)
    assert "KG_STORE_IDENTITY" in first.remedy
    assert (second.status, "entries: unchanged" in second.detail) == ("ok", True)
    with pytest.raises(SettingsError, match="does not fit"):
        verify_backups(reader, old.id)


def test_malformed_keys_are_named(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="KG_STORE_KEY"):
        back_up(settings.model_copy(update={"store_key": "age1nonsense"}))
    assert files(settings) == []
    report = check(settings.model_copy(update={"store_identity": SecretStr("AGE-SECRET-KEY-1NO")}))
    assert any(each.name == "store" and "KG_STORE_IDENTITY" in each.detail for each in report.checks)
    with pytest.raises(SettingsError, match="KG_STORE_IDENTITY"):
        list(decrypted([b"x"], SecretStr("AGE-SECRET-KEY-1NO")))


@pytest.mark.parametrize("size", [0, 1, 65536, 3_000_000])
def test_what_goes_in_comes_out(identity: pyrage.x25519.Identity, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    chunks = [content[start : start + 100_000] for start in range(0, size, 100_000)]
    sealed = b"".join(encrypted(chunks, str(identity.to_public())))
    assert b"".join(decrypted([sealed], SecretStr(str(identity)))) == content
    with pytest.raises(DecryptionFailed):
        list(decrypted([sealed[:-1]], SecretStr(str(identity))))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_the_source_raises_arrives_as_it_is(identity: pyrage.x25519.Identity, error: type[BaseException]) -> None:
    def source() -> Iterator[bytes]:
        yield bytes(100_000)
        raise error("now")

    with pytest.raises(error, match="now"):
        list(encrypted(source(), str(identity.to_public())))
