"""One Prefect server a session, and an environment of its own a test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core.postgres.connections import Connection
from tasks.core.settings import CHECKOUT, Settings, load_settings


@pytest.fixture(scope="session")
def engine() -> Iterator[None]:
    """A real Prefect server on a temporary database."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=90):
        yield


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    """A copy of the project's migrations, for a test to add to."""
    return Path(shutil.copytree(CHECKOUT / "sql" / "migrations", tmp_path / "migrations"))


@pytest.fixture
def variables(settings: Settings, migrations: Path) -> dict[str, str]:
    """The environment variables with which any process finds the test's database, store and migrations."""
    address = settings.address
    assert address is not None
    assert address.password is not None
    return {
        "KG_HOME": str(settings.home),
        "KG_STORE_URL": settings.store_url,
        "KG_MIGRATIONS": str(migrations),
        "SUPABASE_URL": f"postgresql://{address.user}@{address.host}:{address.port}/{address.dbname}",
        "SUPABASE_DB_PASSWORD": address.password.get_secret_value(),
    }


@pytest.fixture
def dev(engine: None, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """dev is the test's database, for flows that run in this process."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings("dev")


@pytest.fixture
def embeddings(conn: Connection) -> int:
    """Fills code_embeddings (which a deploy has made) with rows; returns how many."""
    conn.execute(
        "INSERT INTO code_embeddings (file_path, file_hash, embedding)"
        " SELECT 'file_' || n, md5(n::text), array_fill(n::real / 100, ARRAY[1536])::vector"
        " FROM generate_series(1, 50) AS n"
    )
    return 50
