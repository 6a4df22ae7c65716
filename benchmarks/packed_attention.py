"""Causal attention in packed rows: 8 rows of 512 positions, 5 documents each, 4 heads, D = 64, forward and backward.

    packed_attention_fp32 (default), packed_attention_bf16

Peers: torch's scaled_dot_product_attention called document by document, and once with the documents as a dense mask.
Runs alternate in one process, one thread; the best CPU seconds of each side count. Results are compared first.
"""

from __future__ import annotations

import itertools
import json
import random
import sys

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks._alternate import best_cpu_seconds
from codeflow.kernels import cpu, reference
from codeflow.kernels.documents import Documents

N_ROWS, LENGTH, N_DOCUMENTS, N_HEADS, HEAD_DIM, ROUNDS = 8, 512, 5, 4, 64, 7


def document_starts(seed: int) -> Tensor:
    """Return starts (B, T): rows cut at random positions."""
    draw = random.Random(seed)
    rows = []
    for _ in range(N_ROWS):
        edges = [0, *sorted(draw.sample(range(1, LENGTH), N_DOCUMENTS - 1)), LENGTH]
        rows.append([start for start, end in itertools.pairwise(edges) for _ in range(end - start)])
    return torch.tensor(rows)


def by_document(q: Tensor, k: Tensor, v: Tensor, documents: Documents) -> Tensor:
    """A peer: one call per document."""
    parts = zip(*(x.flatten(0, 1).split(documents.lengths) for x in (q, k, v)), strict=True)
    heads_first = ([x.transpose(0, 1)[None] for x in part] for part in parts)
    outputs = [scaled_dot_product_attention(*part, is_causal=True)[0].transpose(0, 1) for part in heads_first]
    return torch.cat(outputs).view(q.shape)


def dense(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """A peer: one call with a dense mask."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None]).transpose(1, 2)


def main() -> None:
    """Print one JSON line."""
    name = sys.argv[1] if len(sys.argv) > 1 else "fp32"
    dtype, allowed = {"fp32": (torch.float32, 1e-5), "bf16": (torch.bfloat16, 2e-2)}[name]
    torch.set_num_threads(1)
    documents = Documents.of(document_starts(0))
    assert documents is not None
    visible = reference.mask(LENGTH, documents, None, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    shape = (N_ROWS, LENGTH, N_HEADS, HEAD_DIM)
    *inputs, upstream = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
    inputs = [x.requires_grad_() for x in inputs]

    def step(output: Tensor) -> list[Tensor]:
        return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]

    sides = {
        "ours": lambda: step(cpu.causal_attention(*inputs, documents)),
        "by_document": lambda: step(by_document(*inputs, documents)),
        "dense": lambda: step(dense(*inputs, visible)),
    }
    results = {side: work() for side, work in sides.items()}
    difference = max(
        float((a - b).float().norm() / b.float().norm())
        for side in ("by_document", "dense")
        for a, b in zip(results["ours"], results[side], strict=True)
    )
    assert difference < allowed, difference
    best = best_cpu_seconds(sides, ROUNDS)
    result = {
        "benchmark": "packed_attention",
        "unit": "ms, forward and backward, one thread",
        "ours": round(best["ours"] * 1e3, 2),
        "peer": round(best["by_document"] * 1e3, 2),
        "peer_name": "torch scaled_dot_product_attention, document by document",
        "ratio": round(best["by_document"] / best["ours"], 2),
        "ratio_of": "seconds, peer / ours",
        "dense_mask": round(best["dense"] * 1e3, 2),
        "dense_mask_ratio": round(best["dense"] / best["ours"], 2),
        "dtype": name,
        "shape": {"rows": N_ROWS, "length": LENGTH, "documents": len(documents.lengths), "heads": N_HEADS},
        "largest_relative_difference": difference,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
