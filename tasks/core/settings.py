"""What a run needs to know: the environment's TOML (what differs, no secrets) and environment variables (where, who).

Read late, by whoever starts a piece of work; nothing here is read at import. A missing or malformed setting is one
line that names it and says what to put there.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal, cast, get_args
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from tasks.core.addresses import Address, parse_address
from tasks.core.application.settings import ApplicationSettings, base_url, daily_cost
from tasks.core.backup.encryption import check_recipient
from tasks.core.errors import NotConfigured, SettingsError, UsageError
from tasks.core.mistakes import wrong
from tasks.core.notifications.events import NotificationSettings
from tasks.core.release.rules import ApprovalSettings, Freeze, WindowRule

Environment = Literal["dev", "staging", "production"]

CHECKOUT = Path(__file__).resolve().parents[2]

# environment -> (address variable, password variable): the guide's names.
VARIABLES: dict[Environment, tuple[str, str]] = {
    "dev": ("SUPABASE_URL", "SUPABASE_DB_PASSWORD"),
    "staging": ("STAGING_DB_URL", "STAGING_DB_PASSWORD"),
    "production": ("PRODUCTION_DB_URL", "PRODUCTION_DB_PASSWORD"),
}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(_Section):
    """How our sessions behave and what a dump holds."""

    schema_name: str = Field("public", alias="schema", description="The schema that our tables live in")
    scope: Literal["database"] | tuple[str, ...] = Field("database", description="Whole database, or schemas to dump")
    lock_timeout: timedelta = Field(timedelta(seconds=2), description="How long one DDL statement waits for its lock")
    lock_attempts: int = Field(5, ge=1, description="How often a migration's transaction is tried for its locks")
    statement_timeout: timedelta = Field(timedelta(hours=1), description="Limit of one statement of ours")
    terminate_idle_blockers: bool = Field(False, description="A migration ends idle transactions that block it")
    idle_blocker_limit: timedelta = Field(timedelta(minutes=1), description="... those idle for longer than this")


class DeploySettings(_Section):
    """Which steps a deploy takes."""

    confirm: Literal["terminal", "none"] = "terminal"
    backup: bool = True
    drill: bool = True
    reindex: bool = True
    prune: bool = True
    require_proof: bool = Field(True, description="Refuse to migrate without a proved backup")
    require_staging: bool = Field(False, description="Refuse revisions that staging has not applied and verified")
    out_of_order: bool = Field(False, description="Apply a new migration below an applied one, instead of refusing it")
    auto_restore: bool = Field(False, description="A rollback may discard rows written since its backup")


class BackupSettings(_Section):
    """How a backup is made and how long it counts."""

    format: Literal["binary", "portable"] = Field(
        "binary", description="binary: rows of large vector tables by COPY BINARY; portable: everything through pg_dump"
    )
    binary_from_mb: int = Field(16, ge=0, description="A table with vectors of at least this size counts as large")
    compression_level: int = Field(1, ge=1, le=19, description="zstd level, raised to 3 for a slow store")
    max_backup_age: timedelta = Field(timedelta(days=1), description="A migration wants a backup at most this old")
    max_proof_age: timedelta = Field(timedelta(days=7), description="check fails when the newest proof is older")
    dump_timeout: timedelta = Field(timedelta(hours=6), description="pg_dump's and the snapshot's longest life")
    stall_timeout: timedelta = Field(timedelta(minutes=5), description="An upload that moves nothing so long is ended")


class RetentionSettings(_Section):
    """What prune keeps."""

    days: int = Field(7, ge=1)
    minimum_proved: int = Field(1, ge=1, description="Never fewer proved backups than this")
    weekly: int = Field(0, ge=0, description="Also the newest proved backup of each of so many weeks that have one")
    monthly: int = Field(0, ge=0, description="... and of each of so many months")
    replaced_days: int = Field(7, ge=1, description="Age at which schemas kg_replaced_* may go")


class ReindexSettings(_Section):
    """When an index is called for anew, and what the new one must be before it takes the old one's place."""

    recall_floor: float = Field(0.9, ge=0, le=1, description="A new index finds at least this share of the ten nearest")
    minimum_floor: float = Field(0.5, ge=0, le=1, description="... also for the probe that it answers worst")
    recall_tolerance: float = Field(
        0.01, ge=0, le=1, description="Mean recall may fall by this: builds differ by chance"
    )
    slow_ms: float = Field(100.0, gt=0, description="P95 of a probe above this is a reason to re-index (the guide's)")
    p95_factor: float = Field(1.5, ge=1, description="P95 of the new index, at most this many times the old one's")
    p95_margin_ms: float = Field(
        2.0, ge=0, description="... and this much more: what two measurements differ by chance"
    )
    probes: int = Field(20, ge=3, le=1000, description="Stored vectors asked for again")
    probe_budget: timedelta = Field(timedelta(seconds=30), description="Time for the exact answers to compare with")
    ef_search: int = Field(40, ge=10, le=1000, description="hnsw.ef_search of the probes: the server's default")
    bloat_factor: float = Field(2.0, gt=1, description="An index this many times its computed size is bloated")
    build_timeout: timedelta = Field(timedelta(hours=6), description="A build that would last longer is refused")
    blocked_timeout: timedelta = Field(timedelta(minutes=10), description="How long a build waits for one transaction")
    maintenance_work_mem_mb: int | None = Field(
        None, ge=1, description="Most memory a build may take; None: by the server"
    )


