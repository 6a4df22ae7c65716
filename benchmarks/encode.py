"""Encoding text to token ids: tiktoken on our merges against Hugging Face `encode_batch`, on the standard library.

Same tokenizer, same texts, same cores, runs alternate; the best of each side counts; ids must be identical.
"""

from __future__ import annotations

import json
import os
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import tokenizers

from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

TEXT_BYTES, TRAIN_BYTES, ROUNDS, TARGET_RATIO = 8_000_000, 4_000_000, 3, 4.0


def texts(n_bytes: int, start: int) -> list[str]:
    """Return every second file (from `start`) of this Python's standard library up to `n_bytes`."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))[start::2]:
        if "site-packages" in path.parts or size >= n_bytes:
            continue
        try:
            found.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        size += len(found[-1].encode())
    return found


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Train, check identity, time both sides."""
    trained = train(texts(TRAIN_BYTES, 1), TokenizerConfig())
    ours, theirs = Tokenizer(trained), tokenizers.Tokenizer.from_str(trained)
    theirs.encode_special_tokens = True
    sample = texts(TEXT_BYTES, 0)
    n_bytes = sum(len(text.encode()) for text in sample)
    ids = ours.encode_batch(sample)
    identical = all(mine == other.ids for mine, other in zip(ids, theirs.encode_batch(sample), strict=True))
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.encode_batch(sample),
        "peer": lambda: theirs.encode_batch(sample),
        "peer_fast": lambda: theirs.encode_batch_fast(sample),
        "ours_one_thread_arrays": lambda: [ours.encode_array(text) for text in sample],
    }
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for name, work in sides.items():
            best[name] = min(best[name], seconds(work))
    rate = {name: round(n_bytes / value / 1e6, 2) for name, value in best.items()}
    row = {
        "name": "encode",
        "ours": rate["ours"],
        "peer": rate["peer"],
        "peer_name": f"tokenizers {tokenizers.__version__} encode_batch",
        "ratio": round(rate["ours"] / rate["peer"], 2),
        "unit": "MB/s",
        "bound": f">= {TARGET_RATIO}x, identical ids",
        "within_bound": identical and rate["ours"] >= TARGET_RATIO * rate["peer"],
        "identical_ids": identical,
        "n_tokens": sum(map(len, ids)),
        "n_bytes": n_bytes,
        "cores": len(os.sched_getaffinity(0)),
        "peer_encode_batch_fast": rate["peer_fast"],
        "ours_one_thread_arrays": rate["ours_one_thread_arrays"],
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
