"""Generation against transformers' generate, dense model, one thread, batch 1 and 16, fp32 and bf16, greedy.

`generation` uses a model of 12.6 M matmul parameters, `generation_tiny` the tiny recipe's size; `generation_sampling`
times 128 rows as in reinforcement learning, 16 prompts with 8 samples each at temperature 1, against transformers with
its sampling. Both sides read the same exported directory and prompts and take turns; CPU seconds, best of the rounds;
fp32 ids of greedy runs must agree up to near ties. Bounds: the bare matrix products of prompt and steps, by torch's
linear as transformers calls it and with packed weights as we do, and one reading of all keys and values per step.
transformers' environment is made on the first run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._transformers import PEER, SHAPE, peer_python
from codeflow.model.config import ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.flops import count_parameters
from codeflow.model.generate import GenerateSettings, Generation, generate
from codeflow.model.huggingface import load, save
from codeflow.model.looped import LoopCoder

N_PROMPT, N_NEW, ROUNDS = 64, 64, 7
SIZES = {
    "medium": ModelConfig.model_validate(SHAPE),
    "tiny": ModelConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
    ),
}
TARGETS = {  # ratios by size, dtype and batch; not every case has one
    ("medium", "float32", 1): 1.5,
    ("medium", "float32", 16): 1.5,
    ("medium", "bfloat16", 16): 2.0,
    **{("tiny", dtype, n_rows): 3.0 for dtype in ("float32", "bfloat16") for n_rows in (1, 16)},
}


class Peer:
    """transformers in a process of its own, which generates when told to."""

    def __init__(self, folder: Path, jobs: list[dict[str, Any]]) -> None:
        (folder / "jobs.json").write_text(json.dumps(jobs))
        command = [str(peer_python()), str(PEER / "greedy.py"), str(folder), str(folder / "jobs.json")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def generate(self, job: str) -> dict[str, Any]:
        """Return seconds and ids of a job's number, or of four tokens of it for "warm" and the number."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(job, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("transformers has ended; its words are above")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def bound_seconds(model: LoopCoder, job: dict[str, Any], packed: bool) -> float:
    """Return CPU seconds of the products of the distinct prompts, and of each step with a reading of its caches."""
    n_rows, n_prompts = len(job["prompts"]), len({tuple(prompt) for prompt in job["prompts"]})
    reading = make_products(model, n_prompts * N_PROMPT, n_prompts, packed)
    step, config = make_products(model, n_rows, n_rows, packed), model.config
    width = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim  # numbers per token
    token_words = width * model.embed_tokens.weight.element_size() // 8
    caches = np.ones(n_rows * (N_PROMPT + N_NEW) * token_words, np.uint64)
    started = time.process_time()
    with torch.no_grad():
        for product in reading:
            product()
        for i in range(1, N_NEW):
            for product in step:
                product()
            caches[: n_rows * (N_PROMPT + i) * token_words].max()
    return time.process_time() - started


def make_products(model: LoopCoder, n_rows: int, n_head_rows: int, packed: bool) -> list[Callable[[], Tensor]]:
    """Return the products of one pass over `n_rows` tokens, `n_head_rows` of them with logits.

    By torch's linear, or packed with the projections of one input joined.
    """
    config, dtype = model.config, model.embed_tokens.weight.dtype
    sizes = (config.hidden_size, config.num_attention_heads * config.head_dim, config.intermediate_size)
    x, mixed, grown = (torch.ones(n_rows, size, dtype=dtype) for size in sizes)
    last = torch.ones(n_head_rows, config.hidden_size, dtype=dtype)
    products: list[Callable[[], Tensor]] = []
    if packed:
        decoder = Decoder(model, 32, n_rows=2)  # one row alone would not pack
        for layer in decoder.layers:
            products += [partial(layer.qkv, x), partial(layer.output, mixed)]
            products += [partial(layer.gate_up, x), partial(layer.down, grown)]
        return [*products, partial(decoder.head, last)]
    for block in model.layers:
        for name, weight in block.named_parameters():
            if weight.dim() == 2:
                given = mixed if "o_proj" in name else grown if "down_proj" in name else x
                products.append(partial(torch.nn.functional.linear, given, weight))
    return [*products, partial(torch.nn.functional.linear, last, model.lm_head.weight)]


