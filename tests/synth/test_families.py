from __future__ import annotations

import copy
import random
from collections import Counter

import pytest

from codeflow.solve.plain import canonical, to_tree
from codeflow.synth.families import FAMILIES
from codeflow.synth.primitive import Step, expected_value, gold_solution, with_parameters

_N_CASES = 60


def _result(program: str, value):
    space: dict = {}
    exec(program, space)  # our own text
    return space["f"](copy.deepcopy(value))


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_gold_solutions_agree_with_the_oracles_in_value_and_type(family, level):
    source = random.Random(f"{family.name}/{level}")
    inner = [p for p in family.primitives if not p.ends]
    for _ in range(_N_CASES):
        before = source.sample(inner, level - 1)
        last = source.choice([p for p in family.primitives if p not in before])
        steps, value = with_parameters([*before, last], source), family.draw(source)
        program = gold_solution("f", family.variable, steps)
        expected, found = expected_value(steps, copy.deepcopy(value)), _result(program, value)
        assert canonical(to_tree(found)) == canonical(to_tree(expected)), (program, value)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_primitive_agrees_with_its_oracle_for_every_parameter(family):
    source = random.Random(family.name)
    for primitive in family.primitives:
        for parameter in primitive.parameters or (None,):
            program = gold_solution("f", family.variable, [Step(primitive, parameter)])
            for value in (family.draw(source) for _ in range(8)):
                expected = primitive.oracle(copy.deepcopy(value), parameter)
                assert canonical(to_tree(_result(program, value))) == canonical(to_tree(expected)), (program, value)


def test_there_are_enough_families_and_names_are_unique():
    assert len(FAMILIES) >= 12
    assert Counter(f.name for f in FAMILIES).most_common(1)[0][1] == 1
    for family in FAMILIES:
        assert Counter(p.name for p in family.primitives).most_common(1)[0][1] == 1
        phrases = Counter(phrase for p in family.primitives for phrase in p.phrases)
        assert phrases.most_common(1)[0][1] == 1, phrases.most_common(1)
        for primitive in family.primitives:
            assert len(primitive.phrases) >= 2
            takes = {"{k}" in phrase for phrase in primitive.phrases} | {"{k}" in primitive.code}
            assert takes == {bool(primitive.parameters)}, primitive.name


def test_oracles_do_not_change_their_input():
    source = random.Random(0)
    for family in FAMILIES:
        for step in with_parameters(family.primitives, source):
            value = family.draw(source)
            before = copy.deepcopy(value)
            step.primitive.oracle(value, step.parameter)
            assert value == before, step.primitive.name
