"""Imports resolved inside a repository, and files put behind what they depend on."""

from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from codeflow.transform.import_statements import python_imports, rust_uses
from codeflow.transform.imports import ImportGraph, in_dependency_order

_PATHS = (
    "setup.py",
    "src/pkg/__init__.py",
    "src/pkg/core.py",
    "src/pkg/json.py",
    "src/pkg/sub/__init__.py",
    "src/pkg/sub/leaf.py",
    "tests/test_core.py",
    "tools/helper.py",
    "tools/main.py",
    "csrc/a.cpp",
    "csrc/a.h",
    "include/lib/b.h",
    "one/same.h",
    "two/same.h",
)
_GRAPH = ImportGraph(_PATHS)


def _found(path: str, text: str, language: str = "Python") -> tuple[str, ...]:
    return _GRAPH.dependencies(path, text, language)


def test_absolute_imports() -> None:
    assert _found("tests/test_core.py", "import os\nimport pkg.core as c, pkg.sub.leaf\n") == (
        "src/pkg/core.py",
        "src/pkg/sub/leaf.py",
    )
    assert _found("tests/test_core.py", "from pkg import core\n") == ("src/pkg/core.py",)
    assert _found("tests/test_core.py", "from pkg import core, VERSION\n") == ("src/pkg/core.py", "src/pkg/__init__.py")
    assert _found("tests/test_core.py", "from pkg.core import (\n    f as g,\n    h,\n)\n") == ("src/pkg/core.py",)
    assert _found("tests/test_core.py", "from pkg.sub import *\n") == ("src/pkg/sub/__init__.py",)


def test_relative_imports() -> None:
    assert _found("src/pkg/core.py", "from . import json\nfrom .sub import leaf\n") == (
        "src/pkg/json.py",
        "src/pkg/sub/leaf.py",
    )
    assert _found("src/pkg/sub/leaf.py", "from ..core import f\nfrom .. import sub\n") == (
        "src/pkg/core.py",
        "src/pkg/sub/__init__.py",
    )
    assert _found("src/pkg/sub/leaf.py", "from ....... import core\n") == ()
    assert _found("src/pkg/core.py", "from . import core\n") == ()  # never itself


def test_the_library_is_no_sibling_and_scripts_have_siblings() -> None:
    assert _found("src/pkg/core.py", "import json\n") == ()
    assert _found("tools/main.py", "import helper\n") == ("tools/helper.py",)
    assert _found("tools/main.py", "import numpy\nfrom absent import x\n") == ()


def test_includes() -> None:
    text = '#include <vector>\n  # include "a.h"\n#include <lib/b.h>\n#include "same.h"\n'
    assert _found("csrc/a.cpp", text, "C++") == ("csrc/a.h", "include/lib/b.h")  # two files are called same.h
    assert _found("two/x.c", '#include "../one/same.h"\n', "C") == ("one/same.h",)
    assert _found("csrc/a.cpp", text, "Rust") == ()


def test_broken_text_gives_what_can_be_made_out() -> None:
    text = "import pkg.core\nprint 'two'\ndef broken(:\n    from pkg import json\n"
    assert "src/pkg/core.py" in _found("tests/test_core.py", text)
    assert python_imports("important = 1\n# import pkg\ns = 'import pkg'\n") == []


_WORD = st.sampled_from(["a", "b", "cc", "pkg"])
_DOTTED = st.lists(_WORD, min_size=1, max_size=3).map(".".join)
_NAMES = st.lists(st.tuples(_WORD, st.booleans()), min_size=1, max_size=3)
_STATEMENT = st.one_of(
    _DOTTED.map(lambda name: f"import {name}"),
    st.tuples(st.integers(0, 3), _DOTTED, _NAMES).map(
        lambda t: f"from {'.' * t[0]}{t[1]} import " + ", ".join(n + " as z" * renamed for n, renamed in t[2])
    ),
    st.just("x = 1"),
)


