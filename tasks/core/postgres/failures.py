"""What psycopg raises, as one line and a hint: at the door (`connection_failed`) and inside (`database_errors`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from tasks.core.addresses import Address
from tasks.core.errors import CommandFailed, ConnectionFailed, DatabaseError, PrivilegeMissing

# (what the message holds, what we say, what to do). The first that fits counts: with sslmode=prefer libpq tries twice
# and reports both, so that the password's line stands before one about pg_hba.conf.
_AT_THE_DOOR = (
    (
        r"password authentication failed|no password supplied|empty password",
        "the server refused the password of {user}",
        "check the user and {password}; special characters in a URL are percent-encoded",
    ),
    (
        r"failed to resolve host|could not translate host name",
        "there is no host {host}",
        "check the host's spelling and this machine's name service",
    ),
    (
        r'database ".*" does not exist',
        "there is no database {dbname} on {host}:{port}",
        "check the name after the last / of the address, or create the database",
    ),
    (r'role ".*" does not exist', "there is no role {user} on {host}:{port}", "check the user of the address"),
    (
        r'role ".*" is not permitted to log in',
        "the role {user} may not log in on {host}:{port}",
        "use another role, or ask the administrator for: ALTER ROLE ... LOGIN",
    ),
    (
        r"too many connections|remaining connection slots|too many clients|max clients reached",
        "{host}:{port} has no connection left",
        "wait for sessions to end, or raise the limit of the server, the database or the role",
    ),
    (
        r"server does not support SSL",
        "{host}:{port} does not speak SSL, and the address asks for it",
        "add ?sslmode=disable to the address if the way to the server is safe",
    ),
    (
        r"certificate|SSL error|tlsv1|invalid response to SSL negotiation",
        "no SSL connection to {host}:{port}: {line}",
        "check sslmode and sslrootcert of the address",
    ),
    (
        r"no pg_hba\.conf entry|pg_hba\.conf rejects",
        "{host}:{port} admits no connection of {user} to {dbname} from here",
        "ask the administrator for a line in pg_hba.conf; if it wants SSL, add ?sslmode=require",
    ),
    (
        r"is not currently accepting connections",
        "the database {dbname} on {host}:{port} takes no connections",
        "where a restore of the whole database has died, `kg recover ENVIRONMENT` opens it again",
    ),
    (
        r"timeout expired|timed out",
        "{host}:{port} did not answer in time",
        "check the address and the firewall; ?connect_timeout=30 waits longer",
    ),
    (
        r"Connection refused",
        "nothing listens at {host}:{port}",
        "check host and port, and that the server runs and listens there",
    ),
    (
        r"Network is unreachable|No route to host|Cannot assign requested address",
        "there is no route to {host}:{port}",
        "a direct Supabase host speaks IPv6 only: use its session pooler from an IPv4 network",
    ),
    (
        r"the database system is (?:starting up|shutting down|not yet accepting|in recovery)",
        "{host}:{port} is starting up or shutting down",
        "try again in a moment",
    ),
    (r"Tenant or user not found", "the pooler does not know {user}", "its user is written postgres.<project ref>"),
)

_INSIDE = {
    "57014": "the statement was cancelled, by its time limit (statement_timeout) or by somebody",
    "55P03": "another session held the lock for longer than lock_timeout: try again when it has ended",
    "40P01": "two sessions waited for each other: try again",
    "53100": "the server's disk is full: free some space there",
    "53200": "the server ran out of memory: lower maintenance_work_mem, or give it more",
    "53300": "wait for sessions to end, or raise the server's max_connections",
    "25006": "the session is read-only: is this a standby, or default_transaction_read_only set?",
}
_LOST = ("08", "57P")


def connection_failed(error: Exception, address: Address) -> ConnectionFailed:
    """One line and a hint for what kept us out of `address`."""
    text = _without_password(str(error), address)
    places = {"host": address.host, "port": address.port, "dbname": address.dbname, "user": address.user}
    places["password"] = _password_of(address)
    for pattern, message, hint in _AT_THE_DOOR:
        if re.search(pattern, text):
            return ConnectionFailed(message.format(line=_telling_line(text), **places), hint=hint.format(**places))
    return ConnectionFailed(f"no connection to {address.label}: {_telling_line(text)}")


def _password_of(address: Address) -> str:
    """Where to look for the password, in a hint."""
    if not address.password:
        return f"set {address.password_variable or 'its password variable'}: it is not set"
    return f"the password in {address.password_variable or 'the password variable'}"


@contextmanager
def kept_out(address: Address) -> Iterator[None]:
    """Where the server does not let a client program in, the words of `connect` for it. Raises ConnectionFailed."""
    try:
        yield
    except CommandFailed as error:
        if "connection to server" not in error.message:
            raise
        raise connection_failed(error, address) from error


@contextmanager
def database_errors(doing: str) -> Iterator[None]:
    """Turn psycopg's errors in the block into ours: `doing` says what we were at ("counting rows").

    Raises PrivilegeMissing (42501; the hint is the statement for the administrator) or DatabaseError.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _inside(error, doing) from error


def _inside(error: psycopg.Error, doing: str) -> DatabaseError:
    state = error.sqlstate or ""
    said = error.diag.message_primary or _telling_line(str(error))
    if state == "42501":
        return PrivilegeMissing(f"{said} while {doing}", hint=_remedy(said))
    if state.startswith(_LOST) or (not state and isinstance(error, psycopg.OperationalError)):
        return DatabaseError(
            f"the connection was lost while {doing}: {said}", hint="is the server still running? Then run it again"
        )
    return DatabaseError(f"{said} while {doing}", hint=_INSIDE.get(state, error.diag.message_hint))


def _remedy(said: str) -> str:
    """The administrator's statement that would lift this refusal."""
    if found := re.match(r'permission denied to create extension "(.+)"', said):
        return f'ask the administrator for: CREATE EXTENSION "{found[1]}"'
    if said == "permission denied to create database":
        return "ask the administrator for: ALTER ROLE <this role> CREATEDB"
    if found := re.match(r"must be owner of (\w+) (\S+)", said):
        return f"ask the administrator for: ALTER {found[1].upper()} {found[2]} OWNER TO <this role>"
    if "row-level security" in said:
        return "ask the administrator for: ALTER ROLE <this role> BYPASSRLS, or use the tables' owner"
    if found := re.match(r"permission denied for (\w+) (\S+)", said):
        right = {"schema": "USAGE, CREATE", "database": "CREATE", "function": "EXECUTE"}.get(found[1], "ALL")
        kind = {"relation": "TABLE", "view": "TABLE"}.get(found[1], found[1].upper())
        return f"ask the administrator for: GRANT {right} ON {kind} {found[2]} TO <this role>"
    return "ask the administrator for the privilege, or use another role"


def _telling_line(text: str) -> str:
    """The line of a libpq message that says what happened, without where it happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it did not say why"]
    line = next((line for line in lines if "FATAL:" in line), lines[0])
    return re.sub(r"^.*(?:FATAL: +|failed: )", "", line)


def _without_password(text: str, address: Address) -> str:
    secret = address.password.get_secret_value() if address.password else ""
    return text.replace(secret, "***") if len(secret) > 3 else text
