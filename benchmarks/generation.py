"""Generation against transformers' generate, dense model, one thread, batch 1 and 16, fp32 and bf16, greedy.

`generation` uses a model of 13.8 M matmul parameters, `generation_tiny` the tiny recipe's size; `generation_sampling`
times 128 rows as in reinforcement learning, 16 prompts with 8 samples each at temperature 1, against transformers with
its sampling. Both sides read the same exported directory and prompts; CPU seconds, best of the rounds; fp32 ids of
greedy runs must agree up to near ties. Bounds: the bare matrix products of the same steps, by torch's linear as
transformers calls it and with packed weights as we do; they leave out the reading of the prompt, which our time has.
Also printed: bytes of the later loop's cache of a 32k decode. transformers' environment is made on the first run.
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

import torch
from torch import Tensor

from codeflow.model.config import ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.flops import count_parameters
from codeflow.model.generate import GenerateSettings, Generation, generate
from codeflow.model.huggingface import load, save
from codeflow.model.looped import LoopCoder

PEER = Path(__file__).parent / "peers" / "transformers"
N_PROMPT, N_NEW, ROUNDS = 64, 64, 3
SIZES = {
    "medium": ModelConfig(
        vocab_size=8192,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=64,
        max_position_embeddings=2048,
    ),
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


def peer_python() -> Path:
    """Return the interpreter of transformers' environment, made first if it is not there."""
    folder = PEER / ".venv" / "requirements"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        requirements = str(PEER / "requirements.txt")
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "-r", requirements], check=True)
        (folder / "complete").touch()
    return folder / "bin" / "python"


def bound_seconds(model: LoopCoder, n_rows: int, packed: bool) -> float:
    """Return CPU seconds of the matrix products alone of N_NEW steps, with the projections of one input joined."""
    decoder = Decoder(model, 32, n_rows=1)
    config, dtype = model.config, model.embed_tokens.weight.dtype
    sizes = (config.hidden_size, config.num_attention_heads * config.head_dim, config.intermediate_size)
    x, mixed, grown = (torch.ones(n_rows, size, dtype=dtype) for size in sizes)
    products: list[Callable[[], Tensor]] = []
    if packed:
        for layer in decoder.layers:
            products += [partial(layer.qkv, x), partial(layer.output, mixed)]
            products += [partial(layer.gate_up, x), partial(layer.down, grown)]
        products.append(partial(decoder.head, x))
    else:
        inputs = {sizes[0]: x, sizes[1]: mixed, sizes[2]: grown}
        weights = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
        products = [partial(torch.nn.functional.linear, inputs[w.shape[1]], w) for w in weights]
    best = float("inf")
    with torch.no_grad():
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(N_NEW):
                for product in products:
                    product()
            best = min(best, time.process_time() - started)
    return best


def later_cache_bytes() -> dict[str, int]:
    """Return the bytes of the second loop's cache for rows of 1k and 32k tokens, tiny size, window 64, fp32."""
    config = SIZES["tiny"].model_copy(update={"loop_num": 2, "max_position_embeddings": 32768})
    model = LoopCoder(config)
    return {f"{n}_tokens": Decoder(model, n, n_rows=1).cache.local_bytes for n in (1024, 32768)}


def make_jobs(sampling: bool, vocab_size: int) -> list[dict[str, Any]]:
    """Return what both sides do: prompts, new tokens, dtype."""
    jobs = []
    for dtype in ("float32", "bfloat16"):
        for n_rows in (128,) if sampling else (1, 16):
            generator = torch.Generator().manual_seed(1)
            ids = torch.randint(0, vocab_size, (16 if sampling else n_rows, N_PROMPT), generator=generator)
            prompts = [row for row in ids.tolist() for _ in range(n_rows // len(ids))]
            rounds = 1 if sampling else ROUNDS
            jobs.append({"prompts": prompts, "new": N_NEW, "rounds": rounds, "dtype": dtype, "sample": sampling})
    return jobs


def our_seconds(model: LoopCoder, job: dict[str, Any]) -> tuple[float, list[Generation]]:
    """Return the best CPU seconds of the rounds, and what was generated."""
    settings = GenerateSettings(max_new_tokens=N_NEW, temperature=float(job["sample"]), max_batch=128)
    generate(model, job["prompts"], settings.model_copy(update={"max_new_tokens": 4}))
    best, results = float("inf"), []
    for _ in range(ROUNDS):
        started = time.process_time()
        results = generate(model, job["prompts"], settings)
        best = min(best, time.process_time() - started)
    return best, results


def main() -> None:
    """Print one JSON line."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else "medium"
    sampling, size = wanted == "sampling", "tiny" if wanted == "sampling" else wanted
    config = SIZES[size]
    torch.set_num_threads(1)
    jobs, cases = make_jobs(sampling, config.vocab_size), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(LoopCoder(config), folder)
        (folder / "jobs.json").write_text(json.dumps(jobs))
        script = [str(PEER / "greedy.py"), str(folder), str(folder / "jobs.json"), str(folder / "found.json")]
        subprocess.run([str(peer_python()), *script], check=True, stderr=subprocess.DEVNULL)
        for job, peer in zip(jobs, json.loads((folder / "found.json").read_text()), strict=True):
            model, n_rows = load(folder, getattr(torch, job["dtype"])), len(job["prompts"])
            seconds, results = our_seconds(model, job)
            n_made = n_rows * N_NEW
            pairs = zip(results, peer["ids"], strict=True)
            cases.append(
                {
                    "dtype": job["dtype"],
                    "batch": n_rows,
                    "ours": round(n_made / seconds, 1),
                    "peer": round(n_made / peer["seconds"], 1),
                    "bound_linear": round(n_made / bound_seconds(model, n_rows, packed=False), 1),
                    "bound_packed": round(n_made / bound_seconds(model, n_rows, packed=True), 1),
                    "ratio": round(peer["seconds"] / seconds, 2),
                    "rows_with_equal_ids": None if sampling else sum(ours.ids == theirs for ours, theirs in pairs),
                }
            )
    count = count_parameters(config)
    result = {
        "benchmark": "generation",
        "unit": "new tokens per CPU second, prompt included, one thread",
        "size": wanted,
        "matmul_parameters": count.attention + count.mlp + count.head,
        "peer_name": "transformers generate, sdpa",
        "cases": cases,
        "later_loop_cache_bytes": later_cache_bytes(),
        "ratio": min(case["ratio"] for case in cases),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
