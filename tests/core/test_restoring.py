"""What a restore leaves out of the SQL that pg_restore writes, and what never."""

from __future__ import annotations

import io

import pytest

from tasks.core.backup.restoring import without_unknown_setting

HEADER = "SET statement_timeout = 0;\nSET transaction_timeout = 0;\nSET client_encoding = 'UTF8';\n"
NOTED = 'ALTER TABLE ONLY public."odd ""name" ALTER COLUMN file_path SET (pg_attver=27597464);\n'
MEANT = "ALTER TABLE ONLY public.code_embeddings ALTER COLUMN file_path SET (n_distinct=-0.5);\n"


def copied(text: str, *, form: bool) -> str:
    sink = io.BytesIO()
    without_unknown_setting(io.BytesIO(text.encode()), sink, form=form)
    return sink.getvalue().decode()


@pytest.mark.parametrize("filling", ["", "-- a line\n" * 100])
def test_what_a_server_noted_for_itself_is_left_out_of_the_tables_form(filling: str) -> None:
    kept = HEADER.replace("SET transaction_timeout = 0;\n", "")
    assert copied(HEADER + filling + NOTED + MEANT, form=True) == kept + filling + MEANT


def test_rows_are_never_looked_at() -> None:
    text = HEADER + "-- a line\n" * 100 + NOTED
    assert copied(text, form=False).endswith(NOTED)
