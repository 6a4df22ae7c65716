from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeflow.core.errors import UserError
from codeflow.scaling.allocate import Bounds, OnMixture, PerLanguage, minimise, with_repetition
from codeflow.scaling.law import ScalingLaw

NAMES = ("a", "b", "c", "d")
number = st.floats(0, 1)


def objective(seed: int, order: tuple[int, ...] = (0, 1, 2, 3), available: float = np.inf) -> PerLanguage:
    """Return a random objective of four languages, listed in `order`."""
    rng = np.random.default_rng(seed)
    laws = [
        ScalingLaw(
            languages=(name,),
            a=rng.uniform(50, 500),
            b=rng.uniform(300, 3000),
            alpha_n=(rng.uniform(0.2, 0.5),),
            alpha_d=(rng.uniform(0.2, 0.5),),
            l_inf=(rng.uniform(0.2, 1.5),),
        )
        for name in NAMES
    ]
    weights, worth = rng.dirichlet(np.full(4, 3.0)), rng.uniform(0, 0.5, (4, 4))
    np.fill_diagonal(worth, 1.0)
    places = list(order)
    bound = np.full(4, available)
    return PerLanguage(tuple(laws[i] for i in places), 1e9, 2e10, weights[places], worth[np.ix_(places, places)], bound)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), floors=st.lists(number, min_size=4, max_size=4), slack=number)
def test_allocations_sum_to_one_respect_bounds_and_are_no_worse_than_uniform(seed, floors, slack) -> None:
    low = {name: 0.9 * floor / max(sum(floors), 1) for name, floor in zip(NAMES, floors, strict=True)}
    high = {name: min(1.0, max(low[name], 0.25) + slack) for name in NAMES}
    bounds = Bounds.of(NAMES, low, high)
    target = objective(seed)
    shares = minimise(target, bounds)
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert (shares >= bounds.low - 1e-9).all()
    assert (shares <= bounds.high + 1e-9).all()
    uniform = bounds.nearest(np.full(4, 0.25))
    assert target(shares[None])[0] <= target(uniform[None])[0] + 1e-12


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_the_order_of_languages_changes_nothing(seed, order) -> None:
    free = Bounds.of(NAMES, {}, {})
    plain, turned = minimise(objective(seed), free), minimise(objective(seed, tuple(order)), free)
    assert np.allclose(plain[list(order)], turned, atol=2e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000), floor=st.floats(0.01, 0.2))
def test_the_multilingual_law_gains_over_uniform_within_the_bounds(seed, floor) -> None:
    rng = np.random.default_rng(seed)
    kappa = rng.uniform(-1, 1, (4, 4))
    kappa = (kappa + kappa.T) * (1 - np.eye(4))
    law = ScalingLaw(
        languages=NAMES,
        parameters_unit=1e9,
        tokens_unit=2e10,
        a=rng.uniform(0.1, 0.5),
        b=rng.uniform(0.1, 0.5),
        alpha_n=tuple(rng.uniform(0.2, 0.5, 4)),
        alpha_d=tuple(rng.uniform(0.2, 0.5, 4)),
        l_inf=tuple(rng.uniform(0.2, 0.6, 4)),
        kappa=tuple(map(tuple, kappa.tolist())),
    )
    target = OnMixture(law, 2e9, 5e10, np.full(4, np.inf))
    shares = minimise(target, Bounds.of(NAMES, dict.fromkeys(NAMES, floor), {}))
    assert shares.sum() == pytest.approx(1, abs=1e-9)
    assert (shares >= floor - 1e-9).all()
    assert target(shares[None])[0] < target(np.full((1, 4), 0.25))[0]


def test_the_minimum_has_equal_slopes() -> None:
    target, free = objective(3), Bounds.of(NAMES, {}, {})
    shares = minimise(target, free)
    inside = shares > 1e-3
    slopes = np.array([(target((shares + 1e-5 * e)[None]) - target(shares[None]))[0] / 1e-5 for e in np.eye(4)])
    assert inside.sum() >= 2
    assert np.ptp(slopes[inside]) < 1e-3 * np.abs(slopes).max()
    assert (slopes[~inside] >= slopes[inside].min() - 1e-3).all()


def test_little_available_text_of_a_language_lowers_its_share() -> None:
    free = Bounds.of(NAMES, {}, {})
    plenty, scarce = minimise(objective(1), free), minimise(objective(1, available=2e8), free)
    assert objective(1, available=2e8)(scarce[None])[0] <= objective(1, available=2e8)(plenty[None])[0] + 1e-12
    assert objective(1, available=2e8)(scarce[None])[0] > objective(1)(plenty[None])[0]


def test_repeated_tokens_are_worth_less_and_less() -> None:
    drawn = np.array([[0.5], [1.0], [2.0], [4.0], [1000.0]]) * 1e6
    value = with_repetition(drawn, np.array([1e6]), 15.4)[:, 0] / 1e6
    assert value[:2].tolist() == [0.5, 1.0]
    assert 1.9 < value[2] < 2.0
    assert 3.6 < value[3] < 4.0
    assert value[4] < 1 + 15.4 + 1e-9
    assert with_repetition(drawn, np.array([0.0]), 15.4).sum() == 0


def test_the_literal_formula_gives_everything_to_the_most_predictable_language() -> None:
    law = ScalingLaw(languages=("a", "b"), a=1.0, b=1.0, alpha_n=(0.3, 0.3), alpha_d=(0.3, 0.3), l_inf=(1.0, 0.5))
    target = OnMixture(law, 1e6, 1e6, np.full(2, np.inf))
    assert minimise(target, Bounds.of(("a", "b"), {}, {})) == pytest.approx([0, 1], abs=1e-6)
    assert minimise(target, Bounds.of(("a", "b"), {"a": 0.3}, {})) == pytest.approx([0.3, 0.7], abs=1e-6)


@pytest.mark.parametrize(
    ("floors", "ceilings", "message"),
    [
        ({"x": 0.1}, {}, "floor of 'x': no such language"),
        ({"a": 1.2}, {}, "floor of a is 1.2"),
        ({"a": 0.6, "b": 0.6}, {}, "floors sum to 1.2"),
        ({}, dict.fromkeys(NAMES, 0.2), "ceilings sum to 0.8"),
        ({"a": 0.5}, {"a": 0.4}, "floor 0.5 of a exceeds"),
    ],
)
def test_impossible_bounds_are_refused(floors, ceilings, message) -> None:
    with pytest.raises(UserError, match=message):
        Bounds.of(NAMES, floors, ceilings)
