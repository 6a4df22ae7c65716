"""Completion splits reassemble the text byte for byte, in every language and at every level."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys
import textwrap
from dataclasses import asdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document, Origin
from codeflow.transform import fim_nodes
from codeflow.transform.fim import LEVELS, Fim, FimConfig, Source, completion, generator, segments, split, window

from .fim_programs import NOT_THERE, PROGRAMS

_ORIGIN = Origin("project", "r", "1", "a.py", "MIT", "2020-01-01T00:00:00Z")


def _whole(fim: Fim) -> str:
    return fim.prefix + fim.middle + fim.suffix


def test_every_node_name_exists_in_its_grammar() -> None:
    from tree_sitter_language_pack import get_language

    assert set(fim_nodes.TABLES) == set(PROGRAMS)
    for name, table in fim_nodes.TABLES.items():
        language = BY_NAME[name]
        grammar = get_language(language.grammar)
        for kind in (
            *language.functions,
            *language.classes,
            *(kind for kinds in asdict(table).values() for kind in kinds),
        ):
            assert grammar.id_for_node_kind(kind, True) is not None, (name, kind)


@pytest.mark.parametrize("language", sorted(PROGRAMS))
@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_every_language_splits_and_reassembles(language: str, level: str) -> None:
    text = PROGRAMS[language]
    middles = set()
    for seed in range(12):
        fim = split(text, language, level, random.Random(seed))
        if (language, level) in NOT_THERE:
            assert fim is None
            continue
        assert fim is not None
        assert _whole(fim) == text
        assert _whole(fim).encode() == text.encode()
        assert fim.middle
        middles.add(fim.middle)
    assert (language, level) in NOT_THERE or middles


@pytest.mark.parametrize("language", sorted(PROGRAMS))
def test_function_middles_are_functions(language: str) -> None:
    if (language, "function") in NOT_THERE:
        return
    fim = split(PROGRAMS[language], language, "function", random.Random(1))
    assert fim is not None
    assert any(word in fim.middle for word in ("add", "total", "view", "Add", "twice"))
    assert fim.middle.rstrip()[-1] in "}dl)"


_TEXTS = st.text(st.characters(codec="utf-8"), max_size=200)


@given(_TEXTS, st.sampled_from(sorted(PROGRAMS)), st.sampled_from(LEVELS), st.integers(0, 2**32))
@example("x = 1\n\x00é", "Python", "expression", 1)
@settings(max_examples=300, deadline=None)
def test_any_text_reassembles(noise: str, language: str, level: str, seed: int) -> None:
    for text in (noise, noise + PROGRAMS[language] + noise):
        fim = split(text, language, level, random.Random(seed), 1, 50)
        if fim is not None:
            assert _whole(fim) == text
            assert 1 <= len(fim.middle) <= 50
            fim.middle.encode()  # no half characters


@given(_TEXTS, st.integers(1, 300), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_windows_keep_the_middle_and_are_a_run_of_the_text(text: str, room: int, seed: int) -> None:
    fim = split(text, "Python", "random_boundary", random.Random(seed), 1, room)
    if fim is not None:
        cut = window(fim, room)
        assert len(_whole(cut)) <= room
        assert cut.middle == fim.middle
        assert fim.prefix.endswith(cut.prefix)
        assert fim.suffix.startswith(cut.suffix)
        assert len(text) > room or cut == fim


def test_windows_are_cut_at_lines_and_use_the_room() -> None:
    text = "".join(f"line number {i}\n" for i in range(1000))
    start = text.index("line number 500")
    cut = window(Fim(text[:start], text[start : start + 15], text[start + 15 :]), 1000)
    assert cut.prefix.startswith("line number")
    assert cut.suffix.endswith("\n")
    assert 950 < len(_whole(cut)) <= 1000


def test_lines_are_whole_and_boundaries_reach_everywhere() -> None:
    text = "".join(f"line {i}\n" for i in range(40))
    starts = set()
    for seed in range(300):
        fim = split(text, "Text", "random_line", random.Random(seed))
        assert fim is not None
        assert fim.prefix == "" or fim.prefix.endswith("\n")
        assert fim.middle.endswith("\n")
        starts.add(len(fim.prefix))
        boundary = split(text, "Text", "random_boundary", random.Random(seed))
        assert boundary is not None
    assert len(starts) > 30
    assert split("only one line\n", "Text", "random_line", random.Random(0)) is None
    assert split("", "Python", "random_boundary", random.Random(0)) is None


def test_a_rare_node_is_found_by_search() -> None:
    text = "x = 1\n" * 2000 + "def f(): pass\n" + "y = 2\n" * 2000
    fim = split(text, "Python", "function", random.Random(0))
    assert fim is not None
    assert fim.middle == "def f(): pass"


def test_broken_code_gives_no_broken_middle() -> None:
    text = "def good(a):\n    return a\n\ndef bad(:\n    return (\n"
    for seed in range(30):
        fim = split(text, "Python", "function", random.Random(seed))
        assert fim is None or fim.middle == "def good(a):\n    return a"


def test_comments_lead_to_the_code_below_them() -> None:
    text = (
        "import a\n\n# the sum\n# of both\ntotal = a.b + a.c\nx = 1  # not this one\ny = 2\n\n# nor this\n\n\nz = 3\n"
    )
    middles = {fim.middle for seed in range(20) if (fim := split(text, "Python", "comment", random.Random(seed)))}
    assert middles == {"total = a.b + a.c"}
    text = "def f(x):\n    # first\n    y = x\n    return y\n"
    middles = {fim.middle for seed in range(20) if (fim := split(text, "Python", "comment", random.Random(seed)))}
    assert middles == {"y = x"}
    text = "/// Documented.\nfn f() {}\n"
    fim = split(text, "Rust", "comment", random.Random(0))
    assert fim is not None
    assert fim.middle == "fn f() {}"


def test_python_assignments_and_calls_are_statements_and_definitions_are_not() -> None:
    text = "def f(a):\n    b = a\n    g(b)\n    if b:\n        return b\n" * 3
    middles = [split(text, "Python", "statement", random.Random(seed)) for seed in range(60)]
    found = {fim.middle for fim in middles if fim is not None}
    assert found == {"b = a", "g(b)", "if b:\n        return b", "return b"}


def test_generators_do_not_depend_on_the_process() -> None:
    code = "from codeflow.transform.fim import generator; print(generator(3, 'a', 'b').random())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {f"{generator(3, 'a', 'b').random()}\n"}
    assert generator(3, "a", "b").random() != generator(3, "ab").random()


def test_format_is_the_recipes() -> None:
    fim = Fim("a", "b", "c")
    text = "".join(part.text for part in segments(fim))
    assert text == "<|fim_prefix|>a<|fim_suffix|>c<|fim_middle|>b<|im_end|>"
    text = "".join(part.text for part in segments(fim, "suffix_first"))
    assert text == "<|fim_suffix|>c<|fim_prefix|>a<|fim_middle|>b<|im_end|>"
    assert all(part.role == ("special" if part.text.startswith("<|") else "text") for part in segments(fim))


def test_completion_is_a_function_of_seed_and_document() -> None:
    text = textwrap.dedent(inspect.getsource(textwrap))
    document = Document("d" * 64, text, "Python", _ORIGIN, {})
    config = FimConfig(max_characters=2000, max_middle_characters=500)
    sample = completion(document, config, 7)
    assert sample is not None
    assert sample == completion(document, config, 7)
    assert any(completion(document, config, seed) != sample for seed in range(5))
    level = sample.id.split("/")[1]
    assert sample.id == f"fim/{level}/{document.id}"
    assert sum(len(part.text) for part in sample.segments if part.role == "text") <= 2000
    only_classes = FimConfig(levels={"class": 1.0})
    assert completion(Document("e" * 64, "x = 1\n", "Python", _ORIGIN, {}), only_classes, 7) is None


def test_levels_fall_back_and_follow_their_weights() -> None:
    config = FimConfig(levels={"class": 5.0, "expression": 1.0})
    documents = [Document(f"{i:064d}", "value = compute(1)\n", "Python", _ORIGIN, {}) for i in range(10)]
    for document in documents:
        sample = completion(document, config, 0)
        assert sample is not None
        assert sample.id.startswith("fim/expression/")


@pytest.mark.parametrize(
    "fields",
    [
        {"levels": {"functions": 1.0}},
        {"levels": {"function": -1.0}},
        {"levels": {"function": 0.0}},
        {"max_middle_characters": 10_000, "max_characters": 5000},
        {"suffix_first_rate": 2},
    ],
)
def test_wrong_configurations_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FimConfig.model_validate(fields)


@pytest.mark.slow
def test_the_standard_library_reassembles() -> None:
    from pathlib import Path
    from sysconfig import get_path

    files = sorted(Path(get_path("stdlib")).rglob("*.py"))[:1500]
    n = 0
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue
        source = Source(text, "Python")
        for level in LEVELS:
            fim = source.split(level, generator(0, str(path), level), 1, 4000)
            assert fim is None or _whole(fim) == text
            n += fim is not None
    assert n > 5 * len(files)
