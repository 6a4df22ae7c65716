from __future__ import annotations

import ast
import random

from codeflow.synth.programs import make_program


def test_programs_parse_end_in_one_print_and_depend_on_the_seed_alone():
    programs = [make_program(random.Random(seed)) for seed in range(300)]
    assert programs == [make_program(random.Random(seed)) for seed in range(300)]
    assert len(set(programs)) > 280
    for program in programs:
        last = ast.parse(program).body[-1]
        assert ast.unparse(last).startswith("print(")
        assert program.count("print(") == 1
