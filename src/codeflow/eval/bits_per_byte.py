"""Bits per byte of held-out documents, by language and domain, beside gzip -9 and xz on the same texts.

A document is cut into windows of the model's context that do not overlap in what they predict: a window begins with the
last token of the one before. The first token of a document, which nothing predicts, costs log2(vocabulary) bits. The
end of a document is not counted. Compressors see each document alone, as the model does, headers included.
"""

from __future__ import annotations

import functools
import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from codeflow.core.languages import domain_of
from codeflow.core.types import Document, Score
from codeflow.eval.metrics import Share
from codeflow.eval.records import Scorer

if TYPE_CHECKING:
    import torch

    from codeflow.model.looped import LoopCoder

NAME = "heldout"
METRIC = "bits_per_byte"
_FEWEST_DOCUMENTS = 3  # of a language that gets a line of its own
_POSITIONS_PER_CHUNK = 1024  # bounds the memory of logits


def choose(documents: Iterable[Document], per_domain: int, max_characters: int) -> list[Document]:
    """Return the first `per_domain` documents of each domain by id, which is a hash, each cut to `max_characters`."""
    by_domain: dict[str, list[Document]] = {}
    for document in documents:
        if document.text:
            by_domain.setdefault(domain_of(document.language), []).append(document)
    chosen: list[Document] = []
    for domain in sorted(by_domain):
        for document in sorted(by_domain[domain], key=lambda d: d.id)[:per_domain]:
            text = document.text[:max_characters]
            chosen.append(Document(document.id, text, document.language, document.origin, document.tags))
    return chosen


def windows(ids: Sequence[int], context_tokens: int) -> list[list[int]]:
    """Cut token ids into runs of at most `context_tokens` + 1 ids; each begins with the last id of the one before."""
    return [list(ids[i : i + context_tokens + 1]) for i in range(0, len(ids) - 1, context_tokens)]


def document_nats(
    model: LoopCoder, documents: Sequence[Sequence[int]], context_tokens: int, batch_tokens: int
) -> list[float]:
    """Return the negative log-likelihood, in nats, of each document's ids (at least one each)."""
    first = math.log(model.config.vocab_size)
    nats = [first] * len(documents)
    rows = [(number, run) for number, ids in enumerate(documents) for run in windows(ids, context_tokens)]
    rows.sort(key=lambda row: (-len(row[1]), row[0]))  # neighbours in length waste the least padding
    start = 0
    while start < len(rows):
        longest = len(rows[start][1]) - 1
        batch = rows[start : start + max(1, batch_tokens // longest)]
        for (number, _), value in zip(batch, _row_nats(model, [run for _, run in batch]), strict=True):
            nats[number] += value
        start += len(batch)
    return nats


def _row_nats(model: LoopCoder, rows: Sequence[Sequence[int]]) -> list[float]:
    """Return the nats of every row's ids after its first. Padding stands at the end, where nothing attends to it."""
    import torch
    from torch.nn import functional

    lengths = [len(row) - 1 for row in rows]
    device = model.embed_tokens.weight.device
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
    targets = torch.full_like(ids, -1)
    for index, row in enumerate(rows):
        ids[index, : lengths[index]] = torch.tensor(row[:-1])
        targets[index, : lengths[index]] = torch.tensor(row[1:])
    ids, targets = ids.to(device), targets.to(device)
    with torch.inference_mode():
        hidden = model(ids)  # (B, T, C)
        flat, wanted = hidden.flatten(0, 1), targets.flatten()
        losses = torch.zeros(wanted.numel(), dtype=torch.float64, device=device)
        counted = (wanted >= 0).nonzero()[:, 0]
        for places in _chunks(counted, _POSITIONS_PER_CHUNK):
            logits = model.logits(flat[None, places])[0]
            losses[places] = functional.cross_entropy(logits, wanted[places], reduction="none").double()
    return losses.view(len(rows), -1).sum(dim=1).tolist()


def _chunks(places: torch.Tensor, size: int) -> Iterable[torch.Tensor]:
    return places.split(size) if len(places) else ()


def model_scores(scorer: Scorer, documents: Sequence[Document], nats: Sequence[float]) -> list[Score]:
    """Return bits per byte over all documents, by domain and by language, given each document's nats."""
    return _scores(scorer, documents, [value / math.log(2) for value in nats])


# The strongest preset, save for its dictionary of 64 MiB, which costs time to set up and no text here can fill.
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20}]
COMPRESSORS: dict[str, Callable[[bytes], int]] = {
    "gzip": lambda data: len(_gzip(data)),
    "xz": lambda data: len(lzma.compress(data, filters=_XZ)),
}


def _gzip(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)  # 31: with gzip's header and trailer, without time or name
    return compressor.compress(data) + compressor.flush()


def compressor_scores(scorer: Scorer, documents: Sequence[Document]) -> list[Score]:
    """Return the same scores for the compressor that the scorer's checkpoint names."""
    size = COMPRESSORS[scorer.checkpoint]
    return _scores(scorer, documents, [8.0 * size(document.text.encode()) for document in documents])


def _scores(scorer: Scorer, documents: Sequence[Document], bits: Sequence[float]) -> list[Score]:
    shares = [Share(value, len(document.text.encode())) for document, value in zip(documents, bits, strict=True)]
    subsets: dict[str, list[Share]] = {"": shares}
    for document, share in zip(documents, shares, strict=True):
        subsets.setdefault(domain_of(document.language), []).append(share)
    by_language: dict[str, list[Share]] = {}
    for document, share in zip(documents, shares, strict=True):
        by_language.setdefault(document.language, []).append(share)
    for language in sorted(by_language):
        if len(by_language[language]) >= _FEWEST_DOCUMENTS:
            subsets[language] = by_language[language]
    score = functools.partial(scorer.score, METRIC)
    return [score(subset, found) for subset, found in subsets.items()]
