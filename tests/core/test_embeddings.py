"""The offline embedder: the same everywhere, never zero, and near where the meaning is near."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.application import tokens
from tasks.core.application.copying import binary_rows, integer_field, text_field, vector_fields
from tasks.core.application.embeddings import OfflineEmbedder

TEXTS = ("def parse_json(document): ...", "class HTTPServer:\n    port = 80", "", "\u6570\u636e\u5e93 caf\u00e9")
PATHS = ("json/parser.py", "http/server.py", "pkg/__init__.py", "notes/\u00fc.md")
DIGEST = "0cb281c5e51dfb4ec3086e36de3d94971f7c94390df40e444122a482fb61a5d4"


def digest() -> str:
    embedder = OfflineEmbedder()
    vectors = np.vstack([embedder.embed(TEXTS, PATHS), embedder.embed(TEXTS)])
    return hashlib.sha256(vectors.astype("<f4").tobytes()).hexdigest()


def nearest(question: str, files: dict[str, str]) -> str:
    embedder = OfflineEmbedder()
    vectors = embedder.embed(list(files.values()), list(files))
    return list(files)[int(np.argmax(vectors @ embedder.embed([question])[0]))]


def test_vectors_are_what_they_were_when_rows_were_stored() -> None:
    """A change here needs another name of the embedder: stored vectors would no longer fit."""
    assert OfflineEmbedder.name == "offline-hashing-1"
    assert digest() == DIGEST


def test_another_process_with_another_hash_seed_agrees() -> None:
    code = "from tests.core.test_embeddings import digest; print(digest())"
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == DIGEST


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(st.characters(exclude_characters="\0"), min_size=1))
def test_every_vector_has_length_one(text: str, path: str) -> None:
    embedder = OfflineEmbedder()
    for vectors in (embedder.embed([text]), embedder.embed([text], [path])):
        assert vectors.shape == (1, embedder.dimensions)
        assert vectors.dtype == np.float32
        assert abs(float(np.linalg.norm(vectors[0].astype(np.float64))) - 1) < 1e-5


def test_order_and_company_change_nothing() -> None:
    embedder = OfflineEmbedder()
    together = embedder.embed(TEXTS, PATHS)
    for row, (text, path) in enumerate(zip(TEXTS, PATHS, strict=True)):
        assert np.array_equal(together[row], embedder.embed([text], [path])[0])


def test_no_texts_give_no_vectors() -> None:
    assert OfflineEmbedder().embed([]).shape == (0, 1536)


def test_the_path_says_more_than_a_mention() -> None:
    mention = "'''Store rows.'''\nimport json\n" + "def store(row): return row\n" * 20
    assert (
        nearest("parse json", {"db/store.py": mention, "json/decoder.py": "def decode(text): ..."}) == "json/decoder.py"
    )


def test_a_name_written_together_is_found_by_its_parts() -> None:
    zipfile = "# Read and write zip files.\nclass ZipFile:\n    def read(self, zip, file): zip; file\n"
    files = {"zipfile.py": zipfile, "archive.py": "class Tar: ...", "reader.py": "def read(path): ..."}
    assert nearest("read a zip archive", files) == "zipfile.py"


@pytest.mark.parametrize(
    "forms",
    [
        ("parse", "parser", "parsing", "parsed", "parses"),
        ("compress", "compression", "compressed", "compressing", "compresses", "compressor"),
        ("iterate", "iterator", "iteration"),
        ("zip", "zipped", "zips", "zipping"),
        ("directory", "directories"),
        ("hash", "hashes", "hashing"),
    ],
)
def test_forms_of_one_word_are_one(forms: tuple[str, ...]) -> None:
    assert len({tokens.stem(form) for form in forms}) == 1


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("HTTPServerError", ["http", "server", "error"]),
        ("parse_json_2", ["parse", "json"]),
        ("camelCase", ["camel", "case"]),
        ("__init__", ["init"]),
        ("x", []),
    ],
)
def test_identifiers_are_taken_apart(identifier: str, words: list[str]) -> None:
    assert list(tokens.pieces(tokens.identifiers(identifier))) == words


def test_rows_in_the_format_of_binary_copy() -> None:
    assert binary_rows([(text_field("a\0b"), None, integer_field(-2))]) == (
        b"PGCOPY\n\xff\r\n\0"
        + bytes(8)
        + b"\0\x03"
        + b"\0\0\0\x02ab"
        + b"\xff\xff\xff\xff"
        + b"\0\0\0\x04\xff\xff\xff\xfe"
        b"\xff\xff"
    )


def test_vectors_in_pgvectors_binary_form() -> None:
    vectors = np.array([[1.0, -2.5], [0.0, 3.0]], dtype=np.float32)
    assert vector_fields(vectors) == [b"\0\x02\0\0" + row.astype(">f4").tobytes() for row in vectors]
