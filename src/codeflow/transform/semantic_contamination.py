"""The fourth level of decontamination: passages that mean what a prompt or solution means, in other words.

A document is cut into passages of whole lines, each half over the one before; a passage is a hit when the cosine of its
embedding with that of a prompt's text or solution reaches the threshold. The encoder reads every passage of the corpus,
so this costs far more than the other levels together, and it is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from codeflow.transform.decontaminate import SemanticConfig
from codeflow.transform.fingerprints import Int64, UInt8
from codeflow.transform.vectors import Vectors, encode, encoder_named

_PASSAGES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class SemanticMatch:
    """A document's passage that is nearest to a reference: bytes [start, stop) of the batch."""

    row: int
    reference: int
    cosine: float
    start: int
    stop: int


def reference_vectors(references: Sequence[tuple[bytes, str]], config: SemanticConfig) -> Vectors:
    """Return the vectors (R, d) of references (lower-cased bytes, text); zeros for those too short to mean much."""
    texts = [text if len(lowered.split()) >= config.min_words else "" for lowered, text in references]
    vectors = encode(encoder_named(config.encoder), texts, config.encoder)
    vectors[[not text for text in texts]] = 0.0
    return vectors


def find_passages(texts: UInt8, offsets: Int64, references: Vectors, config: SemanticConfig) -> Iterator[SemanticMatch]:
    """Yield the nearest passage of each (document, reference) that reaches the threshold, in that order."""
    encoder = encoder_named(config.encoder)
    best: dict[tuple[int, int], SemanticMatch] = {}
    spans = [
        (row, start, stop)
        for row in range(offsets.size - 1)
        for start, stop in passages(texts, int(offsets[row]), int(offsets[row + 1]), config.passage_characters)
    ]
    for at in range(0, len(spans), _PASSAGES_AT_ONCE):
        here = spans[at : at + _PASSAGES_AT_ONCE]
        pieces = [texts[start:stop].tobytes().decode("utf-8", "replace") for _, start, stop in here]
        cosines = encode(encoder, pieces, config.encoder) @ references.T
        for place, number in zip(*np.nonzero(cosines >= config.threshold), strict=True):
            row, start, stop = here[int(place)]
            found = SemanticMatch(row, int(number), min(float(cosines[place, number]), 1.0), start, stop)
            known = best.get((row, found.reference))
            if known is None or found.cosine > known.cosine:
                best[row, found.reference] = found
    for key in sorted(best):
        yield best[key]


def passages(texts: UInt8, start: int, stop: int, n_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the spans of a document's passages: whole lines, about `n_bytes` long, each half over the one before.

    A longer line is cut; every byte of the document is in a passage.
    """
    line_ends = start + 1 + np.flatnonzero(texts[start:stop] == ord("\n"))
    at = start
    while at < stop:
        end = _last_end(line_ends, at, min(at + n_bytes, stop), stop)
        yield at, end
        if end == stop:
            return
        at = max(_last_end(line_ends, at, at + (end - at) // 2, stop), at + 1)


def _last_end(line_ends: Int64, low: int, high: int, stop: int) -> int:
    """Return the last end of a line in (low, high], or `high` where there is none."""
    if high >= stop:
        return stop
    place = int(np.searchsorted(line_ends, high, "right")) - 1
    return int(line_ends[place]) if place >= 0 and line_ends[place] > low else high
