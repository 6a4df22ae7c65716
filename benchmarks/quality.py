"""Scoring of documents by the quality proxies on one core: linear, transformer (bf16 and fp32) and fastText.

    make bench NAME=quality    (quality_5 takes 5 MB of the standard library, 20 by default)

Megabytes are of whole documents, whether a proxy reads them whole or only their first 512 tokens; the share that is
read is printed beside. Weights are random, since speed does not depend on them. Bounds, each from the same run:

* linear: a kernel that hashes the same bytes word by word and counts nothing;
* transformer: its operations at the speed of one large matrix product in the same precision on the same core, plus the
  encoding of the starts by the tokenizer alone.

CPU seconds of one thread; ours, bounds and the peer run alternately, three rounds, the best of each. One JSON line.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numba
import numpy as np
import torch

from benchmarks.operators import library_documents
from codeflow.model.flops import forward_flops
from codeflow.model.text_regressor import TextRegressor, TransformerScorer, first_tokens
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train
from codeflow.train.classifier_config import LinearProxyConfig, TransformerProxyConfig
from codeflow.train.transformer_proxy import shape_of
from codeflow.transform.classifier_artifact import TextScorer
from codeflow.transform.fasttext_baseline import LABEL, FastTextScorer, words
from codeflow.transform.hashed_ngrams import LinearScorer, NgramHasher

_ROUNDS = 3
_TARGETS = {"linear": 20.0, "transformer_fp32": 2.0}  # MB/s per core; fp32 is the default
_PRODUCT = 1024  # side of the matrices of the bound
_DTYPES = {"transformer_bf16": torch.bfloat16, "transformer_fp32": torch.float32}


@numba.njit
def hashed(data, letters):  # pragma: no cover - compiled
    """Return a sum over the words' hashes: the bytes are read and words found, nothing is counted."""
    total = np.uint64(0)
    word = np.uint64(2166136261)
    for byte in data:
        if letters[byte]:
            word = (word ^ np.uint64(byte)) * np.uint64(16777619)
        else:
            total += word
            word = np.uint64(2166136261)
    return total


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def product(dtype: torch.dtype) -> Callable[[], object]:
    """Return one large matrix product as work."""
    a, b = (torch.randn(_PRODUCT, _PRODUCT).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b)


def fasttext_scorer(texts: list[str]) -> FastTextScorer | None:
    """Return the peer trained on a few texts, two word n-grams; None where its library is not installed."""
    try:
        import fasttext
    except ImportError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.txt"
        lines = [f"{LABEL}{number % 2}.0 {words(text, 10**6)}\n" for number, text in enumerate(texts[:100])]
        path.write_text("".join(lines), encoding="utf-8", errors="replace")
        settings = {"dim": 50, "wordNgrams": 2, "bucket": 2**18, "thread": 10, "verbose": 0}
        return FastTextScorer(fasttext.train_supervised(str(path), epoch=1, **settings), 10**6)


def scorers_for(texts: list[str], tokenizer: Tokenizer) -> dict[str, TextScorer]:
    """Return everything that is timed, by name."""
    linear = LinearProxyConfig()
    weights = np.random.default_rng(0).normal(size=2**linear.bits).astype(np.float32)
    scorers: dict[str, TextScorer] = {"linear": LinearScorer(weights, 0.0, NgramHasher(linear.bits, linear.max_bytes))}
    shape = shape_of(TransformerProxyConfig(), tokenizer.vocab_size)
    for name in _DTYPES:
        scorers[name] = TransformerScorer(TextRegressor(shape), tokenizer, name.removeprefix("transformer_"))
    if peer := fasttext_scorer(texts):
        scorers["fasttext"] = peer
    return scorers


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 20
    texts = [document.text for document in library_documents(megabytes * 1_000_000)]
    encoded = [text.encode() for text in texts]
    n_mb = sum(map(len, encoded)) / 1e6
    tokenizer = Tokenizer(train(texts[:: max(1, len(texts) // 100)], TokenizerConfig(vocab_size=8192)))
    scorers, config = scorers_for(texts, tokenizer), TransformerProxyConfig()
    letters = np.array([chr(byte).isalnum() or byte >= 128 or chr(byte) == "_" for byte in range(256)])
    data = np.frombuffer(b"".join(encoded), np.uint8)
    work: dict[str, Callable[[], object]] = {name: lambda s=scorer: s.logits(texts) for name, scorer in scorers.items()}
    work["hash"] = lambda: hashed(data, letters)
    work["encode"] = lambda: [first_tokens(tokenizer, text, config.max_tokens) for text in texts]
    work |= {f"product of {name}": product(dtype) for name, dtype in _DTYPES.items()}
    for scorer in scorers.values():
        scorer.logits(texts[:20])
    hashed(data[:10], letters)
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ROUNDS):
        for name, one in work.items():
            spent[name].append(seconds(one))
    best = {name: min(values) for name, values in spent.items()}
    shape = shape_of(config, tokenizer.vocab_size)
    lengths = [len(first_tokens(tokenizer, text, config.max_tokens)) for text in texts]
    head = 2 * shape.vocab_size * shape.hidden_size  # of the language model, which scoring leaves out
    flops = sum(forward_flops(shape, length) - head * length for length in lengths)
    bounds = {"linear": n_mb / best["hash"]}
    for name in _DTYPES:
        product_seconds = flops / (2 * _PRODUCT**3) * best[f"product of {name}"]
        bounds[name] = n_mb / (best["encode"] + product_seconds)
    rates = {name: n_mb / best[name] for name in scorers}
    read = {name: float(scorer.logits(texts)[1].sum()) / 1e6 for name, scorer in scorers.items()}
    result = {
        "benchmark": "quality",
        "n_documents": len(texts),
        "mb": round(n_mb, 2),
        "unit": "MB of documents per second and core",
        "ours": {name: round(rates[name], 2) for name in bounds},
        "read_share": {name: round(value / n_mb, 3) for name, value in read.items()},
        "read_mb_per_second": {name: round(value / best[name], 2) for name, value in read.items()},
        "bound": {name: round(value, 2) for name, value in bounds.items()},
        "ratio_to_bound": {name: round(rates[name] / bounds[name], 3) for name in bounds},
        "peer": {"fasttext": round(rates["fasttext"], 2) if "fasttext" in rates else None},
        "targets_met": {name: rates[name] >= target for name, target in _TARGETS.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