class WatchSettings(_Section):
    """How long a deploy looks on after its verification, and what it takes for a failure."""

    duration: timedelta = Field(timedelta(0), description="0: not at all")
    interval: timedelta = Field(timedelta(seconds=1), description="Between two probe searches")
    deadlocks: int = Field(0, ge=0, description="At most so many")
    rollback_share: float = Field(0.05, ge=0, le=1, description="At most this share, or twice what was usual before")
    rollbacks_at_least: int = Field(10, ge=1, description="Fewer rollbacks than this are no sign of anything")
    errors: int = Field(0, ge=0, description="Failed probe searches and health checks, at most")
    p95_ms: float = Field(100.0, gt=0, description="P95 of a probe search, at most (the guide's figure)")


class EnvironmentFile(_Section):
    """The whole of deployments/environments/<environment>.toml."""

    database: DatabaseSettings = DatabaseSettings()
    deploy: DeploySettings = DeploySettings()
    backup: BackupSettings = BackupSettings()
    retention: RetentionSettings = RetentionSettings()
    reindex: ReindexSettings = ReindexSettings()
    application: ApplicationSettings = ApplicationSettings()
    watch: WatchSettings = WatchSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    windows: tuple[WindowRule, ...] = ()
    freeze: tuple[Freeze, ...] = ()
    notifications: NotificationSettings = NotificationSettings()


class Settings(BaseModel):
    """Everything one operation needs. Holds secrets: it crosses no task boundary and is never printed."""

    model_config = ConfigDict(frozen=True)

    environment: Environment
    home: Path = Field(description="KG_HOME: the embedded database, the default store, caches")
    address: Address | None = Field(description="The target database; None is the embedded server")
    store_url: str = Field(description="file:///dir or s3://bucket/prefix")
    store_key: str = Field("", description="KG_STORE_KEY: the age recipient that dumps are encrypted to; empty: plain")
    store_identity: SecretStr | None = Field(None, description="KG_STORE_IDENTITY: age's identity, or its file")
    scratch: Address | None = Field(description="KG_SCRATCH_URL: where drills restore; None is a cluster of our own")
    migrations: Path = Field(description="Folder of the migrations; KG_MIGRATIONS moves it (rehearsals, tests)")
    database: DatabaseSettings
    deploy: DeploySettings
    backup: BackupSettings
    retention: RetentionSettings
    reindex: ReindexSettings
    application: ApplicationSettings
    watch: WatchSettings = WatchSettings()
    approvals: ApprovalSettings = ApprovalSettings()
    windows: tuple[WindowRule, ...] = Field((), description="When it may be changed; none: at any time")
    freeze: tuple[Freeze, ...] = Field((), description="When no window opens")
    notifications: NotificationSettings = NotificationSettings()
    redis_url: SecretStr | None = Field(None, description="REDIS_URL: keeps embeddings, and verify pings it")
    openai_key: SecretStr | None = Field(None, description="OPENAI_API_KEY: index and search ask the API's model")
    openai_base_url: str = Field("", description="OPENAI_BASE_URL: another server that speaks it; empty: OpenAI's")
    openai_max_daily_cost: float | None = Field(None, description="OPENAI_MAX_DAILY_COST: USD a day (UTC); None: any")


