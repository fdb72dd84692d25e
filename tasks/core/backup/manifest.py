"""What is known of a backup: its manifest, written last of all, and the proof that a restore drill puts beside it.

Keys: <environment>/<id>/{database.dump.zst, data/*.copy.zst, globals.sql, load.sql, manifest.json, proof.json, keep};
<id> is the snapshot's time and 8 hex digits. Manifests of version 1 had one object, the dump; up to version 2 there was
no sample of a table without a primary key. They are read for ever.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from tasks.core.errors import IntegrityError
from tasks.core.settings import Environment

DUMP, MANIFEST, PROOF, KEEP = "database.dump.zst", "manifest.json", "proof.json", "keep"
ENCRYPTED = f"{DUMP}.age"
GLOBALS, LOAD = "globals.sql", "load.sql"
RESTORING = ("scratch", "pre-data", "data", "post-data")  # the phases of a drill that a restore has too
_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_OBJECT = re.compile(
    rf"({re.escape(DUMP)}|data/[A-Za-z0-9_.-]+\.copy\.zst)(\.age)?|"
    + "|".join(map(re.escape, (MANIFEST, PROOF, KEEP, GLOBALS, LOAD)))
)


def _utc(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError("a time without a zone")
    return time.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class Identity(_Frozen):
    """Whose backup it is. A clone carries the uuid, a sibling the system identifier: all that is known must agree."""

    uuid: str = Field("", description="kg_ops' id of the database; empty where kg_ops is not there yet")
    system_identifier: str = Field("", description="The cluster's; empty where the role may not read it")
    name: str

    def is_same(self, other: Identity) -> bool:
        """Surely one database: no known field differs, and one besides the name is known to both."""
        pairs = [(self.uuid, other.uuid), (self.system_identifier, other.system_identifier)]
        known = [mine == theirs for mine, theirs in pairs if mine and theirs]
        return self.name == other.name and bool(known) and all(known)


class ServerFacts(_Frozen):
    version: str
    major: int
    pgvector: str = Field("", description="Installed version; empty where the extension is not there")
    pgvector_schema: str = ""
    encoding: str
    collation: str


class ToolFacts(_Frozen):
    pg_dump: str = Field(description="Version of the pg_dump that wrote the archive")
    pg_dump_major: int
    zstd_level: int = Field(description="The lowest: a slow store raises it while a backup is made")


class Extension(_Frozen):
    version: str
    schema_name: str


class Column(_Frozen):
    """`type` as the server spells it with its schema: "public.vector(1536)"."""

    name: str
    type: str


class Rows(_Frozen):
    """Rows of one table, as COPY (FORMAT binary) wrote these columns; the generated ones are not among them."""

    schema_name: str
    table_name: str
    columns: tuple[Column, ...]
    rows: int


class StoredObject(_Frozen):
    """An object of the store: sizes in bytes and SHA-256 (hex), before and after compression and encryption."""

    name: str
    plain_bytes: int
    plain_sha256: str
    stored_bytes: int
    stored_sha256: str
    age: str = Field("", description="The recipient that it is encrypted to; empty: it is not")
    data: Rows | None = Field(None, description="What a data object holds")

    @property
    def packed(self) -> bool:
        """With zstd."""
        return self.name.removesuffix(".age").endswith(".zst")


class Toc(_Frozen):
    """The archive's table of contents: how many entries, and the SHA-256 of their normalised list."""

    entries: int
    sha256: str


