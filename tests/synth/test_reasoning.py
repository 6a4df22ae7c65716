from __future__ import annotations

import contextlib
import io
import itertools

import pytest

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Sample
from codeflow.sandbox.local import probe
from codeflow.synth.compositions import DEV, HELDOUT, compositions
from codeflow.synth.families import FAMILIES
from codeflow.synth.primitive import Step, gold_solution
from codeflow.synth.reasoning import ReasoningConfig, draw_programs, run

CONFIG = ReasoningConfig(n_programs=120, shard_programs=50)


@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_answers_are_what_the_programs_do(tmp_path):
    begin(tmp_path / "a", "samples", CONFIG, {}, "k")
    manifest = run(CONFIG, {}, tmp_path / "a", workers=1)
    counts, samples = manifest.counts, list(read_shards(tmp_path / "a", "reasoning", Sample))
    assert counts.read == 120 == counts.kept + sum(counts.dropped.values())
    assert len(samples) == counts.kept > 110
    programs = list(dict.fromkeys(draw_programs(CONFIG)))
    for sample in samples:
        program = programs[int(sample.id.rpartition("/")[2])]
        answer = "".join(s.text for s in sample.segments if s.train).partition("</think>\n")[2]
        assert answer == f"{_execute(program)}<|im_end|>"
        assert program.source.strip() in "".join(s.text for s in sample.segments if not s.train)


@pytest.mark.slow
@pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
def test_equal_bytes_with_any_number_of_workers(tmp_path):
    found = set()
    for workers in (1, 2):
        begin(tmp_path / str(workers), "samples", CONFIG, {}, "k")
        found.add(run(CONFIG, {}, tmp_path / str(workers), workers).fingerprint)
    assert len(found) == 1


def _execute(program) -> str:
    printed, space = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(program.source, space)  # our own text
    return repr(eval(program.call, space)) if program.call else printed.getvalue().removesuffix("\n")


def test_calls_never_show_a_held_out_pair():
    held = {
        gold_solution("f", family.variable, [Step(p, k) for p, k in zip(primitives, parameters, strict=True)])
        for family in FAMILIES
        for split in (DEV, HELDOUT)
        for names in compositions(family, split, 2)
        for primitives in [[family[name] for name in names]]
        for parameters in itertools.product(*(p.parameters or (None,) for p in primitives))
    }
    calls = {program.source for program in draw_programs(ReasoningConfig(n_programs=1500)) if program.call}
    assert len(calls) > 400
    assert len(held) > 400
    assert not calls & held
