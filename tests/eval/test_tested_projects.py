"""The projects that completion is tested on, and the holes in them."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from codeflow.eval.tested_projects import LEVELS, Project, cuts, projects


@pytest.fixture(params=projects(), ids=lambda project: project.name)
def project(request: pytest.FixtureRequest) -> Project:
    return request.param


def test_every_function_has_its_holes(project: Project) -> None:
    found = list(cuts(project))
    assert found == list(cuts(project))
    texts = dict(project.sources)
    functions = Counter((cut.path, cut.function) for cut in found if cut.level == "function")
    assert max(functions.values()) == 1
    n_definitions = sum(
        isinstance(node, ast.FunctionDef) and not node.name.startswith("__")
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
    )
    assert len(functions) == n_definitions > 10
    assert {cut.level for cut in found} == set(LEVELS)
    for cut in found:
        start, stop = cut.middle
        assert cut.definition[0] < start < stop <= cut.definition[1]
        definition = texts[cut.path][slice(*cut.definition)]
        assert definition.startswith(f"def {cut.function.rpartition('.')[2]}(")
        if cut.level == "expression":
            assert stop - start >= 8
            ast.parse(f"({texts[cut.path][start:stop]})", mode="eval")
        if cut.level == "function":
            assert stop == cut.definition[1]


def test_context_is_the_other_sources_and_never_a_test(project: Project) -> None:
    for path, _ in project.sources:
        context = dict(project.context_of(path))
        assert {*context, path} == set(dict(project.sources))
        assert not any("test" in other for other in context)


def test_what_is_imported_comes_first() -> None:
    (transit,) = (project for project in projects() if project.name == "transit")
    assert [path for path, _ in transit.context_of("transit/journey.py")] == [
        "transit/clock.py",
        "transit/network.py",
        "transit/__init__.py",
        "transit/search.py",
    ]
    assert transit.suite.n_tests == sum(text.count("    def test_") for _, text in transit.tests)