class _Sealed(_Frozen):
    """A document with a checksum over all its other fields, so that a changed field is noticed."""

    version: Literal[1, 2, 3] = Field(1, alias="schema")
    checksum: str = ""

    def sealed(self) -> Self:
        """The same with its checksum filled in."""
        return self.model_copy(update={"checksum": _checksum(self.model_dump(mode="json", by_alias=True))})

    def to_json(self) -> bytes:
        return (self.model_dump_json(by_alias=True, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, name: str) -> Self:
        """Raises IntegrityError, which names the object, where it cannot be read or was changed."""
        try:
            document = json.loads(content)
            found = cls.model_validate_json(content)
        except (ValueError, ValidationError, RecursionError) as error:
            raise IntegrityError(f"{name} cannot be read: {_first_line(error)}") from error
        if found.checksum != _checksum(document):
            raise IntegrityError(f"{name} was changed after it was written: its checksum does not fit its fields")
        return found


class Manifest(_Sealed):
    """A backup's description. `created` is the time of the snapshot, by the server's clock."""

    version: Literal[1, 2, 3] = Field(3, alias="schema")
    id: str = Field(pattern=f"^{_ID.pattern}$")
    environment: Environment
    created: UtcTime
    revision: str = Field(description="Newest revision of the ledger; empty where there was none")
    operation: str = Field("", description="The operation that made it, as the journal names it")
    format: Literal["portable", "binary"] = Field(
        "portable", description="portable: all through pg_dump; binary: large vector tables' rows by COPY, beside it"
    )
    scope: Literal["database"] | tuple[str, ...]
    database: Identity
    server: ServerFacts
    tool: ToolFacts
    tables: dict[str, int] = Field(description="Rows of each dumped table, from the dump's own snapshot")
    samples: dict[str, str] = Field(description="Hash of a sample of rows of each table that has any")
    sequences: tuple[str, ...] = Field(description="Owned sequences that were found ahead of their columns")
    our_schema: str
    our_tables: tuple[str, ...] = Field(description="What the fingerprint covers, in our_schema")
    fingerprint: str
    roles: tuple[str, ...]
    extensions: dict[str, Extension]
    objects: tuple[StoredObject, ...]
    toc: Toc
    snapshot_held_seconds: float
    lsn: str = Field("", description="Where the write-ahead log stood; empty where it cannot be read")

    @property
    def unsampled(self) -> tuple[str, ...]:
        """Tables with rows of whose content nothing is said: those without a primary key, before version 3."""
        return tuple(sorted(label for label, rows in self.tables.items() if rows and label not in self.samples))

    @property
    def dump(self) -> StoredObject:
        return next(found for found in self.objects if found.name in (DUMP, ENCRYPTED))

    @property
    def streams(self) -> tuple[StoredObject, ...]:
        """The data objects: rows that are not in the dump."""
        return tuple(found for found in self.objects if found.data)

    @property
    def plain_bytes(self) -> int:
        return sum(found.plain_bytes for found in self.objects)

    @property
    def folder(self) -> str:
        return f"{self.environment}/{self.id}"


class Proof(_Sealed):
    """A restore drill's result. It counts for the manifest whose checksum it bears, and for no other."""

    backup: str
    manifest: str = Field(description="The manifest's checksum")
    ok: bool
    created: UtcTime
    grade: Literal["restorable", "readable"] = Field(
        description="restorable: same server major and pgvector; readable: others"
    )
    server: ServerFacts | None = Field(None, description="Where it was restored")
    tables: dict[str, int] = Field(default_factory=dict, description="Rows counted in the restored copy")
    fingerprint: str = ""
    seconds: dict[str, float] = Field(default_factory=dict, description="Duration of each phase")
    unsampled: tuple[str, ...] = Field((), description="Tables whose rows were counted, and their content not compared")
    difference: str = Field("", description="The first thing that was not as the manifest says")

    @property
    def restore_seconds(self) -> float:
        """From an empty server to all indexes: what an operator would wait for."""
        return sum(self.seconds.get(phase, 0.0) for phase in RESTORING)


class Backup(_Frozen):
    """A manifest, and its proof where a drill has left one that belongs to it. `kept`: an operator marked it."""

    manifest: Manifest
    proof: Proof | None = None
    kept: bool = False

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def created(self) -> datetime:
        return self.manifest.created

    @property
    def proved(self) -> bool:
        return self.proof is not None and self.proof.ok and self.proof.manifest == self.manifest.checksum

    @property
    def restorable(self) -> bool:
        """Proved on the server's own major and pgvector."""
        return self.proved and self.proof is not None and self.proof.grade == "restorable"

    @property
    def stored_bytes(self) -> int:
        return sum(found.stored_bytes for found in self.manifest.objects)

    @property
    def dump_key(self) -> str:
        return self.key(self.manifest.dump.name)

    def key(self, name: str) -> str:
        return f"{self.manifest.folder}/{name}"


def new_id(created: datetime) -> str:
    return f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid4().hex[:8]}"


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def is_object(name: str) -> bool:
    """Is it what an object in a backup's folder can be called?"""
    return _OBJECT.fullmatch(name) is not None


def _checksum(document: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON of all fields but the checksum."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
