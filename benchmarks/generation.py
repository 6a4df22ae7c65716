"""Greedy generation against transformers' generate, dense model, one thread, batch 1 and 16, fp32 and bf16.

`generation` uses a model of 12.6 M matmul parameters, `generation_tiny` the tiny recipe's size. Both sides read the
same exported directory and the same prompts; CPU seconds, best of the rounds; fp32 ids must agree up to near ties.
Bound: the bare matrix products of the same steps. transformers' environment is made on the first run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from codeflow.model.config import ModelConfig
from codeflow.model.flops import count_parameters
from codeflow.model.generate import GenerateSettings, generate
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
        intermediate_size=768,
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


def bound_seconds(model: LoopCoder, n_rows: int) -> float:
    """Return CPU seconds of the matrix products alone of N_NEW steps."""
    weights = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    inputs = {w.shape[1]: torch.ones(n_rows, w.shape[1], dtype=w.dtype) for w in weights}
    best = float("inf")
    with torch.no_grad():
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(N_NEW):
                for weight in weights:
                    torch.nn.functional.linear(inputs[weight.shape[1]], weight)
            best = min(best, time.process_time() - started)
    return best


def main() -> None:
    """Print one JSON line."""
    size = sys.argv[1] if len(sys.argv) > 1 else "medium"
    config = SIZES[size]
    torch.set_num_threads(1)
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(LoopCoder(config), folder)
        jobs = []
        for dtype in ("float32", "bfloat16"):
            for n_rows in (1, 16):
                ids = torch.randint(
                    0, config.vocab_size, (n_rows, N_PROMPT), generator=torch.Generator().manual_seed(1)
                )
                jobs.append({"prompts": ids.tolist(), "new": N_NEW, "rounds": ROUNDS, "dtype": dtype})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        script = [str(PEER / "greedy.py"), str(folder), str(folder / "jobs.json"), str(folder / "found.json")]
        subprocess.run([str(peer_python()), *script], check=True, stderr=subprocess.DEVNULL)
        for job, peer in zip(jobs, json.loads((folder / "found.json").read_text()), strict=True):
            model, n_rows = load(folder, getattr(torch, job["dtype"])), len(job["prompts"])
            generate(model, job["prompts"], GenerateSettings(max_new_tokens=4))
            best = float("inf")
            results = []
            for _ in range(ROUNDS):
                started = time.process_time()
                results = generate(model, job["prompts"], GenerateSettings(max_new_tokens=N_NEW))
                best = min(best, time.process_time() - started)
            pairs = zip(results, peer["ids"], strict=True)
            cases.append(
                {
                    "dtype": job["dtype"],
                    "batch": n_rows,
                    "ours": round(n_rows * N_NEW / best, 1),
                    "peer": round(n_rows * N_NEW / peer["seconds"], 1),
                    "bound": round(n_rows * N_NEW / bound_seconds(model, n_rows), 1),
                    "ratio": round(peer["seconds"] / best, 2),
                    "rows_with_equal_ids": sum(ours.ids == theirs for ours, theirs in pairs),
                }
            )
    count = count_parameters(config)
    result = {
        "benchmark": "generation",
        "unit": "new tokens per CPU second, prefill included, one thread",
        "size": size,
        "matmul_parameters": count.attention + count.mlp + count.head,
        "peer_name": "transformers generate, sdpa",
        "cases": cases,
        "ratio": min(case["ratio"] for case in cases),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