def make_jobs(sampling: bool, vocab_size: int) -> list[dict[str, Any]]:
    """Return what both sides do: prompts, new tokens, dtype."""
    jobs = []
    for dtype in ("float32", "bfloat16"):
        for n_rows in (128,) if sampling else (1, 16):
            generator = torch.Generator().manual_seed(1)
            ids = torch.randint(0, vocab_size, (16 if sampling else n_rows, N_PROMPT), generator=generator)
            prompts = [row for row in ids.tolist() for _ in range(n_rows // len(ids))]
            jobs.append({"prompts": prompts, "new": N_NEW, "dtype": dtype, "sample": sampling})
    return jobs


def our_seconds(model: LoopCoder, job: dict[str, Any], n_new: int = N_NEW) -> tuple[float, list[Generation]]:
    """Return CPU seconds, and what was generated."""
    settings = GenerateSettings(max_new_tokens=n_new, temperature=float(job["sample"]), max_batch=128)
    started = time.process_time()
    results = generate(model, job["prompts"], settings)
    return time.process_time() - started, results


def compare(folder: Path, size: str, job: dict[str, Any], peer: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Time both sides and both bounds in turn; `peer` answers "" and "warm" for this job."""
    model, n_rows = load(folder, getattr(torch, job["dtype"])), len(job["prompts"])
    peer("warm")
    our_seconds(model, job, 4)
    best = dict.fromkeys(("ours", "peer", "linear", "packed"), float("inf"))
    results, theirs = [], {}
    for _ in range(2 if job["sample"] else ROUNDS):
        theirs = peer("")
        seconds, results = our_seconds(model, job)
        found = {"ours": seconds, "peer": theirs["seconds"]}
        found |= {kind: bound_seconds(model, job, kind == "packed") for kind in ("linear", "packed")}
        best = {side: min(best[side], found[side]) for side in best}
    speed = {side: round(n_rows * N_NEW / seconds, 1) for side, seconds in best.items()}
    pairs = zip(results, theirs["ids"], strict=True)
    ratio, target = best["peer"] / best["ours"], TARGETS.get((size, job["dtype"], n_rows))
    return {
        "dtype": job["dtype"],
        "batch": n_rows,
        "ours": speed["ours"],
        "peer": speed["peer"],
        "bound_linear": speed["linear"],
        "bound_packed": speed["packed"],
        "ratio": round(ratio, 2),
        "ratio_of_bound": round(min(best["packed"], best["linear"]) / best["ours"], 2),
        "target_of_bound": target and round(target * min(best["packed"], best["linear"]) / best["peer"], 2),
        "target": target,
        "met": target is None or ratio >= target,
        "rows_with_equal_ids": None if job["sample"] else sum(ours.ids == ids for ours, ids in pairs),
    }


def main() -> None:
    """Print one JSON line."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "medium"
    sampling, size = wanted == "sampling", "tiny" if wanted == "sampling" else wanted
    config = SIZES[size]
    torch.set_num_threads(1)
    jobs = make_jobs(sampling, config.vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(LoopCoder(config), folder)
        peer = Peer(folder, jobs)
        try:
            cases = [
                compare(folder, wanted, job, lambda kind, i=i: peer.generate(f"{kind} {i}"))
                for i, job in enumerate(jobs)
            ]
        finally:
            peer.stop()
    count = count_parameters(config)
    result = {
        "benchmark": "generation",
        "unit": "new tokens per CPU second, prompt included, one thread",
        "size": wanted,
        "matmul_parameters": count.attention + count.mlp + count.head,
        "peer_name": "transformers generate, sdpa",
        "cases": cases,
        "ratio": min(case["ratio"] for case in cases),
        "met": all(case["met"] for case in cases),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
