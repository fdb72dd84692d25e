"""Every error a user can meet, with the exit status it ends in.

OpsError                     1  the operation failed
├── UsageError               2  the command line is wrong
│   └── SettingsError        2  a setting is missing or malformed
│       └── NotConfigured    2  nothing here says where the environment's database is
├── Refused                  3  nothing was done: a gate is closed
│   ├── NotConfirmed         3  nobody said yes
│   ├── OperationRunning     3  another operation holds the database
│   └── AdoptionRefused      3  the tables found are not the ones we know
├── CommandFailed            1  a program we called ended non-zero
│   └── CommandMissing       1  it could not be started, or none of a fitting version exists
├── DatabaseError            1  the server refused or dropped us
│   ├── ConnectionFailed     1
│   └── PrivilegeMissing     1  the role may not; the hint is the statement for the administrator
├── StoreError               1  the place for backups cannot be read or written
│   ├── StoreUnavailable     1  it may be there again in a moment: worth a retry
│   ├── ObjectMissing        1
│   └── ObjectExists         1  the key is taken
├── BackupError              1  no backup was made, or there is none
│   └── IntegrityError       1  a backup is not what its manifest says
├── DrillFailed              1  a backup did not restore to what its manifest says
├── MigrationFailed          1  a migration's SQL failed; its transaction was rolled back
├── RehearsalFailed          1  a pending migration failed on the restored copy; the database was not touched
├── VerificationFailed       1  the database is not what its revision says
├── WatchFailed              1  the database did worse after the migration than it may
├── ReindexFailed            1  no new index took the old one's place; the old one serves
├── RollbackFailed           1  the way back is barred; the message names the state
│   └── RowsMissing          1  it went back in form, and rows that the backup counted are not there
└── EngineFailed             1  there is no Prefect server to run flows against
"""

from __future__ import annotations

from typing import ClassVar

_QUOTED = 60  # characters


class OpsError(Exception):
    """What failed, on what (`message`), and what to do next (`hint`)."""

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling, and Prefect pickles what a task raises.
        return (_rebuild, (type(self), self.message, self.hint))


def quoted(text: str) -> str:
    """What somebody typed, for a message: nothing that moves a cursor, and its beginning where it is long."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def _rebuild(kind: type[OpsError], message: str, hint: str | None) -> OpsError:
    return kind(message, hint=hint)


class UsageError(OpsError):
    code = "usage"
    exit_status = 2


class SettingsError(UsageError):
    code = "settings"


class NotConfigured(SettingsError):
    """No fault by itself: this machine need not know every environment."""


class Refused(OpsError):
    code = "refused"
    exit_status = 3


class NotConfirmed(Refused):
    code = "not-confirmed"


class OperationRunning(Refused):
    code = "operation-running"


class AdoptionRefused(Refused):
    code = "adoption-refused"


class CommandFailed(OpsError):
    code = "command-failed"


class CommandMissing(CommandFailed):
    code = "command-missing"


class DatabaseError(OpsError):
    code = "database"


class ConnectionFailed(DatabaseError):
    code = "connection-failed"


class PrivilegeMissing(DatabaseError):
    code = "privilege-missing"


class StoreError(OpsError):
    code = "store"


class StoreUnavailable(StoreError):
    code = "store-unavailable"


class ObjectMissing(StoreError):
    code = "object-missing"


class ObjectExists(StoreError):
    code = "object-exists"


class BackupError(OpsError):
    code = "backup"


class IntegrityError(BackupError):
    code = "integrity"


class DrillFailed(OpsError):
    code = "drill-failed"


class MigrationFailed(OpsError):
    code = "migration-failed"


class RehearsalFailed(OpsError):
    code = "rehearsal-failed"


class VerificationFailed(OpsError):
    code = "verification-failed"


class WatchFailed(OpsError):
    code = "watch-failed"


class ReindexFailed(OpsError):
    code = "reindex-failed"


class RollbackFailed(OpsError):
    code = "rollback-failed"


class RowsMissing(RollbackFailed):
    code = "rows-missing"


class RollbackRefused(Refused, RollbackFailed):
    code = "rollback-refused"


class EngineFailed(OpsError):
    code = "engine"
