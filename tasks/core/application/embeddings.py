"""Texts as vectors of 1536 numbers, close to each other when the texts speak of the same things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import fsum, sqrt
from typing import TYPE_CHECKING, Protocol, TypeAlias

from tasks.core.application import tokens

if TYPE_CHECKING:  # numpy costs 0.1 s and more to import: only those who embed pay it
    import numpy as np
    import numpy.typing as npt

    Vectors: TypeAlias = npt.NDArray[np.float32]

DIMENSIONS = 1536

# Weights of what is known of a file, each part by itself a unit vector. They and the constants below were found by
# trying: what answered eighty questions about Python's standard library best.
_BODY, _HEAD, _DEFINITIONS, _PATH = 1.0, 1.8, 0.5, 1.2
_HEAD_CHARACTERS = 600  # where a file says what it is for
_COMPOUND, _LONG_FORM = 0.8, 0.5  # of a word of the path, for what it is made of or stands for
_FILLER, _FILLER_WORDS = 1.6, 40

_SLOTS = 6  # dimensions that share one word, so that two words seldom have all of theirs in common
_FIXED_POINT = 1 << 20


class Embedder(Protocol):
    """A model. Vectors of two models have nothing to say to each other: `name` is stored with each row."""

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    @property
    def batch(self) -> int:
        """How many texts are worth one call, and so are lost at most where one fails."""
        ...

    def embed(self, texts: Sequence[str], paths: Sequence[str] | None = None) -> Vectors:
        """Unit vectors, float32, one row a text. `paths`: the files that the texts are, else they are questions."""
        ...

    def count(self, text: str) -> int:
        """Tokens of `text` as this model counts them."""
        ...


class OfflineEmbedder:
    """Feature hashing of the stems in identifiers and prose: no network, no model file, no state.

    Equal on every machine and Python version, to the last bit: hashing is blake2b's, square roots and divisions are
    IEEE's, and what is added up in an order of numpy's choosing are integers. A file's vector weighs the words of its
    path, its first lines and the names it defines above the rest, and holds a direction of its own, which makes
    a file of three words no better match than one of three hundred. No vector is zero, not even that of an empty text.
    """

    name = "offline-hashing-1"  # another number for every change of what comes out
    dimensions = DIMENSIONS
    batch = 200  # about 1.5 MB of vectors, and a second of work

    def embed(self, texts: Sequence[str], paths: Sequence[str] | None = None) -> Vectors:
        import numpy as np

        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = _vector(_question(text) if paths is None else _file(paths[row], text))
        return vectors

    def count(self, text: str) -> int:
        return tokens.identifiers(text).total()


def _question(text: str) -> dict[str, float]:
    words = _damped(tokens.stems(tokens.pieces(tokens.identifiers(text))))
    # Words that say nothing are better than none: "import", say, is a question too.
    return _unit(words) or _unit(words, weighed=False) or {f"\0{text}": 1.0}


def _file(path: str, text: str) -> dict[str, float]:
    """What is known of a file, as feature -> weight."""
    body = tokens.pieces(tokens.identifiers(text))
    head = tokens.pieces(tokens.identifiers(text[:_HEAD_CHARACTERS]))
    body_stems = tokens.stems(body)
    length = fsum(min(tokens.weight(word) * count, 3) for word, count in body_stems.items())
    found = {f"\0{path}": _FILLER / sqrt(1 + length / _FILLER_WORDS)}
    for words, share in (
        (_damped(body_stems), _BODY),
        (_damped(tokens.stems(head)), _HEAD),
        (_damped(tokens.stems(tokens.pieces(tokens.definitions(text)))), _DEFINITIONS),
        (tokens.stems(_path_words(path, body)), _PATH),
    ):
        for word, value in _unit(words).items():
            found[word] = found.get(word, 0.0) + share * value
    return found


def _path_words(path: str, vocabulary: Mapping[str, int]) -> dict[str, float]:
    """Words of the path without its extension, those they are made of, and those they stand for."""
    folder, slash, name = path.rpartition("/")
    written = tokens.pieces(tokens.identifiers(folder + slash + name.partition(".")[0]))
    found: dict[str, float] = dict(written)
    parts = [part for word in written for part in tokens.compounds(word, vocabulary)]
    for part in parts:
        found[part] = found.get(part, 0) + _COMPOUND
    for word in dict.fromkeys([*written, *parts]):
        if longer := tokens.long_form(word, vocabulary):
            found[longer] = found.get(longer, 0) + _LONG_FORM
    return found


def _damped(words: Mapping[str, float]) -> dict[str, float]:
    """Square roots: the tenth mention says less than the first. (In a path each repetition is meant.)"""
    return {word: sqrt(count) for word, count in words.items()}


def _unit(words: Mapping[str, float], *, weighed: bool = True) -> dict[str, float]:
    """The same weighed by how much each word says, and of length one together."""
    found = {word: value * (tokens.weight(word) if weighed else 1) for word, value in words.items()}
    length = sqrt(fsum(value * value for value in found.values()))
    return {word: value / length for word, value in found.items() if value} if length else {}


def _vector(features: Mapping[str, float]) -> Vectors:
    """Each feature adds its weight, with a sign, to a few dimensions; the sum has length one."""
    import numpy as np

    digests = np.frombuffer(b"".join(map(_digest, features)), dtype="<u4").reshape(-1, _SLOTS)
    values = np.rint(np.fromiter(features.values(), dtype=np.float64) * _FIXED_POINT)
    signs = np.where(digests >> 31, 1.0, -1.0)
    summed = np.bincount((digests % DIMENSIONS).ravel(), (signs * values[:, None]).ravel(), minlength=DIMENSIONS)
    vector: Vectors = (summed / np.sqrt(summed @ summed)).astype(np.float32)
    return vector


@lru_cache(maxsize=1 << 18)
def _digest(feature: str) -> bytes:
    return blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=4 * _SLOTS).digest()
