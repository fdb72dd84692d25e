"""Settings from variables: what cannot be meant is refused in one line that names the variable and shows no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pyrage
import pytest

from tasks.core.errors import SettingsError
from tasks.core.settings import CHECKOUT, load_settings
from tasks.core.variables import KNOWN, unread


def refused(**variables: str) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load_settings("dev", variables)
    assert "\n" not in str(caught.value)
    assert "hunter22" not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    return caught.value


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("s3://", "is not the address of a store"),
        ("s3:///prefix", "is not the address of a store"),
        ("ftp://h/a", "is not the address of a store"),
        ("file:///", "names the root of the file system"),
        ("file:////", "names the root of the file system"),
        ("file:///.", "names the root of the file system"),
        ("file:///a/..", "names the root of the file system"),
        ("file:///a/store#prod", "has a # or a ?"),
        ("file:///a/store?x=1", "has a # or a ?"),
        ("s3://bucket/prefix?region=x", "has a # or a ?"),
        ("file:///a/%00store", "has a control character"),
        ("file:///a/st\nore", "has a control character"),
        ("file:///a/st%0Aore", "has a control character"),
        ("file:///a/%E9", "is not UTF-8"),
        ("s3://bucket/pre\tfix", "has a control character"),
        ("s3://bucket/prefix\n", "has a control character"),
        ("s3://AKIA:hunter22@bucket/prefix", "holds a user or a password"),
        ("s3://AKIA:hunter22/with/slash@bucket", "holds a user or a password"),
    ],
)
def test_a_store_that_cannot_be_meant_is_refused(value: str, complaint: str) -> None:
    error = refused(KG_STORE_URL=value)
    assert error.message.startswith("KG_STORE_URL ")
    assert complaint in error.message
    assert error.hint


def test_credentials_of_a_store_have_variables_of_their_own() -> None:
    assert "AWS_SECRET_ACCESS_KEY" in (refused(KG_STORE_URL="s3://AKIA:hunter22@bucket").hint or "")


@pytest.mark.parametrize(
    "value", ["file:///a/store", "file:///a%20b/%23store%3F", "s3://bucket", "s3://bucket/a/b", "file:///a/me@home"]
)
def test_a_store_s_address_is_taken_as_it_is(value: str) -> None:
    assert load_settings("dev", {"KG_STORE_URL": value}).store_url == value


@pytest.mark.parametrize("name", ["KG_STORE_URL", "KG_HOME", "SUPABASE_DB_PASSWORD", "REDIS_URL", "KG_MIGRATIONS"])
def test_bytes_that_are_no_text_are_refused_by_the_variable_s_name(name: str) -> None:
    error = refused(**{name: b"file:///hunter22\xe9".decode("utf-8", "surrogateescape")})
    assert error.message == f"{name} is not UTF-8"


def test_bytes_of_others_variables_are_no_concern_of_ours(tmp_path: Path) -> None:
    variables = {"KG_HOME": str(tmp_path), "LESS_TERMCAP": b"\xe9".decode("utf-8", "surrogateescape")}
    assert load_settings("dev", variables).home == tmp_path


@pytest.mark.parametrize("value", ["age1nonsense", "AGE-SECRET-KEY-1HUNTER22", "ssh-ed25519 hunter22", "age1\x1b[2J"])
def test_a_key_that_nothing_can_be_encrypted_to_is_refused(value: str) -> None:
    assert refused(KG_STORE_KEY=value).message == "KG_STORE_KEY is no recipient of age"
    key = str(pyrage.x25519.Identity.generate().to_public())
    assert load_settings("dev", {"KG_STORE_KEY": key}).store_key == key


@pytest.mark.parametrize("value", ["five", "-1", "1e3", "nan", "$5", "5,0"])
def test_a_daily_cost_is_an_amount(value: str) -> None:
    assert refused(OPENAI_MAX_DAILY_COST=value).message == "OPENAI_MAX_DAILY_COST is not an amount"
    assert load_settings("dev", {"OPENAI_MAX_DAILY_COST": "0.5"}).openai_max_daily_cost == 0.5


@pytest.mark.parametrize("value", ["api.example", "ftp://h/v1", "https://hunter22@h/v1", "https://h/v1?key=hunter22"])
def test_an_api_s_address_holds_no_key(value: str) -> None:
    assert refused(OPENAI_BASE_URL=value).message == "OPENAI_BASE_URL is not an API's address"
    assert load_settings("dev", {"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1"}).openai_base_url


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"# \xff\n", "dev.toml is not TOML"),
        (b"[windows]\ncron = '0 2 * * *'\n", "write [[windows]]"),
        (b"[freeze]\n", "write [[freeze]]"),
        (b"[approvals]\nexpire = 'P999999999D'\n", "approvals.expire"),
    ],
)
def test_a_file_that_cannot_be_meant_is_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "dev.toml").write_bytes(content)
    assert complaint in refused(KG_ENVIRONMENTS=str(tmp_path)).message


def test_a_folder_in_the_file_s_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "dev.toml").mkdir()
    assert "cannot be read" in refused(KG_ENVIRONMENTS=str(tmp_path)).message


def test_a_variable_that_nothing_reads_is_named_with_what_was_meant() -> None:
    names = ["KG_STORE", "KG_STORE_URL", "KG_TEST_S3_ENDPOINT", "KG_HOMES", "KG_ZZZZZZ", "HOME"]
    assert unread(names) == ("KG_HOMES (or is it KG_HOME?)", "KG_STORE (or is it KG_STORE_URL?)", "KG_ZZZZZZ")


def test_every_variable_of_ours_is_known() -> None:
    files = [path for folder in ("tasks", "flows") for path in (CHECKOUT / folder).rglob("*.py")]
    sources = [path.read_text() for path in files if path.name != "variables.py"]
    used = {name for source in sources for name in re.findall(r"\bKG_[A-Z]+(?:_[A-Z]+)*\b(?!_)", source)}
    assert used == KNOWN


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retention]\ndayz = 3\n", "[retention] has no key dayz; did you mean days?"),
        ("[retentoin]\ndays = 3\n", "there is no key retentoin; did you mean retention?"),
        ("[watch]\nzzzz = 3\n", "[watch] has no key zzzz; it knows duration, interval, deadlocks, "),
    ],
)
def test_an_unknown_key_is_named_with_the_one_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    (tmp_path / "dev.toml").write_text(text)
    monkeypatch.setenv("KG_ENVIRONMENTS", str(tmp_path))
    with pytest.raises(SettingsError) as refused:
        load_settings("dev")
    assert f"dev.toml: {said}" in refused.value.message
