"""Training of the fastText baseline, tuned on the same validation documents as the proxies.

fastText 0.9 fills its input matrix in ten parts of equal whole size, one per thread. With fewer threads, or a number
of elements that ten does not divide, the rest is whatever memory held, and training ends in NaN by chance. So it gets
ten threads, whose updates race (the baseline is not reproducible bit for bit), and a `dim` that ten divides.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codeflow.core.errors import InfrastructureError
from codeflow.core.progress import say
from codeflow.train.classifier_config import FastTextConfig
from codeflow.train.classifier_scores import spearman
from codeflow.transform.fasttext_baseline import LABEL, FastTextScorer, library, words

if TYPE_CHECKING:
    from numpy.typing import NDArray

_N_THREADS = 10


def train_fasttext(
    texts: Sequence[str],
    labels: NDArray[np.float64],
    validation: tuple[Sequence[str], NDArray[np.float64]],
    config: FastTextConfig,
    seed: int,
) -> tuple[FastTextScorer, dict[str, float]]:
    """Return the best of all settings on the validation documents, and what it was. UserError without library."""
    fasttext = library()
    best: tuple[float, FastTextScorer] | None = None
    chosen: dict[str, float] = {}
    n_failed = 0
    order: list[int] = np.random.default_rng(seed).permutation(len(labels)).tolist()
    grades = np.round(labels * config.grades) / config.grades
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        with open(path, "w", encoding="utf-8", errors="replace") as file:
            for row in order:
                file.write(f"{LABEL}{grades[row]:.3f} {words(texts[row], config.max_characters)}\n")
        for epochs, n in itertools.product(config.epochs, config.word_ngrams):
            try:
                model = fasttext.train_supervised(
                    str(path),
                    lr=config.learning_rate,
                    dim=config.dim,
                    epoch=epochs,
                    wordNgrams=n,
                    bucket=config.buckets,
                    thread=_N_THREADS,
                    verbose=0,
                    seed=seed,
                )
            except RuntimeError as error:  # "Encountered NaN": the learning rate is too high for the setting
                say(f"  fastText fails with {epochs} epochs, {n}-grams: {error}")
                n_failed += 1
                continue
            found = FastTextScorer(model, config.max_characters)
            value = spearman(found.logits(validation[0])[0], validation[1])
            if best is None or value > best[0]:
                best, chosen = (value, found), {"epochs": epochs, "word_ngrams": n, "validation_spearman": value}
    if best is None:
        raise InfrastructureError("fastText failed with every setting; leave the kind fasttext out, or try other ones")
    return best[1], {**chosen, "failed_settings": n_failed}
