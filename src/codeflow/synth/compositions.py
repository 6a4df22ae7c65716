"""Which compositions of primitives there are, and which split may see them.

The split is a property of the code alone, not of a seed: what is held out of training is so in every run, by every
stage that makes samples. Unordered pairs of primitives are assigned to `train` (solutions are shown: SFT, reasoning),
`rl` (reinforcement learning sees them beside those of training: no solution is shown), `dev` (choosing settings) or
`heldout` (judging). A composition belongs to a split by its neighbouring pairs, so no split sees a pair of another one
in either order, not even inside a longer composition, but for pairs of `train`, which all may hold; single primitives
belong to training. Every primitive of the other pairs is seen in training alone and in other pairs.
"""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from codeflow.core.errors import UserError
from codeflow.core.storage import sha256_text
from codeflow.solve.plain import canonical, to_tree
from codeflow.synth.families import FAMILIES
from codeflow.synth.primitive import Family, Primitive, Step, expected_value, with_parameters

TRAIN, RL, DEV, HELDOUT = "train", "rl", "dev", "heldout"
_SHARES = {DEV: 0.10, HELDOUT: 0.15, RL: 0.15}  # of pairs, about; the rest is for training
_SALT = 157  # another one chooses other pairs; with this one no primitive lacks pairs to train on
_N_PROBES = 24
_LEAST_EFFECT = 0.15  # of probes on which each primitive of a pair must matter

Composition = tuple[str, ...]  # names of primitives, in order


def outcome(steps: Sequence[Step], value: Any) -> str:
    """Return a text of what the oracles say: equal for equal values of equal types."""
    return value_text(expected_value(steps, value))


def value_text(value: Any) -> str:
    """Return a text that is equal for equal values of equal types."""
    return canonical(to_tree(value)) if isinstance(value, dict) else repr(value)  # in a dictionary order is nothing


def shortcuts(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Return the compositions with one primitive left out, down to doing nothing."""
    return [(*steps[:i], *steps[i + 1 :]) for i in range(len(steps))]


@functools.cache
def pairs(family: Family) -> tuple[Composition, ...]:
    """Return the pairs in which each primitive matters, in a fixed order."""
    found: list[Composition] = []
    for first in family.primitives:
        for second in family.primitives:
            if first is not second and not first.ends and _matters(family, (first, second)):
                found.append((first.name, second.name))
    return tuple(found)


def _matters(family: Family, primitives: Sequence[Primitive]) -> bool:
    source = random.Random(f"{family.name}/{'+'.join(p.name for p in primitives)}")
    effects, outcomes = [0] * len(primitives), Counter[str]()
    for _ in range(_N_PROBES):
        steps, value = with_parameters(primitives, source), family.draw(source)
        whole = outcome(steps, value)
        outcomes[whole] += 1
        for number, shorter in enumerate(shortcuts(steps)):
            effects[number] += outcome(shorter, value) != whole
    commonest = outcomes.most_common(1)[0][1]
    return min(effects) >= _LEAST_EFFECT * _N_PROBES and commonest <= (1 - _LEAST_EFFECT) * _N_PROBES


def pair_split(family: Family, pair: Composition) -> str:
    """Return the split of a pair in either order. It hangs on the code, so equal pairs of two families agree."""
    code = sorted(family[name].code for name in pair)
    place = int(sha256_text(f"{_SALT}/{family.variable}/{'/'.join(code)}")[:8], 16) / 2**32
    for split, end in zip(_SHARES, accumulate(_SHARES.values()), strict=True):
        if place < end:
            return split
    return TRAIN


def split_of(family: Family, composition: Composition) -> str:
    """Return the split of a composition: "" when it belongs to none (a primitive without effect, or two splits)."""
    splits = _splits_of_pairs(family)
    if any(pair not in splits for pair in pairwise(composition)):
        return ""
    held = {splits[pair] for pair in pairwise(composition)} - {TRAIN}
    return TRAIN if not held else next(iter(held)) if len(held) == 1 else ""


@functools.cache
def _splits_of_pairs(family: Family) -> dict[Composition, str]:
    return {pair: pair_split(family, pair) for pair in pairs(family)}


@functools.cache
def compositions(family: Family, split: str, length: int) -> tuple[Composition, ...]:
    """Return the compositions of `length` primitives that `split` may see, in a fixed order.

    Raises UserError for a length other than 1 to 3.
    """
    if length == 1:
        return tuple((p.name,) for p in family.primitives) if split == TRAIN else ()
    if length == 2:
        return tuple(pair for pair in pairs(family) if split_of(family, pair) == split)
    if length != 3:
        raise UserError(f"level {length}: micro-tasks compose 1 to 3 primitives")
    return tuple(
        (*left, right[1])
        for left in pairs(family)
        for right in pairs(family)
        if left[1] == right[0] and left[0] != right[1] and split_of(family, (*left, right[1])) == split
    )


def table() -> dict[str, dict[str, int]]:
    """Return the number of compositions by family, and by split and level."""
    return {
        family.name: {
            f"{split}/{length}": len(compositions(family, split, length))
            for split in (TRAIN, RL, DEV, HELDOUT)
            for length in (1, 2, 3)
        }
        for family in FAMILIES
    }
