from __future__ import annotations

import random
from itertools import pairwise, permutations, product

import pytest

from codeflow.core.errors import UserError
from codeflow.synth.compositions import DEV, HELDOUT, RL, TRAIN, compositions, outcome, pairs, shortcuts, table
from codeflow.synth.families import FAMILIES
from codeflow.synth.primitive import with_parameters


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_training_sees_no_held_out_pair_in_any_order_or_depth(family):
    seen = {frozenset(p) for n in (2, 3) for c in compositions(family, TRAIN, n) for p in pairwise(c)}
    for split, other in permutations((RL, DEV, HELDOUT), 2):
        own = {frozenset(c) for c in compositions(family, split, 2)}
        assert own
        assert not own & seen
        for composition in compositions(family, split, 3):
            held = [frozenset(p) for p in pairwise(composition) if frozenset(p) not in seen]
            assert held
            assert set(held) <= own
        assert not own & {frozenset(c) for c in compositions(family, other, 2)}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_held_out_compositions_are_made_of_trained_primitives(family):
    alone = {c[0] for c in compositions(family, TRAIN, 1)}
    trained = [frozenset(c) for c in compositions(family, TRAIN, 2)]
    for split, length in product((RL, DEV, HELDOUT), (2, 3)):
        for name in {name for c in compositions(family, split, length) for name in c}:
            assert name in alone
            assert sum(name in pair for pair in trained) >= (2 if length == 2 else 1), (name, split)
    assert compositions(family, HELDOUT, 1) == ()


def test_no_two_splits_share_a_program():
    splits: dict[tuple[str, ...], set[str]] = {}
    for family in FAMILIES:
        for split in (TRAIN, RL, DEV, HELDOUT):
            for names in compositions(family, split, 2):
                code = tuple(sorted(family[name].code for name in names))
                splits.setdefault((family.variable, *code), set()).add(split)
    assert [code for code, found in splits.items() if len(found) > 1] == []


def test_every_primitive_of_a_pair_has_an_effect():
    family = next(f for f in FAMILIES if f.name == "sorting")
    assert ("descending", "ascending") not in pairs(family)  # the first would not matter
    assert ("reverse", "first_k") in pairs(family)
    source = random.Random(0)
    for names in pairs(family):
        draws = [(with_parameters([family[n] for n in names], source), family.draw(source)) for _ in range(60)]
        for left_out in (0, 1):
            assert any(outcome(steps, v) != outcome(shortcuts(steps)[left_out], v) for steps, v in draws), names


def test_table_counts_and_unknown_level():
    rows = table()
    assert set(rows) == {family.name for family in FAMILIES}
    assert all(row["train/2"] > row["heldout/2"] > 0 and row["dev/2"] > 0 and row["rl/2"] > 0 for row in rows.values())
    with pytest.raises(UserError, match="1 to 3"):
        compositions(FAMILIES[0], TRAIN, 4)
