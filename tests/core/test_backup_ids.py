"""What is typed as the id of a backup: refused before the store is asked, with a message that a person can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows import confirmation
from flows.rollback import rollback
from tasks.core.backup.library import check_exists
from tasks.core.backup.manifest import MANIFEST
from tasks.core.errors import BackupError, NotConfirmed, UsageError
from tasks.core.settings import load_settings
from tasks.core.store.base import open_store

ID = "20260101T020000Z-0123abcd"
ATTACKS = [
    "../production/x",
    f"../production/{ID}",
    f"{ID}/../../production/{ID}",
    f"/etc/{ID}",
    "/etc/passwd",
    f"production/{ID}",
    "..%2fproduction%2f" + ID,
    "%2e%2e/",
    f"{ID}\0",
    f"{ID}\0.json",
    f"{ID}\n",
    f" {ID}",
    f"{ID}?versionId=1",
    "٢٠٢٦٠١٠١T٠٢٠٠٠٠Z-0123abcd",  # digits, but not ours
    "x" * 100_000,
    "{{ ctx }}",
    "'; DROP TABLE code_embeddings; --",
]


class Untouched:
    """A store that nobody may ask anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the store was asked: {name}")


@pytest.mark.parametrize("typed", ATTACKS, ids=lambda text: ascii(text[:30]))
def test_what_is_no_id_never_reaches_the_store(typed: str) -> None:
    with pytest.raises(UsageError, match="is not the id of a backup") as refused:
        check_exists(Untouched(), "dev", typed)  # type: ignore[arg-type]
    assert len(refused.value.message) < 200
    assert refused.value.message.isprintable()


def test_the_id_of_another_environments_backup_is_none_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the flow's own function, with dev's address nowhere: it was not opened."""
    monkeypatch.setenv("KG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KG_STORE_URL", (tmp_path / "store").as_uri())
    monkeypatch.setenv("SUPABASE_URL", "postgresql://kg@127.0.0.1:1/nothing")
    open_store(load_settings("dev")).put(f"production/{ID}/{MANIFEST}", [b"{}"])
    with pytest.raises(BackupError, match=f"there is no backup {ID} of dev"):
        rollback.fn(environment="dev", strategy="restore", backup=ID, confirm="dev")
    with pytest.raises(UsageError, match="is not the id of a backup"):
        rollback.fn(environment="dev", strategy="restore", backup=f"../production/{ID}", confirm="dev")
    assert [entry.key for entry in open_store(load_settings("dev")).list("")] == [f"production/{ID}/{MANIFEST}"]


def test_a_long_confirmation_is_refused_in_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirmation, "_of_deployment", lambda: True)
    with pytest.raises(NotConfirmed) as refused:
        confirmation.typed("dev", "dev\0" * 100_000)
    assert len(refused.value.message) < 200
