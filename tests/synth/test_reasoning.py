from __future__ import annotations

import contextlib
import io

import pytest

from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Sample
from codeflow.sandbox.local import probe
from codeflow.synth.compositions import TRAIN, compositions
from codeflow.synth.families import FAMILIES
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
    begin(tmp_path / "b", "samples", CONFIG, {}, "k")
    assert run(CONFIG, {}, tmp_path / "b", workers=2).fingerprint == manifest.fingerprint


def _execute(program) -> str:
    printed, space = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(program.source, space)  # our own text
    return repr(eval(program.call, space)) if program.call else printed.getvalue().removesuffix("\n")


def test_calls_use_only_compositions_that_training_may_see():
    bodies = {program.source for program in draw_programs(CONFIG) if program.call}
    allowed = {len(c) for family in FAMILIES for n in (1, 2, 3) for c in compositions(family, TRAIN, n)}
    assert 30 < len(bodies) < 70 and allowed == {1, 2, 3}
