"""The published numbers of the multilingual scaling law, as the preset `published`, with what is wrong with them.

Source: arXiv 2512.13472 (its figures) and section 3.1 of the Code-Flow report. A, B and gamma are not published, so
nothing here predicts a loss: the preset orders languages, and its allocation is a row to compare with.
"""

from __future__ import annotations

from codeflow.scaling.synergy import PairGain, Synergy

LANGUAGES: tuple[str, ...] = ("Python", "Java", "JavaScript", "TypeScript", "C#", "Go", "Rust")
ALPHA_N: dict[str, float] = dict(zip(LANGUAGES, (0.221, 0.447, 0.692, 0.439, 0.321, 0.845, 0.643), strict=True))
ALPHA_D: dict[str, float] = dict(zip(LANGUAGES, (1.217, 1.129, 1.247, 1.303, 1.350, 1.149, 1.297), strict=True))
L_INF: dict[str, float] = dict(zip(LANGUAGES, (0.566, 0.397, 0.554, 0.518, 0.288, 0.414, 0.397), strict=True))

# Relative gain in percent, row = target, column = auxiliary; the diagonal has no gain.
_GAIN_PERCENT = (
    (0.0, 1.36, -1.12, -0.95, -1.69, -2.13, -2.72),
    (6.02, 0.0, 12.62, 12.08, 20.58, 10.68, 12.41),
    (5.49, 2.98, 0.0, 4.69, 2.44, 1.34, 2.56),
    (4.17, 2.29, 3.34, 0.0, 1.68, 1.39, 1.18),
    (3.84, 1.93, 3.10, 3.71, 0.0, 1.87, 1.98),
    (4.77, 2.95, 2.70, 4.41, 2.95, 0.0, 2.86),
    (3.87, 2.89, 4.20, 4.05, 2.81, 2.80, 0.0),
)
_BASELINE_LOSS: dict[str, float] = dict(
    zip(LANGUAGES, (0.7528, 0.9034, 0.542, 0.535, 0.3459, 0.4328, 0.3954), strict=True)
)

# Billions of 350 billion tokens of code, 1.5 billion parameters, 50 billion tokens of prose besides.
ALLOCATION_BILLION_TOKENS = {
    "Python": 76.77,
    "Java": 55.60,
    "Rust": 50.00,
    "Go": 45.76,
    "JavaScript": 44.19,
    "TypeScript": 41.17,
    "C#": 36.51,
}

WARNINGS: tuple[str, ...] = (
    "published numbers have no A, B or gamma: they order languages and predict no loss",
    "the published exponents contradict the paper's own text (Python does not have the largest aN)",
    "the published optimum (aN 0.2186, aD 0.6859, L_inf 0.2025) is not an average of the published values per language",
    "the baselines of the published synergy matrix were put back in order from the text; they are its weakest numbers",
)


def predictability() -> tuple[str, ...]:
    """Return the languages from the most to the least predictable one, by L_inf."""
    return tuple(sorted(LANGUAGES, key=lambda name: (L_INF[name], name)))


def synergy() -> Synergy:
    """Return the published synergy matrix; gains in nats follow from the baselines and are as weak as these."""
    pairs = tuple(
        PairGain(
            target=target,
            auxiliary=auxiliary,
            gain=percent / 100 * _BASELINE_LOSS[target],
            tau=percent / 100,
            deviation=None,
            n_cells=1,
        )
        for target, row in zip(LANGUAGES, _GAIN_PERCENT, strict=True)
        for auxiliary, percent in zip(LANGUAGES, row, strict=True)
        if auxiliary != target
    )
    return Synergy(languages=LANGUAGES, pairs=pairs)


def allocation() -> dict[str, float]:
    """Return the published shares of the code tokens; they sum to 1."""
    total = sum(ALLOCATION_BILLION_TOKENS.values())
    return {name: tokens / total for name, tokens in ALLOCATION_BILLION_TOKENS.items()}
