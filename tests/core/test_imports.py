"""Which file imports which."""

from __future__ import annotations

import pytest

from tasks.core.application.imports import Import, Tree, imports_of
from tasks.core.application.walk import Source, language_of


def pairs(path: str, text: str, *others: str) -> set[tuple[str, str]]:
    """(target file, target entity) of a file with this text, in a tree with these other files."""
    source = Source(path, language_of(path) or "", "", text)
    return {(row.target_file, row.target_entity) for row in imports_of(source, Tree.of([path, *others]))}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import pkg.b", ("pkg/b.py", "pkg.b")),
        ("import pkg", ("pkg/__init__.py", "pkg")),
        ("from pkg import b", ("pkg/b.py", "pkg.b")),
        ("from pkg.b import thing", ("pkg/b.py", "thing")),
        ("from pkg import thing", ("pkg/__init__.py", "thing")),
        ("from . import b", ("pkg/b.py", "b")),
        ("from .b import thing", ("pkg/b.py", "thing")),
        ("from . import thing", ("pkg/__init__.py", "thing")),
        ("from ..top import thing", ("top.py", "thing")),
        ("from .sub import *", ("pkg/sub/__init__.py", "*")),
        ("import top.path", ("top.py", "top.path")),
        ("import outside.deep", ("outside.deep", "outside.deep")),
        ("from outside import thing", ("outside", "thing")),
        ("from ....nowhere import thing", ("....nowhere", "thing")),
        ("def f():\n    try:\n        import pkg.b\n    except ImportError:\n        pass", ("pkg/b.py", "pkg.b")),
        ("match x:\n    case 1:\n        import pkg.b", ("pkg/b.py", "pkg.b")),
    ],
)
def test_python_statements(statement: str, expected: tuple[str, str]) -> None:
    others = ("pkg/__init__.py", "pkg/b.py", "pkg/sub/__init__.py", "top.py")
    assert pairs("pkg/a.py", statement, *others) == {expected}


def test_an_import_in_a_string_is_none() -> None:
    assert pairs("a.py", '"""\nimport b\n"""\n# import b\n', "b.py") == set()


@pytest.mark.parametrize("text", ["print 'python 2'", "def (", "x = '\0'", "(" * 5000])
def test_what_does_not_parse_has_no_imports(text: str) -> None:
    assert pairs("a.py", text) == set()


def test_packages_below_src_are_found_by_their_names() -> None:
    files = ("src/pkg/__init__.py", "src/pkg/b.py")
    assert pairs("tests/test_b.py", "from pkg import b", *files) == {("src/pkg/b.py", "pkg.b")}


def test_the_neighbour_comes_before_a_namesake() -> None:
    files = ("one/helper.py", "two/helper.py")
    assert pairs("two/main.py", "import helper", *files) == {("two/helper.py", "helper")}
    assert pairs("three/main.py", "import helper", *files) == {("helper", "helper")}


def test_a_namesake_elsewhere_is_not_taken_for_the_standard_library() -> None:
    assert pairs("tool/main.py", "import json", "tests/json.py") == {("json", "json")}


def test_the_source_is_named_as_a_module_and_each_row_comes_once() -> None:
    source = Source("pkg/a.py", "python", "", "import b\nimport b\n")
    tree = Tree.of(["pkg/__init__.py", "pkg/a.py", "b.py"])
    assert imports_of(source, tree) == (Import("pkg/a.py", "b.py", "pkg.a", "b"),)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("web/a.ts", "import { b } from './b'", ("web/b.ts", "./b")),
        ("web/a.ts", "import type {\n  B,\n} from './b.js';", ("web/b.ts", "./b.js")),
        ("web/a.js", "const x = require('../lib')", ("lib/index.js", "../lib")),
        ("web/a.js", "export * from './b'", ("web/b.ts", "./b")),
        ("web/a.tsx", "const X = lazy(() => import('./b'))", ("web/b.ts", "./b")),
        ("web/a.ts", "import React from 'react'", ("react", "react")),
        ("c/main.c", '#include "util.h"', ("c/util.h", "util.h")),
        ("c/main.c", "#  include <api/x.h>", ("include/api/x.h", "api/x.h")),
        ("c/main.c", "#include <stdio.h>", ("stdio.h", "stdio.h")),
        ("j/Main.java", "import static org.kg.Store;", ("j/org/kg/Store.java", "org.kg.Store")),
        ("r/main.rb", "require_relative 'store'", ("r/store.rb", "store")),
        ("s/lib.rs", "pub mod store;\nuse std::io;", ("s/store/mod.rs", "store")),
    ],
)
def test_other_languages(path: str, text: str, expected: tuple[str, str]) -> None:
    others = ("web/b.ts", "lib/index.js", "c/util.h", "include/api/x.h", "j/org/kg/Store.java", "r/store.rb")
    assert pairs(path, text, *others, "s/store/mod.rs") == {expected}


def test_a_language_without_patterns_has_no_imports() -> None:
    assert pairs("a.md", "import b", "b.py") == set()
