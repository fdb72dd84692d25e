"""`kg index`: a source tree into code_embeddings and code_relationships, only what changed, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from sql import query
from tasks.core.application.choosing import chosen_embedder
from tasks.core.application.copying import binary_rows, integer_field, text_field, vector_fields
from tasks.core.application.embeddings import Embedder
from tasks.core.application.imports import Import, Tree, imports_of
from tasks.core.application.session import application_session, other_embedder
from tasks.core.application.walk import MAX_BYTES, Found, Skipped, Source, read, walk
from tasks.core.errors import OperationRunning, OpsError
from tasks.core.postgres.connections import Connection, database_errors
from tasks.core.progress import track
from tasks.core.settings import Settings

PREVIEW_CHARACTERS = 500
_FEW_NAMES = 20


@dataclass(frozen=True)
class IndexResult:
    """What a run of `kg index` did. `seen` counts files: those indexed, unchanged or left out with a reason."""

    root: str
    embedder: str
    seen: int
    indexed: int
    unchanged: int
    removed: int
    skipped: tuple[Skipped, ...]
    relationships: int
    """Import rows written in this run."""
    seconds: float


def index(
    settings: Settings,
    path: Path,
    *,
    embedder: Embedder | None = None,
    max_bytes: int = MAX_BYTES,
    embed_again: bool = False,
) -> IndexResult:
    """Bring the tables up to date with the source tree at `path`; a file's stored path is relative to it.

    Each batch is one transaction, so what an interrupted run has written stays, whole, and the next one goes on. Rows
    of other trees are left alone. `embed_again`: this tree's files whose vectors another embedder made count as
    changed. Raises UsageError for a path that is no folder, OperationRunning while another run indexes into the
    database, OpsError where the tables are missing or hold (else) vectors of another embedder.
    """
    started = monotonic()
    root = path.resolve()
    found, skipped = walk(root, max_bytes=max_bytes)
    with ExitStack() as stack:
        embedder = embedder or stack.enter_context(chosen_embedder(settings))
        conn, _ = stack.enter_context(application_session(settings, "index"))
        stack.enter_context(database_errors("indexing"))
        run = _Run(conn, root, embedder)
        _enter(run, settings, embed_again=embed_again)
        run.bring_up_to_date(found, skipped)
    return IndexResult(
        root=run.parameters["root"],
        embedder=embedder.name,
        seen=len(found) + sum(not item.path.endswith("/") for item in skipped),
        indexed=run.indexed,
        unchanged=run.unchanged,
        removed=run.removed,
        skipped=tuple(sorted(run.skipped, key=lambda item: item.path)),
        relationships=run.relationships,
        seconds=monotonic() - started,
    )


def _enter(run: _Run, settings: Settings, *, embed_again: bool) -> None:
    """Alone, and over vectors of our own make. The lock ends with the session."""
    conn = run.conn
    if conn.execute(query("try_index_lock")).fetchone() != (True,):
        raise OperationRunning(
            f"another session is indexing into the {settings.environment} database", hint="run it again when it is done"
        )
    own: dict[str, str | None] = {"embedder": run.embedder.name, "unnamed": settings.application.unnamed_embedder}
    own["root"] = run.parameters["root"] if embed_again else None
    foreign = conn.execute(query("foreign_embedder"), own).fetchone()
    if foreign:
        raise other_embedder(foreign[0], run.embedder, settings, "of other trees" if embed_again else "")
    conn.execute(query("make_incoming_files"))
    conn.execute(query("make_incoming_relationships"))


class _Run:
    """One tree on its way into the tables, and what has been done so far."""

    def __init__(self, conn: Connection, root: Path, embedder: Embedder) -> None:
        self.conn, self.root, self.embedder = conn, root, embedder
        # A folder's name that is no UTF-8 is stored with marks in place of its odd bytes.
        label = str(root).encode("utf-8", "replace").decode()
        self.parameters = {"root": label, "embedder": embedder.name}
        self.stored: dict[str, set[str]] = {}
        self.foreign: set[str] = set()
        self.tree = Tree.of(())
        self.skipped: list[Skipped] = []
        self.indexed = self.unchanged = self.removed = self.relationships = 0

    def bring_up_to_date(self, found: tuple[Found, ...], skipped: tuple[Skipped, ...]) -> None:
        self._look_up()
        self.skipped += skipped
        present = self._survey(found)
        self.tree = Tree.of(present)
        gone = {path: hashes for path, hashes in self.stored.items() if self._is_gone(path, present)}
        changed = [file for file in found if file.path in present and self._is_new(file.path, present[file.path])]
        kept = [file for file in found if file.path in present and not self._is_new(file.path, present[file.path])]
        # Where a file came or went, imports of unchanged files lead elsewhere. They go first: should we be interrupted,
        # the next run sees by the rows not yet written that there is something to do.
        moved = _names((present.keys() - self.stored.keys()) | gone.keys())
        self._write([*self._mentioning(moved, kept), *changed])
        self._remove(gone)
        self.unchanged = len(kept)
        if changed or gone:
            self.conn.execute(query("analyze_application_tables"))

    def _look_up(self) -> None:
        """Hashes by path of what the tables hold of this tree, and whose vectors another embedder made."""
        for path, sha256, ours in self.conn.execute(query("indexed_files"), self.parameters):
            self.stored.setdefault(path, set()).add(sha256)
            if not ours:
                self.foreign.add(path)

    def _survey(self, found: tuple[Found, ...]) -> dict[str, str]:
        """Hash by path of every file that is source text. Texts are not kept: a tree may be larger than memory."""
        present = {}
        with track("read", "Read files", total=len(found), unit="files") as progress:
            for file in found:
                source = read(self.root, file)
                if isinstance(source, Source):
                    present[file.path] = source.sha256
                else:
                    self.skipped.append(source)
                progress.advance(1)
            progress.say(f"{len(present)} of source text")
        return present

    def _is_new(self, path: str, sha256: str) -> bool:
        return path in self.foreign or self.stored.get(path) != {sha256}

    def _is_gone(self, path: str, present: Mapping[str, str]) -> bool:
        """What could not be read this time may well be there still: its rows stay."""
        unread = (item.path for item in self.skipped if not item.lasting)
        return path not in present and not any(_at_or_below(path, place) for place in unread)

    def _mentioning(self, names: frozenset[str], files: list[Found]) -> list[Found]:
        """Those of `files` whose text holds one of `names`; all of them where there are too many to look for."""
        if not names or len(names) > _FEW_NAMES:
            return files if names else []
        sources = (read(self.root, file) for file in files)
        mentions = [isinstance(item, Source) and any(name in item.text for name in names) for item in sources]
        return [file for file, mentioned in zip(files, mentions, strict=True) if mentioned]

    def _write(self, files: list[Found]) -> None:
        with self._keeping(), track("index", "Index files", total=len(files), unit="files") as progress:
            for start in range(0, len(files), self.embedder.batch):
                batch = files[start : start + self.embedder.batch]
                self._write_batch([item for file in batch if isinstance(item := read(self.root, file), Source)])
                progress.advance(len(batch))
            progress.say(f"{self.indexed} files, {self.relationships} imports")

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Where the embedder fails on the way, what is written stays: its error says so."""
        try:
            yield
        except OpsError as error:
            if not self.indexed:
                raise
            raise type(error)(
                f"{error.message}; {self.indexed:,} files were indexed and stay", hint=error.hint
            ) from error

    def _write_batch(self, sources: list[Source]) -> None:
        """One transaction. Of unchanged files only the imports are written again."""
        changed = [source for source in sources if self._is_new(source.path, source.sha256)]
        rows = self._file_rows(changed)  # the work is done before the transaction begins
        imports = [row for source in sources for row in imports_of(source, self.tree)]
        with self.conn.transaction():
            self._fill("copy_incoming_files", rows)
            self.conn.execute(query("upsert_files"), self.parameters)
            self._forget({source.path: self.stored.get(source.path, set()) - {source.sha256} for source in changed})
            self.conn.execute(query("delete_imports"), {**self.parameters, "paths": [item.path for item in sources]})
            self._fill("copy_incoming_relationships", binary_rows(_import_fields(row) for row in imports))
            self.conn.execute(query("insert_imports"), self.parameters)
        self.indexed += len(changed)
        self.relationships += len(imports)

    def _remove(self, gone: Mapping[str, set[str]]) -> None:
        if gone:
            with self.conn.transaction():
                self._forget(gone)
                self.conn.execute(query("delete_imports"), {**self.parameters, "paths": list(gone)})
        self.removed = len(gone)

    def _forget(self, versions: Mapping[str, set[str]]) -> None:
        pairs = [(path, sha256) for path, hashes in versions.items() for sha256 in hashes]
        if pairs:
            paths, hashes = zip(*pairs, strict=True)
            gone = {**self.parameters, "paths": list(paths), "hashes": list(hashes)}
            self.conn.execute(query("delete_files"), gone)
            self.conn.execute(query("disown_files"), gone)

    def _fill(self, copy: str, rows: bytes) -> None:
        with self.conn.cursor().copy(query(copy)) as stream:
            stream.write(rows)

    def _file_rows(self, sources: list[Source]) -> bytes:
        vectors = self.embedder.embed([item.text for item in sources], [item.path for item in sources])
        return binary_rows(
            (
                text_field(item.path),
                text_field(item.sha256),
                text_field(item.text[:PREVIEW_CHARACTERS]),
                vector,
                text_field(item.language),
                integer_field(self.embedder.count(item.text)),
            )
            for item, vector in zip(sources, vector_fields(vectors), strict=True)
        )


def _import_fields(row: Import) -> tuple[bytes, ...]:
    return tuple(map(text_field, (row.source_file, row.target_file, row.source_entity, row.target_entity)))


def _names(paths: Iterable[str]) -> frozenset[str]:
    """What an import would call these files: their names without extension, and their folders'."""
    parts = (Path(path) for path in paths)
    return frozenset(name for part in parts for name in (part.name.partition(".")[0], part.parent.name) if name)


def _at_or_below(path: str, place: str) -> bool:
    """Is `path` that place, or below it where it is a folder (which ends in a slash; the top is empty)?"""
    return path == place or (path.startswith(place) if place.endswith("/") else not place)
