"""Which file imports which: Python by its syntax tree, other languages by small patterns.

A target is a file of the tree where one can be found, else the name as it is written in the import.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from posixpath import dirname, join, normpath

from tasks.core.application.walk import Source

_PYTHON = (".py", ".pyi", ".pyw")
_SCRIPT_ENDINGS = ("", ".ts", ".tsx", ".d.ts", ".js", ".jsx", ".mjs", ".cjs", ".vue", ".svelte")
_SCRIPT_INDEX = ("/index.ts", "/index.tsx", "/index.js", "/index.jsx")


@dataclass(frozen=True)
class Import:
    """One row of code_relationships. `target_entity` is the module or the name taken from it."""

    source_file: str
    target_file: str
    source_entity: str
    target_entity: str


@dataclass
class Tree:
    """All paths of a source tree, arranged so that the target of an import is found without a search."""

    paths: frozenset[str]
    _modules: dict[str, dict[str, str]] = field(default_factory=dict, repr=False)
    _names: dict[str, list[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, paths: Iterable[str]) -> Tree:
        tree = cls(frozenset(paths))
        modules: defaultdict[str, dict[str, str]] = defaultdict(dict)
        names: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(tree.paths):
            names[path.rpartition("/")[2]].append(path)
            if path.endswith(_PYTHON):
                # By its packages, and from the tree's top, where folders without __init__.py are packages too.
                for root in (tree.import_root(path), ""):
                    modules[_module(path, root)].setdefault(root, path)
        tree._modules, tree._names = dict(modules), dict(names)
        return tree

    def import_root(self, path: str) -> str:
        """The folder that Python would have on its path: the first one upwards that is no package."""
        folder = dirname(path)
        while folder and f"{folder}/__init__.py" in self.paths:
            folder = dirname(folder)
        return folder

    def module(self, name: str, root: str) -> str | None:
        """The file of module `name`, seen from a file below import root `root`."""
        found = self._modules.get(name)
        if found is None:
            return None
        near = found.get(root) or found.get("")
        if near or len(found) > 1 or name.partition(".")[0] in sys.stdlib_module_names:
            return near
        return next(iter(found.values()))  # another import root (src/, lib/), and only one has such a module

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first of `candidates` that is a file of the tree, `..` taken up."""
        return next((path for path in map(normpath, candidates) if path in self.paths), None)

    def ending(self, suffix: str) -> str | None:
        """The one file whose path ends in `suffix`; None where none or several do."""
        named = self._names.get(suffix.rpartition("/")[2], [])
        found = [path for path in named if path == suffix or path.endswith(f"/{suffix}")]
        return found[0] if len(found) == 1 else None


def imports_of(source: Source, tree: Tree) -> tuple[Import, ...]:
    """The imports of one file, each once. A file that does not parse (another Python, a broken one) has none."""
    if source.language == "python":
        entity, pairs = _module(source.path, tree.import_root(source.path)), _python(source, tree)
    else:
        entity, pairs = source.path.rpartition("/")[2], _by_pattern(source, tree)
    return tuple(Import(source.path, target, entity, name) for target, name in dict.fromkeys(pairs))


def _module(path: str, root: str) -> str:
    """Dotted name of a Python file below import root `root`."""
    inside = path[len(root) + 1 :] if root else path
    stem = inside.rpartition(".")[0]
    return (stem.removesuffix("/__init__") if stem != "__init__" else root or stem).replace("/", ".")