def load_settings(environment: str, variables: Mapping[str, str] | None = None) -> Settings:
    """Settings of `environment` from its TOML and `variables` (default: the process's environment, an empty value
    counts as absent). Raises UsageError for an unknown environment, SettingsError for a bad setting.
    """
    env = variables_of_ours(os.environ if variables is None else variables)
    name = environment_named(environment)
    file = environment_file(name, env)
    home = Path(env.get("KG_HOME", CHECKOUT / ".kg")).expanduser().absolute()
    return Settings(
        environment=name,
        home=home,
        address=_address(name, env),
        store_url=_store_url(env.get("KG_STORE_URL"), home),
        store_key=check_recipient(env["KG_STORE_KEY"]) if "KG_STORE_KEY" in env else "",
        store_identity=SecretStr(env["KG_STORE_IDENTITY"]) if "KG_STORE_IDENTITY" in env else None,
        scratch=_scratch(env),
        migrations=Path(env.get("KG_MIGRATIONS", CHECKOUT / "sql" / "migrations")).absolute(),
        redis_url=_secret(env, "REDIS_URL"),
        openai_key=_secret(env, "OPENAI_API_KEY"),
        openai_base_url=base_url(env.get("OPENAI_BASE_URL", "")),
        openai_max_daily_cost=daily_cost(env.get("OPENAI_MAX_DAILY_COST")),
        **{section: getattr(file, section) for section in EnvironmentFile.model_fields},
    )


def environment_file(name: Environment, env: Mapping[str, str]) -> EnvironmentFile:
    """What the TOML of environment `name` says. Raises SettingsError."""
    return _read_file(Path(env.get("KG_ENVIRONMENTS", CHECKOUT / "deployments" / "environments")) / f"{name}.toml")


def variables_of_ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Those that are set and that we read. Raises SettingsError for bytes that are no text."""
    names = {"REDIS_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MAX_DAILY_COST"}.union(*VARIABLES.values())
    env = {name: text for name, text in variables.items() if text and (name in names or name.startswith("KG_"))}
    for name, text in env.items():
        if not _is_utf8(text):
            raise SettingsError(f"{name} is not UTF-8", hint=f"set {name} anew: it holds bytes that are no text")
    return env


def _is_utf8(text: str) -> bool:
    """Whether `text` came from UTF-8: bytes that did not are lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def environment_named(text: str) -> Environment:
    names = get_args(Environment)
    if text not in names:
        raise UsageError(f"{text!r} is not an environment", hint=f"one of {', '.join(names)}")
    return cast(Environment, text)


def _address(name: Environment, env: Mapping[str, str]) -> Address | None:
    variable, password_variable = VARIABLES[name]
    if variable in env:
        return parse_address(variable, env[variable], password_variable, env.get(password_variable))
    if name == "dev":
        return None
    raise NotConfigured(
        f"{variable} is not set",
        hint=f"put postgresql://user@host:5432/dbname of {name} in it, and the password in {password_variable}",
    )


def _secret(env: Mapping[str, str], name: str) -> SecretStr | None:
    return SecretStr(env[name]) if name in env else None


def _scratch(env: Mapping[str, str]) -> Address | None:
    if "KG_SCRATCH_URL" not in env:
        return None
    return parse_address("KG_SCRATCH_URL", env["KG_SCRATCH_URL"], "KG_SCRATCH_PASSWORD", env.get("KG_SCRATCH_PASSWORD"))


def _store_url(value: str | None, home: Path) -> str:
    if value is None:
        return (home / "backups").as_uri()
    bucket = value.removeprefix("s3://").partition("/")[0] if value.startswith("s3://") else ""
    if "@" in bucket or ":" in bucket:
        raise SettingsError(
            "KG_STORE_URL holds a user or a password",
            hint="put s3://bucket/prefix in it, and the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if problem := _store_problem(value, bucket):
        raise SettingsError(f"KG_STORE_URL {problem}", hint="put file:///folder or s3://bucket/prefix in it")
    return value


def _store_problem(value: str, bucket: str) -> str:
    """What keeps `value` from naming one place for backups and no other; empty where nothing does."""
    if not (bucket or value.startswith("file:///")):
        return "is not the address of a store"
    if "#" in value or "?" in value:
        return "has a # or a ? (in a folder's name they are %23 and %3F)"
    try:
        path = unquote(value.partition("://")[2], errors="strict")
    except UnicodeDecodeError:
        return "is not UTF-8"
    if re.search(r"[\x00-\x1f\x7f]", path):
        return "has a control character"
    if not bucket and posixpath.normpath(path) in ("/", "//"):
        return "names the root of the file system"
    return ""


def _read_file(path: Path) -> EnvironmentFile:
    try:
        with path.open("rb") as stream:
            return EnvironmentFile.model_validate(tomllib.load(stream))
    except FileNotFoundError as error:
        raise SettingsError(f"{path} does not exist", hint="each environment has a TOML file there") from error
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        raise SettingsError(f"{path}: {wrong(error, EnvironmentFile)}") from error
