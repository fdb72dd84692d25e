"""TLS: what the address asks for is what every session of ours and of its tools gets, or there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from psycopg.sql import SQL, Literal

from tasks.core import commands
from tasks.core.addresses import Address, parse_address
from tasks.core.errors import CommandFailed, ConnectionFailed
from tasks.core.postgres.connections import connect
from tasks.core.postgres.relay import door, speaks_tls
from tasks.core.postgres.tools import tools_for
from tasks.core.settings import load_settings
from tests.docker.container import container, docker_answers
from tests.servers.components import missing
from tests.servers.job import deploy, fill, proved_backup, rollback, rows_in, state

HOST = "localhost"  # the only name in the server's certificate
ONLY_TLS = "hostssl all all all scram-sha-256"


@dataclass(frozen=True)
class Issuer:
    """A certificate authority of the test's own."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    file: Path

    @classmethod
    def make(cls, file: Path) -> Issuer:
        name, key = _name(file.stem), ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=0)
        certificate = _builder(name, name, key).add_extension(basic, critical=True).sign(key, hashes.SHA256())
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(name, key, file)

    def issue(self, host: str) -> tuple[str, str]:
        """A certificate for `host`, and its key, both as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        certificate = _builder(_name(host), self.name, key).add_extension(names, critical=False)
        signed = certificate.sign(self.key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return signed.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _name(word: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
    )


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer.make(tmp_path_factory.mktemp("tls") / "root of trust.crt")


@pytest.fixture(scope="module")
def server(issuer: Issuer) -> Iterator[Address]:
    """A server that takes TLS only, with a certificate for localhost."""
    if not docker_answers():
        missing("no container can be had, and the wheel's server has no TLS (tests/docker/image.sh builds the image)")
    certificate, key = issuer.issue(HOST)
    with container() as address:
        with connect(address, purpose="test set-up") as conn:
            # Written by the server itself: it wants to own its key.
            for name, text in (("server.crt", certificate), ("server.key", key), ("pg_hba.conf", ONLY_TLS)):
                copy = SQL("COPY (SELECT unnest({}::text[])) TO PROGRAM {}")
                conn.execute(copy.format(Literal(text.splitlines()), Literal(f"umask 077; cat > {name}")))
            conn.execute("ALTER SYSTEM SET ssl = on")
            conn.execute("SELECT pg_reload_conf()")
        yield address.model_copy(update={"host": HOST})


def asking_for(server: Address, words: str, host: str = HOST) -> Address:
    assert server.password
    url = f"postgresql://{server.user}@{host}:{server.port}/{server.dbname}?{words}"
    return parse_address("STAGING_DB_URL", url, "STAGING_DB_PASSWORD", server.password.get_secret_value())


def verified(root: Path) -> str:
    return f"sslmode=verify-full&sslrootcert={quote(str(root))}"


def test_the_main_job_over_verified_tls_alone(server: Address, issuer: Issuer, tmp_path: Path) -> None:
    """The server takes nothing else, so every session, pg_dump and pg_restore among them, had it."""
    settings = load_settings("dev", {"KG_HOME": str(tmp_path)})
    settings = settings.model_copy(update={"address": asking_for(server, verified(issuer.file))})
    assert settings.address
    deploy(settings)
    with connect(settings.address, purpose="test") as conn:
        assert conn.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone() == (True,)
        fill(conn)
        saved, deployed = proved_backup(settings), state(settings)
        conn.execute("DELETE FROM code_embeddings")
        rollback(settings, "restore", saved, yes=True)
        assert (rows_in(conn), state(settings)) == (20, deployed)


def test_verify_full_wants_the_hosts_own_name_and_our_root(server: Address, issuer: Issuer, tmp_path: Path) -> None:
    stranger = Issuer.make(tmp_path / "stranger.crt")
    for address in (
        asking_for(server, verified(issuer.file), host="127.0.0.1"),
        asking_for(server, verified(stranger.file)),
        asking_for(server, verified(tmp_path / "no such file")),
    ):
        with pytest.raises(ConnectionFailed) as refused:
            connect(address, purpose="test")
        assert "sslrootcert" in (refused.value.hint or ""), refused.value
    authority = f"sslmode=verify-ca&sslrootcert={quote(str(issuer.file))}"
    connect(asking_for(server, authority, host="127.0.0.1"), purpose="test").close()


def test_the_wheels_clients_without_tls_are_let_through_a_door_that_checks_as_much(
    server: Address, issuer: Issuer, tmp_path: Path
) -> None:
    """Its pg_dump was built without TLS, and would refuse the word sslmode=require."""
    tools = tools_for(18, tmp_path)
    assert not speaks_tls(tools)
    dump: list[str | Path] = [tools.pg_dump, "--schema-only", "--no-password"]
    with door(asking_for(server, verified(issuer.file)), tools) as way:
        assert "PostgreSQL database dump" in commands.run(dump, env=way.environment(), timeout=30).stdout
    with door(asking_for(server, "sslmode=require", host="127.0.0.1"), tools) as way:
        commands.run(dump, env=way.environment(), timeout=30)
    for wrong in (
        asking_for(server, verified(issuer.file), host="127.0.0.1"),
        asking_for(server, verified(Issuer.make(tmp_path / "stranger.crt").file)),
    ):
        with door(wrong, tools) as way, pytest.raises(CommandFailed, match="certificate verify failed"):
            commands.run(dump, env=way.environment(), timeout=30)


def test_disable_is_honoured_too(server: Address) -> None:
    with pytest.raises(ConnectionFailed) as refused:
        connect(asking_for(server, "sslmode=disable"), purpose="test")
    assert "sslmode=require" in (refused.value.hint or "")
    connect(asking_for(server, "sslmode=require"), purpose="test").close()


def test_require_is_never_less_than_tls(postgres: Address) -> None:
    with connect(postgres, purpose="test") as conn:
        if conn.execute("SHOW ssl").fetchone() != ("off",):
            pytest.skip("the session's server has TLS on")
    with pytest.raises(ConnectionFailed, match="does not speak SSL"):
        connect(asking_for(postgres, "sslmode=require", host=postgres.host), purpose="test")


@pytest.mark.parametrize(
    ("host", "words", "mode"),
    [
        ("db.example.org", "", "require"),
        ("10.0.0.7", "?application_name=x", "require"),
        ("db.example.org", "?sslmode=disable", "disable"),
        ("db.example.org", "?sslmode=verify-full", "verify-full"),
        ("localhost", "", None),
        ("127.0.0.1", "", None),
    ],
)
def test_hosts_elsewhere_want_tls_unless_said_otherwise(host: str, words: str, mode: str | None) -> None:
    address = parse_address("STAGING_DB_URL", f"postgresql://kg@{host}/graph{words}", "STAGING_DB_PASSWORD", "secret")
    assert dict(address.options).get("sslmode") == mode
    assert address.environment().get("PGSSLMODE") == mode
