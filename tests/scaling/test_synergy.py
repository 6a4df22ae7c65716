from __future__ import annotations

import numpy as np
import pytest

from codeflow.scaling import published
from codeflow.scaling.law import ScalingLaw
from codeflow.scaling.runs import Measurement
from codeflow.scaling.synergy import synergies, tokens_for, worth

LAW = ScalingLaw(languages=("a",), a=400.0, b=1000.0, alpha_n=(0.35,), alpha_d=(0.3,), l_inf=(0.8,))
ONE = np.ones((1, 1))


def pair(loss_a: float, n_tokens: float = 1e9) -> list[Measurement]:
    """Return a run of a alone, and one of a and b in equal parts with a loss on a."""
    alone = float(LAW.loss(1e8, n_tokens, ONE)[0])
    return [
        Measurement("a", 1e8, n_tokens, {"a": 1.0, "b": 0.0}, "a", alone),
        Measurement("ab", 1e8, n_tokens, {"a": 0.5, "b": 0.5}, "a", loss_a),
        Measurement("ab", 1e8, n_tokens, {"a": 0.5, "b": 0.5}, "b", 2.0),
    ]


def test_positive_gain_means_that_mixing_helps() -> None:
    alone = float(LAW.loss(1e8, 1e9, ONE)[0])
    found = synergies(pair(alone - 0.01))
    assert [(p.target, p.auxiliary) for p in found.pairs] == [("a", "b")]  # b was never run alone: no baseline
    assert found.pairs[0].gain == pytest.approx(0.01)
    assert found.pairs[0].tau == pytest.approx(0.01 / alone)
    assert synergies(pair(alone + 0.01)).pairs[0].gain == pytest.approx(-0.01)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1.5])
def test_worth_is_how_many_own_tokens_a_foreign_one_stands_for(value: float) -> None:
    loss = float(LAW.loss(1e8, 0.5e9 * (1 + value), ONE)[0])
    assert worth(pair(loss), {"a": LAW})["a", "b"] == pytest.approx(value, abs=1e-9)


def test_a_loss_below_the_floor_has_no_number_of_tokens() -> None:
    assert tokens_for(LAW, 1e8, 0.5) is None
    assert tokens_for(LAW, 1e8, float(LAW.loss(1e8, 3e9, ONE)[0])) == pytest.approx(3e9)


def test_the_published_preset_orders_languages_and_keeps_its_warnings() -> None:
    assert published.predictability() == ("C#", "Java", "Rust", "Go", "TypeScript", "JavaScript", "Python")
    shares = published.allocation()
    assert sum(shares.values()) == pytest.approx(1)
    assert sum(published.ALLOCATION_BILLION_TOKENS.values()) == pytest.approx(350.0)
    assert min(shares, key=shares.__getitem__) == "C#"
    tau = published.synergy().tau_matrix(published.LANGUAGES)
    assert tau is not None
    assert tau.shape == (7, 7)
    assert (np.diag(tau) == 0).all()
    assert tau[1, 4] == pytest.approx(0.2058)
    assert len(published.WARNINGS) == 4