def _python(source: Source, tree: Tree) -> Iterator[tuple[str, str]]:
    """(target, entity) of each import statement, wherever it stands in the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the indexed code, which is not ours to mend
            parsed = ast.parse(source.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    root = tree.import_root(source.path)
    for node in _statements(parsed):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _longest(tree, alias.name, root) or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield from _relative(node, source.path, tree)
        elif isinstance(node, ast.ImportFrom):
            yield from _absolute(node, root, tree)


def _statements(parsed: ast.Module) -> Iterator[ast.stmt]:
    """All statements, nested ones too, without going down into expressions."""
    pending: list[ast.stmt] = list(reversed(parsed.body))
    while pending:
        node = pending.pop()
        yield node
        inner: list[ast.stmt] = []
        for name in ("body", "orelse", "finalbody"):
            inner += getattr(node, name, ())
        for name in ("handlers", "cases"):
            for block in getattr(node, name, ()):
                inner += block.body
        pending += reversed(inner)


def _longest(tree: Tree, name: str, root: str) -> str | None:
    """The file of module `name`, or of the nearest module above it (os.path stands in os)."""
    while name:
        if found := tree.module(name, root):
            return found
        name = name.rpartition(".")[0]
    return None


def _absolute(node: ast.ImportFrom, root: str, tree: Tree) -> Iterator[tuple[str, str]]:
    module = node.module or ""
    parent = _longest(tree, module, root) or module
    for alias in node.names:
        inner = tree.module(f"{module}.{alias.name}", root)
        yield (inner, f"{module}.{alias.name}") if inner else (parent, alias.name)


def _relative(node: ast.ImportFrom, path: str, tree: Tree) -> Iterator[tuple[str, str]]:
    """Relative imports go by folders, so they need no module names."""
    written = "." * node.level + (node.module or "")
    base = join(dirname(path), *[".."] * (node.level - 1), *(node.module or "").split("."))
    parent = _python_file(tree, base)
    for alias in node.names:
        inner = _python_file(tree, f"{base}/{alias.name}")
        yield inner or parent or written, alias.name


def _python_file(tree: Tree, stem: str) -> str | None:
    stem = normpath(stem)
    return tree.first(f"{stem}{ending}" for ending in (".py", "/__init__.py", ".pyi", "/__init__.pyi"))


Resolver = Callable[[Tree, str, str], str | None]


def _script(tree: Tree, path: str, name: str) -> str | None:
    """JavaScript and TypeScript: only paths are files, bare names are packages."""
    if not name.startswith("."):
        return None
    base = join(dirname(path), name)
    stem = re.sub(r"\.[mc]?js$", "", base)  # TypeScript writes the name of the compiled file
    return tree.first([f"{at}{end}" for at in dict.fromkeys((base, stem)) for end in _SCRIPT_ENDINGS + _SCRIPT_INDEX])


def _include(tree: Tree, path: str, name: str) -> str | None:
    return tree.first([join(dirname(path), name), name, f"include/{name}", f"src/{name}"]) or tree.ending(name)


def _jvm(tree: Tree, path: str, name: str) -> str | None:
    stem = name.replace(".", "/")
    found = (tree.ending(f"{stem}{ending}") for ending in (".java", ".kt", ".scala"))
    return next(filter(None, found), None)


def _ruby(tree: Tree, path: str, name: str) -> str | None:
    return tree.first([join(dirname(path), f"{name}.rb"), f"lib/{name}.rb", f"{name}.rb"])


def _rust(tree: Tree, path: str, name: str) -> str | None:
    folder, own = dirname(path), path.removesuffix(".rs")
    return tree.first([f"{at}/{name}{end}" for at in (folder, own) for end in (".rs", "/mod.rs")])


_SCRIPT_IMPORT = re.compile(
    r"""(?:^|[;}\s])(?:import|export)\b[^'"`;()]{0,2000}?\bfrom\s*["']([^"'\n]+)["']"""
    r"""|(?:^|[;}\s])import\s*["']([^"'\n]+)["']"""
    r"""|\b(?:require|import)\(\s*["']([^"'\n]+)["']\s*\)"""
)
_C_INCLUDE = re.compile(r"""^[ \t]*\#[ \t]*(?:include|import)[ \t]*[<"]([^>"\n]+)[>"]""", re.MULTILINE)
_JVM_IMPORT = re.compile(r"^[ \t]*import[ \t]+(?:static[ \t]+)?([\w.]+)", re.MULTILINE)

_PATTERNS: dict[str, tuple[re.Pattern[str], Resolver]] = {
    **dict.fromkeys(("javascript", "typescript", "vue", "svelte"), (_SCRIPT_IMPORT, _script)),
    **dict.fromkeys(("c", "cpp"), (_C_INCLUDE, _include)),
    **dict.fromkeys(("java", "kotlin", "scala"), (_JVM_IMPORT, _jvm)),
    "ruby": (re.compile(r"""^[ \t]*require(?:_relative)?[ (]+["']([^"'\n]+)["']""", re.MULTILINE), _ruby),
    "rust": (re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?[ \t]+)?mod[ \t]+(\w+)[ \t]*;", re.MULTILINE), _rust),
}


def _by_pattern(source: Source, tree: Tree) -> Iterator[tuple[str, str]]:
    if source.language not in _PATTERNS:
        return
    pattern, resolve = _PATTERNS[source.language]
    for match in pattern.finditer(source.text):
        name = next(group for group in match.groups() if group)
        yield resolve(tree, source.path, name) or name, name
