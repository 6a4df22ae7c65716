"""Check that transformers reads our exports and gives our numbers: Llama by itself, the others by our remote code.

    python scripts/check_transformers.py [requirements.txt | requirements-4.55.txt ...]

Each requirements file of benchmarks/peers/transformers gets its own environment, made on the first run. Compared:
logits of the whole row and token by token, greedy ids, left padding, beams with and without cache, gradients without
and with gradient checkpointing. Ends with status 1 when anything differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from make_oracle_goldens import SHAPES, TOLERANCE, make_ids, make_model, our_logits

from codeflow.model.generate import GenerateSettings, generate
from codeflow.model.huggingface import ExportSettings, load, save
from codeflow.model.looped import LoopCoder

PEER = Path(__file__).parents[1] / "benchmarks" / "peers" / "transformers"
N_NEW = 12
CHANGES = {
    "dense": {"loop_num": 1},
    "dense_iquestcoder": {"loop_num": 1},
    "dense_tied": {"loop_num": 1, "tie_word_embeddings": True},
    "loop_window_3": {"loop_window_size": 3},
    "loop_window_64": {"loop_window_size": 64},
    "loop_three_times": {"loop_num": 3, "loop_window_size": 5},
    "loop_tied": {"loop_window_size": 5, "tie_word_embeddings": True},
}


def peer_python(requirements: Path) -> Path:
    """Return the interpreter of the environment for `requirements`, made first if it is not there."""
    folder = PEER / ".venv" / requirements.stem
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", "-r", str(requirements)], check=True)
        (folder / "complete").touch()
    return folder / "bin" / "python"


def ask_peer(python: Path, folder: Path) -> dict[str, np.ndarray]:
    """Export all models under `folder` and return what the peer computed."""
    jobs = {}
    for name, change in CHANGES.items():
        config = SHAPES["grouped"].model_copy(update=change)
        kind = "iquestcoder" if name.endswith("iquestcoder") else "llama"
        save(make_model(config), folder / name, ExportSettings(dense_type=kind))
        jobs[name] = {"folder": str(folder / name), "ids": make_ids(config).tolist(), "new": N_NEW}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [str(python), str(PEER / "logits.py"), str(folder / "jobs.json"), str(folder / "found.npz")]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "TRANSFORMERS_VERBOSITY": "error"}
    subprocess.run(command, check=True, env=os.environ | offline)
    with np.load(folder / "found.npz") as found:
        return {name: found[name] for name in found.files}


def our_gradient(model: LoopCoder, ids: torch.Tensor) -> np.ndarray:
    """Return the gradient of the first key projection under the language-model loss."""
    logits = model.logits(model(ids))
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradient = model.get_parameter("layers.0.self_attn.k_proj.weight").grad
    assert gradient is not None
    return gradient.numpy()


def problems(name: str, model: LoopCoder, peer: dict[str, np.ndarray]) -> list[str]:
    """Return what differs between our model and the peer's results for it."""
    ids = make_ids(model.config)
    found = []
    for mode in ("prefill", "tokens"):
        difference = float(np.abs(our_logits(model, ids, mode) - peer[f"{name}/{mode}"]).max())
        if difference > TOLERANCE:
            found.append(f"{mode} differs by {difference:.1e}")
    gradient = our_gradient(model, ids)
    for mode in ("gradient", "checkpointed"):
        difference = float(np.abs(gradient - peer[f"{name}/{mode}"]).max() / np.abs(gradient).max())
        if difference > TOLERANCE:
            found.append(f"{mode} differs by {difference:.1e} of its largest value")
    prompts = ids[:, :6].tolist()
    settings = GenerateSettings(max_new_tokens=N_NEW)
    for mode, rows in (("greedy", prompts), ("padded", [prompts[0], prompts[1][:4]])):
        if [result.ids for result in generate(model, rows, settings)] != peer[f"{name}/{mode}"].astype(int).tolist():
            found.append(f"{mode} generates other tokens")
    if not np.array_equal(peer[f"{name}/beams"], peer[f"{name}/beams_uncached"]):
        found.append("beams differ with the cache")
    return found


def main() -> int:
    """Check every environment named, or both."""
    names = sys.argv[1:] or ["requirements.txt", "requirements-4.55.txt"]
    failed = False
    for requirements in names:
        with tempfile.TemporaryDirectory() as folder:
            peer = ask_peer(peer_python(PEER / requirements), Path(folder))
            for name in CHANGES:
                wrong = problems(name, load(Path(folder) / name), peer)
                failed |= bool(wrong)
                print(f"{requirements:24s} {name:18s} {'; '.join(wrong) or 'equal'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
