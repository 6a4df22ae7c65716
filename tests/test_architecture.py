"""The shape of the house: sizes, names, and what may be imported at start-up."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "codeflow"
FILES = sorted(SOURCE.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 500, 60, 8
FORBIDDEN_NAMES = {"utils", "helpers", "common", "misc", "manager", "handler", "engine", "base"}


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_sizes_and_names(path: Path) -> None:
    assert path.read_text().count("\n") <= MAX_FILE_LINES
    assert path.stem not in FORBIDDEN_NAMES
    for function in functions(path):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        arguments = function.args
        n = len(arguments.args) + len(arguments.kwonlyargs) + len(arguments.posonlyargs)
        assert length <= MAX_FUNCTION_LINES, f"{function.name} has {length} lines"
        command = any("app.command" in ast.unparse(decorator) for decorator in function.decorator_list)
        assert command or n <= MAX_PARAMETERS, f"{function.name} has {n} parameters"  # a command's are its options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_public_things_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py":
        assert ast.get_docstring(tree), "the module says nothing about itself"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_reading_the_recipe_imports_nothing_heavy() -> None:
    code = (
        "import sys; import codeflow.cli; from codeflow.recipes.tiny import tiny; tiny().chain();"
        "heavy = ('torch', 'numba', 'pyarrow', 'tree_sitter', 'matplotlib', 'tokenizers');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