@given(st.lists(_STATEMENT, max_size=5))
def test_statements_are_those_of_the_language(statements: list[str]) -> None:
    """Judge: Python's own parser."""
    text = "\n".join(statements)
    expected: list[tuple[int, str, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            expected += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            expected.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
    assert python_imports(text) == expected


def test_dependency_order() -> None:
    depends = {"a": ("b", "c"), "b": ("c",), "d": ("x",)}
    assert in_dependency_order(["a", "b", "c", "d"], depends) == ["c", "b", "a", "d"]
    assert in_dependency_order(["d", "c", "a"], depends) == ["d", "c", "a"]
    cycle = {"a": ("b",), "b": ("a",)}
    assert in_dependency_order(["a", "b"], cycle) == ["b", "a"]
    assert in_dependency_order(["b", "a"], cycle) == ["a", "b"]
    chain = {str(i): (str(i + 1),) for i in range(5000)}  # deeper than Python's own stack
    assert in_dependency_order([str(i) for i in range(5000)], chain) == [str(i) for i in range(4999, -1, -1)]


_WORLD = ImportGraph(
    (
        "web/src/app.ts",
        "web/src/view/index.tsx",
        "web/src/model.ts",
        "web/src/old.js",
        "src/shared/dates.ts",
        "java/src/main/java/org/shop/Order.java",
        "java/src/main/java/org/shop/Price.java",
        "java/src/main/java/org/shop/tax/Rate.java",
        "java/src/main/java/org/shop/tax/Rule.java",
        "cmd/main.go",
        "internal/store/store.go",
        "internal/store/cache.go",
        "internal/store/store_test.go",
        "errors/errors.go",
        "engine/src/lib.rs",
        "engine/src/parse.rs",
        "engine/src/parse/tokens.rs",
        "engine/src/run/mod.rs",
        "engine-macros/src/lib.rs",
        "engine-macros/src/expand.rs",
    ),
    [
        'import (\n\t"fmt"\n\t"example.org/shop/internal/store"\n\tcobra "github.com/x/cobra/errors"\n)\n',
        'import "example.org/shop/errors"\n',
    ],
)


def _world(path: str, text: str, language: str) -> tuple[str, ...]:
    return _WORLD.dependencies(path, text, language)


def test_javascript_and_typescript() -> None:
    text = (
        "import { a } from './model'\nimport View from \"./view\";\nexport * from './old.js'\n"
        "const dates = require('@/shared/dates')\nimport fs from 'fs'\nimport './app.js'\n"
        "const late = await import('./missing')\n"
    )
    assert _world("web/src/x.ts", text, "TypeScript") == (
        "web/src/model.ts",
        "web/src/view/index.tsx",
        "web/src/old.js",
        "src/shared/dates.ts",
        "web/src/app.ts",
    )
    assert _world("web/src/view/index.tsx", "import {\n  b,\n} from '../model.ts'\n", "TSX") == ("web/src/model.ts",)


def test_java() -> None:
    order = "java/src/main/java/org/shop/Order.java"
    text = (
        "package org.shop;\nimport java.util.List;\nimport static org.shop.tax.Rate.of;\nclass Order { Price price; }\n"
    )
    assert _world(order, text, "Java") == (
        "java/src/main/java/org/shop/tax/Rate.java",
        "java/src/main/java/org/shop/Price.java",
    )
    text = "import org.shop.tax.*;\nclass Order { Rule rule; }\n"
    assert _world(order, text, "Java") == ("java/src/main/java/org/shop/tax/Rule.java",)


def test_go_packages_of_the_own_module_only() -> None:
    text = (
        'package main\nimport (\n\t"errors"\n\ts "example.org/shop/internal/store"\n\t"github.com/x/cobra/errors"\n)\n'
    )
    assert _world("cmd/main.go", text, "Go") == ("internal/store/cache.go", "internal/store/store.go")
    assert _world("cmd/main.go", 'import "example.org/shop/errors"\n', "Go") == ("errors/errors.go",)
    assert ImportGraph(["a/b.go"]).dependencies("c.go", text, "Go") == ()


def test_rust() -> None:
    assert _world("engine/src/lib.rs", "mod parse;\npub(crate) mod run;\nmod inline { }\n", "Rust") == (
        "engine/src/parse.rs",
        "engine/src/run/mod.rs",
    )
    text = (
        "use crate::{\n    parse::tokens::{Token, self},\n    run,\n};\nuse std::fmt;\nuse engine_macros::expand::go;\n"
    )
    assert _world("engine/src/other.rs", text, "Rust") == (
        "engine/src/parse/tokens.rs",
        "engine/src/run/mod.rs",
        "engine-macros/src/expand.rs",
    )
    assert _world("engine/src/parse/tokens.rs", "use super::super::run::Machine;\nuse super::Tree;\n", "Rust") == (
        "engine/src/run/mod.rs",
        "engine/src/parse.rs",
    )
    assert rust_uses("pub use a::{b, c::{d as e, *}, self};\n") == [("a", "b"), ("a", "c", "d"), ("a", "c"), ("a",)]


def test_languages_without_a_resolver_depend_on_nothing() -> None:
    assert _world("x.rb", "require './model'\n", "Ruby") == ()
