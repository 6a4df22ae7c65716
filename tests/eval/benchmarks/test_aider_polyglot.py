"""Aider Polyglot on exercises written here, in the official repository's layout."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.eval.answers import Answer, Question
from codeflow.eval.benchmark import Attempt, Sampling
from codeflow.eval.benchmark_run import BenchmarkRunConfig, run_benchmark
from codeflow.eval.benchmark_scores import score
from codeflow.eval.benchmarks.aider_polyglot import BENCHMARKS
from codeflow.eval.catalogue import find
from codeflow.eval.exercises import _cargo_root, missing
from codeflow.sandbox.local import probe

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
DIFF, WHOLE = BENCHMARKS
CMAKE = """\
cmake_minimum_required(VERSION 3.5)
get_filename_component(exercise ${CMAKE_CURRENT_SOURCE_DIR} NAME)
project(${exercise} CXX)
string(REPLACE "-" "_" file ${exercise})
if((EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${file}.cpp) AND EXERCISM_RUN_ALL_TESTS)
  add_executable(${exercise} ${file}_test.cpp ${file}.cpp)
  add_custom_target(run ALL DEPENDS ${exercise} COMMAND ${exercise})
endif()
"""
# Stands for the packages of the JavaScript track: `jest` on the path of `npm run`, with the names that its tests use.
JEST = """\
#!/usr/bin/env node
const assert = require('node:assert');
const { pathToFileURL } = require('node:url');
const tests = [];
global.describe = (name, body) => body();
global.test = (name, body) => tests.push([name, body]);
global.xtest = () => {};
global.expect = (value) => ({ toEqual: (wanted) => assert.deepStrictEqual(value, wanted) });
(async () => {
  for (const file of process.argv.slice(2).filter((name) => name.endsWith('.spec.js'))) {
    await import(pathToFileURL(file));
  }
  for (const [name, body] of tests) {
    body();
    console.log('passed', name);
  }
})();
"""
EXERCISES = {
    "python/exercises/practice/two-fold": {
        ".docs/instructions.md": "# Two-fold\n\nDouble a number.\n",
        ".docs/instructions.append.md": "Raise nothing.\n",
        ".meta/config.json": {
            "solution": ["two_fold.py"],
            "test": ["two_fold_test.py"],
            "example": [".meta/example.py"],
        },
        ".meta/example.py": "def double(n):\n    return 2 * n\n",
        "two_fold.py": "def double(n):\n    pass\n",
        "two_fold_test.py": "from two_fold import double\n\n\ndef test_it():\n"
        "    assert double(4) == 8, 'twice four'\n",
    },
    "cpp/exercises/practice/one-more": {
        ".docs/instructions.md": "Add one.\n",
        ".meta/config.json": {
            "solution": ["one_more.cpp", "one_more.h"],
            "test": ["one_more_test.cpp"],
            "example": [".meta/example.cpp", ".meta/example.h"],
        },
        ".meta/example.cpp": '#include "one_more.h"\nint more(int n) { return n + 1; }\n',
        ".meta/example.h": "int more(int n);\n",
        "one_more.cpp": '#include "one_more.h"\n',
        "one_more.h": "#pragma once\n",
        "one_more_test.cpp": '#include "one_more.h"\nint main() { return more(1) == 2 ? 0 : 1; }\n',
        "CMakeLists.txt": CMAKE,
    },
    "rust/exercises/practice/half": {
        ".docs/instructions.md": "Halve.\n",
        ".meta/config.json": {
            "solution": ["src/lib.rs", "Cargo.toml"],
            "test": ["tests/half.rs"],
            "example": [".meta/example.rs"],
        },
        ".meta/example.rs": "pub fn half(n: u32) -> u32 { n / 2 }\n",
        "src/lib.rs": "pub fn half(n: u32) -> u32 { todo!() }\n",
        "tests/half.rs": "#[test]\n#[ignore]\nfn it() { assert_eq!(half::half(4), 2); }\n",
        "Cargo.toml": '[package]\nname = "half"\nversion = "1.0.0"\nedition = "2021"\n',
    },
    "go/exercises/practice/third-part": {
        ".docs/instructions.md": "Divide by three.\n",
        ".meta/config.json": {
            "solution": ["third_part.go"],
            "test": ["third_part_test.go"],
            "example": [".meta/example.go"],
        },
        ".meta/example.go": "package thirdpart\n\nfunc Third(n int) int {\n\treturn n / 3\n}\n",
        "third_part.go": 'package thirdpart\n\nfunc Third(n int) int {\n\tpanic("to be written")\n}\n',
        "third_part_test.go": 'package thirdpart\n\nimport "testing"\n\nfunc TestThird(t *testing.T) {\n'
        '\tif got := Third(9); got != 3 {\n\t\tt.Fatalf("Third(9) = %d, not 3", got)\n\t}\n}\n',
        "go.mod": "module thirdpart\n\ngo 1.18\n",
    },
    "javascript/exercises/practice/last-word": {
        ".docs/instructions.md": "Return the last word.\n",
        ".meta/config.json": {
            "solution": ["last-word.js"],
            "test": ["last-word.spec.js"],
            "example": [".meta/proof.ci.js"],
        },
        ".meta/proof.ci.js": "export const last = (text) => text.split(' ').at(-1);\n",
        "last-word.js": "export const last = (text) => {\n  throw new Error('to be written');\n};\n",
        "last-word.spec.js": "import { last } from './last-word.js';\n\ndescribe('last', () => {\n"
        "  test('of one', () => {\n    expect(last('one')).toEqual('one');\n  });\n\n"
        "  xtest('of two', () => {\n    expect(last('one two')).toEqual('two');\n  });\n});\n",
        "package.json": '{"name": "last-word", "private": true, "type": "module", "scripts": {"test": "jest ./*"}}\n',
    },
    "java/exercises/practice/none": {
        ".docs/instructions.md": "x",
        ".meta/config.json": {"solution": ["src/main/java/N.java"], "test": [], "example": []},
        "src/main/java/N.java": "class N {}\n",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "aider_polyglot"
    for place, files in EXERCISES.items():
        for name, content in files.items():
            path = folder / place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps({"files": content}))
    jest = folder / "node_modules/.bin/jest"
    jest.parent.mkdir(parents=True)
    jest.write_text(JEST)
    jest.chmod(0o755)
    return folder


class Table:
    """A model that gives these answers, one after the other."""

    name, fingerprint = "table", "1"

    def __init__(self, answers: list[str]) -> None:
        self.answers, self.questions = list(answers), list[Question]()

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        self.questions += questions
        return [Answer(self.answers.pop(0), "stop", 1, math.nan) for _ in questions]


def problems(folder, form=DIFF, language=""):
    return [one for one in form.load([folder]) if one.id.startswith(language)]


def test_exercises_are_read_and_those_that_cannot_run_are_named(folder, capsys):
    [problem] = problems(folder, language="python")
    asked = problem.messages[1].content
    assert asked.startswith("two_fold.py\n```\ndef double(n):\n    pass\n```\n")
    assert "Double a number.\nRaise nothing." in asked
    assert "two_fold_test" not in asked
    assert "twice four" not in asked
    assert "1 exercises in java are left out" in capsys.readouterr().err
    assert not any(one.id.startswith("java/") for one in problems(folder))
    assert find(["aider_polyglot"]) == list(BENCHMARKS)


def test_the_gold_answers_pass_in_both_formats(folder):
    attempts = [
        Attempt(problem, (problem.gold,)) for form in BENCHMARKS for problem in problems(folder, form, "python")
    ]
    for judge, attempt in zip((DIFF.judge, WHOLE.judge), attempts, strict=True):
        [judgement] = judge([attempt], 1)
        assert (judgement.passed, judgement.values) == (True, {"well_formed": 1.0}), judgement.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "right", "wrong"),
    [
        ("cpp", "n + 1", "n"),
        ("rust", "n / 2", "n"),
        ("go", "n / 3", "n - 3"),
        ("javascript", "at(-1)", "at(0)"),  # right but for the test that is left out until all are to run
    ],
)
def test_the_gold_answers_of_other_languages_pass_and_wrong_ones_fail(folder, language, right, wrong):
    if absent := missing(language, folder / "node_modules"):
        pytest.skip(f"{language} is not proved on this machine: {absent}")
    [problem] = problems(folder, DIFF, language)
    assert right in problem.gold
    [tests] = problem.data["exercise"].tests
    rewritten = f"{tests}\n```\n<<<<<<< SEARCH\n=======\n>>>>>>> REPLACE\n```\n"
    answers = (problem.gold, problem.gold.replace(right, wrong), problem.gold.replace(right, f"{right} ("), rewritten)
    passes, *fails = DIFF.judge([Attempt(problem, (answer,)) for answer in answers], 1)
    assert passes.passed, passes.reason
    assert [(one.passed, one.fault) for one in fails] == [(False, "model")] * 3, [one.reason for one in fails]
    assert "not a file that may be changed" in fails[-1].reason


@pytest.mark.parametrize(
    ("language", "gone", "words"),
    [
        ("cpp", "cmake", "no cmake here"),
        ("cpp", "c++", r"no c\+\+ here"),
        ("go", "go", "no go here"),
        ("javascript", "npm", "no npm here"),
        ("rust", "cargo", "no cargo here"),
    ],
)
def test_what_is_absent_is_said_in_words(monkeypatch, folder, language, gone, words):
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None if name == gone else f"/usr/bin/{name}")
    _cargo_root.cache_clear()
    try:
        assert re.fullmatch(words, missing(language, folder / "node_modules"))
        assert missing("python", folder) == ""
    finally:
        _cargo_root.cache_clear()


@pytest.mark.skipif(bool(missing("javascript", Path())), reason=missing("javascript", Path()) or "Node is here")
def test_the_packages_of_the_javascript_track_are_asked_for(folder):
    assert re.fullmatch("no folder .*/none with the packages of the exercises", missing("javascript", folder / "none"))


def test_the_second_try_goes_on_from_the_first_and_sees_what_tests_said(folder, tmp_path):
    first = "two_fold.py\n```\n<<<<<<< SEARCH\n    pass\n=======\n    return n + 3\n>>>>>>> REPLACE\n```\n"
    second = "two_fold.py\n```\n<<<<<<< SEARCH\n    return n + 3\n=======\n    return 2 * n\n>>>>>>> REPLACE\n```\n"
    model = Table([first, second])
    config = BenchmarkRunConfig(
        on=("aider_polyglot_diff",), benchmarks=str(folder.parent), prove=False, bootstrap_resamples=20
    )
    only_python = [one for one in DIFF.load([folder]) if one.id.startswith("python")]
    benchmark = replace(DIFF, load=lambda _: only_python)
    finished = run_benchmark(benchmark, model, config, tmp_path / "out")
    assert "twice four" in model.questions[1].messages[-1].content
    assert "Mend: two_fold.py" in model.questions[1].messages[-1].content
    values = {one.metric: one.value for one in score(finished, "table", 20, 0) if not one.subset}
    assert (values["pass@1"], values["pass@1 after try 2"], values["repair_rate"]) == (0.0, 1.0, 1.0)
    assert values["well_formed"] == 1.0


@pytest.mark.parametrize(
    ("answer", "words", "well_formed"),
    [
        ("I cannot.", "no SEARCH/REPLACE block", 0.0),
        ("two_fold.py\n```\n<<<<<<< SEARCH\n    pass\n=======\n    while True: pass\n", "lacks its line", 0.0),
        (
            "two_fold_test.py\n```\n<<<<<<< SEARCH\n\n=======\n\n>>>>>>> REPLACE\n```\n",
            "not a file that may be changed; there are two_fold.py",
            0.0,
        ),
        (
            "two_fold.py\n```\n<<<<<<< SEARCH\n    pass\n=======\n    return (\n>>>>>>> REPLACE\n```\n",
            "SyntaxError",
            1.0,
        ),
    ],
)
def test_wrong_answers(folder, answer, words, well_formed):
    [problem] = problems(folder, language="python")
    [judgement] = DIFF.judge([Attempt(problem, (answer,))], 1)
    assert (judgement.passed, judgement.fault) == (False, "model")
    assert words in judgement.reason
    assert judgement.values["well_formed"] == well_formed


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(UserError, match="holds no LANGUAGE"):
        DIFF.load([tmp_path])
    broken = tmp_path / "python/exercises/practice/x/.meta"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no exercise as it should be"):
        DIFF.load([tmp_path])
