"""Addresses: what the guide's variables may hold, what is refused, and that no password is ever shown."""

from __future__ import annotations

import pickle
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.addresses import Address, parse_address
from tasks.core.errors import SettingsError


def parse(value: str, password: str | None = None) -> Address:
    return parse_address("STAGING_DB_URL", value, "STAGING_DB_PASSWORD", password)


def secret(address: Address) -> str | None:
    return address.password.get_secret_value() if address.password else None


def test_a_url_is_read_whole() -> None:
    address = parse("postgresql://me:pw@db.example.org:6000/graph?sslmode=verify-full&connect_timeout=3")
    assert (address.host, address.port, address.dbname, address.user) == ("db.example.org", 6000, "graph", "me")
    assert secret(address) == "pw"
    assert dict(address.options) == {"sslmode": "verify-full", "connect_timeout": "3"}
    assert address.label == "me@db.example.org:6000/graph"


def test_the_password_variable_wins_over_the_urls() -> None:
    assert secret(parse("postgresql://me:old@localhost/graph", "new")) == "new"


def test_no_password_is_none() -> None:
    assert parse("postgres://me@localhost/graph").password is None


@pytest.mark.parametrize(
    ("host", "mode"), [("db.example.org", "require"), ("127.0.0.1", None), ("localhost", None), ("[::1]", None)]
)
def test_ssl_is_asked_for_where_the_way_is_long(host: str, mode: str | None) -> None:
    assert dict(parse(f"postgresql://me@{host}/graph").options).get("sslmode") == mode


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_supabase_project_is_its_direct_database(scheme: str) -> None:
    address = parse(f"{scheme}://abcdefgh.supabase.co", "pw")
    assert address.label == "postgres@db.abcdefgh.supabase.co:5432/postgres"
    assert dict(address.options)["sslmode"] == "require"


@pytest.mark.parametrize(
    ("value", "complaint", "hint"),
    [
        ("https://abcdefgh.supabase.co", "STAGING_DB_PASSWORD is not set", "password of the Supabase project"),
        ("https://example.org", "STAGING_DB_URL is a web address", "supabase.co"),
        ("mysql://me@h/d", "STAGING_DB_URL is not a PostgreSQL URL", "postgresql://"),
        ("me@h/d", "STAGING_DB_URL is not a PostgreSQL URL", "postgresql://"),
        ("postgresql://me@h:6543/d", "transaction pooler", "session pooler"),
        ("postgresql://h/d", "STAGING_DB_URL has no user", "postgresql://"),
        ("postgresql://me@h", "STAGING_DB_URL has no database name", "postgresql://"),
        ("postgresql://me@/d", "STAGING_DB_URL has no host", "postgresql://"),
        ("postgresql://me@h:99999/d", "port", "postgresql://"),
        ("postgresql://me@h:1,h:2/d", "no usable port", "postgresql://"),
        ("postgresql://me@h/d?keepalives=1", "the option keepalives", "leave it out"),
        ("postgresql://me@h/d?no_such_word=1", "STAGING_DB_URL cannot be read", "percent-encode"),
        ("postgresql://me@h/%zz", "STAGING_DB_URL cannot be read", "percent-encode"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(value: str, complaint: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(value)
    assert complaint in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_a_malformed_url_does_not_show_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("postgresql://me:hunter22@h/d?bad option=hunter22")
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__} {caught.value.__cause__!r}"
    assert "hunter22" not in shown


@pytest.mark.parametrize("value", ["postgresql://me:hunt@er22@h/d", "postgresql://me:x@hunt@er22:5432/d"])
def test_an_unescaped_at_sign_in_a_password_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(value)
    assert caught.value.message == "STAGING_DB_URL cannot be read as a PostgreSQL URL"
    assert "percent-encode" in (caught.value.hint or "")
    assert "er22" not in f"{caught.value} {caught.value!r}"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1))
def test_any_password_survives_percent_encoding_and_is_never_shown(password: str) -> None:
    address = parse(f"postgresql://me:{quote(password, safe='')}@localhost/graph")
    assert secret(address) == password
    assert address.keywords()["password"] == password
    assert address.environment()["PGPASSWORD"] == password
    if len(password) > 5:
        assert password not in f"{address} {address!r} {address.label} {address.model_dump()!s}"


def test_another_database_of_the_same_server() -> None:
    address = parse("postgresql://me:pw@localhost:5433/graph")
    other = address.database("scratch")
    assert other.label == "me@localhost:5433/scratch"
    assert secret(other) == "pw"
    assert pickle.loads(pickle.dumps(address)) == address


def test_every_option_reaches_a_child_by_its_variable() -> None:
    address = parse("postgresql://me@h/d?sslmode=disable&options=-c%20work_mem%3D1MB&connect_timeout=2")
    env = address.environment()
    assert (env["PGSSLMODE"], env["PGOPTIONS"], env["PGCONNECT_TIMEOUT"]) == ("disable", "-c work_mem=1MB", "2")
    assert "PGPASSWORD" not in env
    assert env["PGHOST"] == "h"
