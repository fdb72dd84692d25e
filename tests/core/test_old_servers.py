"""PostgreSQL 12 to 14, which no package brings: our SQL names nothing that came after 12, by the release notes."""

from __future__ import annotations

import re

import pytest

from tasks.core.settings import CHECKOUT

# What each release brought and a query of ours could want: columns of catalogs, functions, settings, grammar.
LATER = {
    13: ("leader_pid", "gen_random_uuid", "to_regcollation", "pg_current_xact_id", "WITH TIES", "WITH (FORCE)"),
    14: ("attcompression", "query_id", "inhdetachpending", "pg_read_all_data", "date_bin", "OR REPLACE TRIGGER"),
    15: (
        "datlocprovider",
        "daticulocale",
        "indnullsnotdistinct",
        "pg_publication_namespace",
        "MERGE INTO",
        "regexp_count",
    ),
    16: ("inherit_option", "any_value", "pg_stat_io", "pg_create_subscription"),
    17: ("datlocale", "colllocale", "JSON_TABLE", "MAINTAIN"),
    18: ("conenforced", "uuidv7"),
}
# Asked of a row as JSON, where a column that is not there is NULL.
AS_JSON = re.compile(r"to_jsonb\(\w+\) ->> '\w+'")
FILES = sorted(
    path for folder in ("queries", "migrations", "kg_ops") for path in (CHECKOUT / "sql" / folder).glob("*.sql")
)


@pytest.mark.parametrize("word", [word for words in LATER.values() for word in words])
def test_no_sql_of_ours_needs_a_later_server(word: str) -> None:
    for path in FILES:
        code = re.sub(r"--.*", "", AS_JSON.sub("", path.read_text(encoding="utf-8")))
        assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", code, re.IGNORECASE), path.name
