"""Runs in mlx-lm's environment: logits of an exported directory, whole, token by token and in chunks.

    python logits.py JOBS OUTPUT

JOBS is a JSON file: {name: {"folder": exported directory, "ids": [[...]], "chunks": [...]}}. OUTPUT is an .npz with
`<name>/prefill`, `<name>/tokens`, `<name>/chunks`, each fp32 (rows, positions, vocabulary).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def decode(model, ids: mx.array, chunks: list[int]) -> np.ndarray:
    """Feed ids over the model's own caches, `chunks` tokens at a time."""
    assert sum(chunks) == ids.shape[1]
    cache, parts, at = model.make_cache(), [], 0
    for size in chunks:
        parts.append(np.array(model(ids[:, at : at + size], cache=cache).astype(mx.float32)))
        at += size
    return np.concatenate(parts, axis=1)


def main() -> None:
    """Do all jobs."""
    mx.set_default_device(mx.cpu)
    found = {}
    for name, job in json.loads(Path(sys.argv[1]).read_text()).items():
        model, _ = load_model(Path(job["folder"]))
        ids = mx.array(job["ids"])
        found[f"{name}/prefill"] = np.array(model(ids).astype(mx.float32))
        found[f"{name}/tokens"] = decode(model, ids, [1] * ids.shape[1])
        found[f"{name}/chunks"] = decode(model, ids, job["chunks"])
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
