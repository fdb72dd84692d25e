"""Where a database is: parsed once from the guide's variables, shown without its password, handed to libpq by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from tasks.core.errors import SettingsError

LOCAL_HOSTS = ("", "localhost", "127.0.0.1", "::1")
TRANSACTION_POOLER_PORT = 6543

# libpq's connection keywords that have an environment variable; others cannot reach pg_dump and are refused.
_VARIABLES = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
    "sslnegotiation": "PGSSLNEGOTIATION",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "channel_binding": "PGCHANNELBINDING",
    "gssencmode": "PGGSSENCMODE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "hostaddr": "PGHOSTADDR",
}
_IGNORED = {"application_name", "fallback_application_name"}  # a session of ours bears our own


class Address(BaseModel):
    """A PostgreSQL database and the role to enter it with. Printing it shows no password."""

    model_config = ConfigDict(frozen=True)

    host: str
    port: int = 5432
    dbname: str
    user: str
    password: SecretStr | None = None
    options: tuple[tuple[str, str], ...] = ()
    password_variable: str = Field("", description="Where the password belongs, for a hint")

    @property
    def label(self) -> str:
        return f"{self.user}@{self.host}:{self.port}/{self.dbname}"

    def __str__(self) -> str:
        return self.label

    def database(self, name: str) -> Address:
        """The same server and role, another database."""
        return self.model_copy(update={"dbname": name})

    def keywords(self) -> dict[str, str | int]:
        """Connection keywords for psycopg."""
        words: dict[str, str | int] = {"host": self.host, "port": self.port, "dbname": self.dbname, "user": self.user}
        if self.password:
            words["password"] = self.password.get_secret_value()
        return {**words, **dict(self.options)}

    def environment(self) -> dict[str, str]:
        """The libpq environment of one child process (pg_dump, psql): nothing secret in an argv."""
        env = {"PGHOST": self.host, "PGPORT": str(self.port), "PGDATABASE": self.dbname, "PGUSER": self.user}
        if self.password:
            env["PGPASSWORD"] = self.password.get_secret_value()
        return {**env, **{_VARIABLES[word]: value for word, value in self.options}}


def parse_address(variable: str, value: str, password_variable: str, password: str | None) -> Address:
    """The address in `value`, a postgresql:// URL or an https://<ref>.supabase.co project address.

    `variable` and `password_variable` are the names an error points to. Raises SettingsError.
    """
    project = _supabase_project(variable, value)
    if project is not None:
        if not password:
            raise SettingsError(
                f"{password_variable} is not set",
                hint=f"put the database password of the Supabase project in it ({variable} names the project only)",
            )
        value = f"postgresql://postgres@db.{project}.supabase.co:5432/postgres"
    words = _keywords(variable, value)
    host, port = words.pop("host", ""), _port(variable, words.pop("port", "5432"))
    if port == TRANSACTION_POOLER_PORT:
        raise SettingsError(
            f"{variable} names port {port}, Supabase's transaction pooler, which keeps no session",
            hint="use the session pooler (port 5432 of the pooler's host) or the direct host",
        )
    dbname, user = words.pop("dbname", ""), words.pop("user", "")
    for name, found in (("user", user), ("database name", dbname), ("host", host)):
        if not found:
            raise SettingsError(
                f"{variable} has no {name}", hint=f"put postgresql://user@host:5432/dbname in {variable}"
            )
    secret = password or words.pop("password", None)
    words.pop("password", None)
    return Address(
        host=host,
        port=port,
        dbname=dbname,
        user=user,
        password=SecretStr(secret) if secret else None,
        options=_options(variable, host, words),
        password_variable=password_variable,
    )


def _supabase_project(variable: str, value: str) -> str | None:
    if not value.startswith(("https://", "http://")):
        return None
    host = urlsplit(value).hostname or ""
    match = re.fullmatch(r"([a-z0-9-]+)\.supabase\.(?:co|com|in)", host)
    if not match:
        raise SettingsError(
            f"{variable} is a web address, but not one of a Supabase project",
            hint="put https://<ref>.supabase.co or postgresql://user@host:5432/dbname in it",
        )
    return match[1]


def _keywords(variable: str, value: str) -> dict[str, str]:
    if not value.startswith(("postgresql://", "postgres://")):
        raise SettingsError(
            f"{variable} is not a PostgreSQL URL", hint=f"put postgresql://user@host:5432/dbname in {variable}"
        )
    try:
        parsed = conninfo_to_dict(value)
    except ProgrammingError as error:
        # libpq's message can quote the URL with its password: only its kind is passed on.
        raise _malformed(variable) from error.with_traceback(None).__class__("malformed URL")
    if "@" in str(parsed.get("host", "")):  # the rest of a password that has an @
        raise _malformed(variable)
    return {name: str(word) for name, word in parsed.items() if word is not None}


def _malformed(variable: str) -> SettingsError:
    return SettingsError(
        f"{variable} cannot be read as a PostgreSQL URL",
        hint="percent-encode special characters of user, password and database name (@ is %40)",
    )


def _port(variable: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(
            f"{variable} has no usable port", hint=f"put postgresql://user@host:5432/dbname in {variable}"
        )
    return int(text)


def _options(variable: str, host: str, words: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    unknown = sorted(set(words) - set(_VARIABLES) - _IGNORED)
    if unknown:
        raise SettingsError(
            f"{variable} has the option {unknown[0]}, which pg_dump could not be given",
            hint=f"leave it out; these are known: {', '.join(sorted(_VARIABLES))}",
        )
    options = {name: value for name, value in words.items() if name in _VARIABLES}
    if host not in LOCAL_HOSTS and not host.startswith("/"):
        options.setdefault("sslmode", "require")
    return tuple(sorted(options.items()))
