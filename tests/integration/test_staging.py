"""A restore beside builds its copy in the target by a second hop, which no drill has seen: it is compared first."""

from __future__ import annotations

import pytest

from tasks.core.backup import restore as module
from tasks.core.backup.carrying import Hop
from tasks.core.backup.drill import drill
from tasks.core.backup.dump import back_up
from tasks.core.errors import IntegrityError
from tasks.core.operations.rollback import Request
from tasks.core.postgres.connections import Connection
from tasks.core.settings import Settings
from tests.faults.runs import deploy, rollback

pytestmark = pytest.mark.slow

STATE = "SELECT n.nspname || '.' || c.relname, c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
OURS = f"{STATE} WHERE c.relname ~ '^code_' AND c.relkind = 'r' ORDER BY 1"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("DELETE FROM {}.code_embeddings WHERE file_path = 'b'", "has 2 rows in code_embeddings, its manifest says 3"),
        ("UPDATE {}.code_embeddings SET language = 'sql' WHERE file_path = 'b'", "has other rows in code_embeddings"),
    ],
    ids=["row lost", "row changed"],
)
def test_a_copy_that_lost_something_on_its_way_is_not_swapped_in(
    settings: Settings, conn: Connection, monkeypatch: pytest.MonkeyPatch, fault: str, said: str
) -> None:
    assert settings.address
    own = settings.model_copy(update={"scratch": settings.address.database("postgres")})
    deploy(own, drilled=False)
    for name in ("a", "b", "c"):
        conn.execute("INSERT INTO code_embeddings (file_path, file_hash) VALUES (%s, '1')", [name])
    backup = back_up(own)
    drill(own, backup)
    before, rows = conn.execute(OURS).fetchall(), conn.execute("TABLE code_embeddings").fetchall()
    carry = module.carry

    def losing(hop: Hop, options: dict[str, str]) -> None:
        carry(hop, options)
        conn.execute(fault.format(hop.schema).encode())

    monkeypatch.setattr(module, "carry", losing)
    with pytest.raises(IntegrityError, match=said):
        rollback(own, Request("restore", backup.id, yes=True))
    assert conn.execute(OURS).fetchall() == before, "nothing was swapped, and no staging schema stays"
    assert conn.execute("TABLE code_embeddings").fetchall() == rows
    monkeypatch.undo()
    assert rollback(own, Request("restore", backup.id, yes=True)).strategy == "restore"
