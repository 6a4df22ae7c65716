"""Make or check the goldens of tests/oracle: what mlx-lm says about directories that we export.

    python scripts/make_oracle_goldens.py           check: export, run mlx-lm, compare all paths of ours with it
    python scripts/make_oracle_goldens.py --write   the same, then rewrite the goldens

mlx-lm runs in its own environment, made on the first run from benchmarks/peers/mlx_lm/requirements.txt; that it cannot
be made is a failure, never a skip. Ends with status 1 when any difference exceeds the tolerance.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from codeflow.model.config import ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.huggingface import load, save
from codeflow.model.looped import LoopCoder

ROOT = Path(__file__).parents[1]
PEER = ROOT / "benchmarks" / "peers" / "mlx_lm"
GOLDENS = ROOT / "tests" / "oracle" / "goldens"
TOLERANCE = 5e-5
LENGTH, CHUNKS = 20, (6, 5, 1, 1, 7)
WINDOWS = (1, 3, 7, 19, 20, 21, 64)  # below, at and above the length of the prompt
SHAPES = {
    "grouped": ModelConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.2,
        loop_num=2,
    ),
    "single": ModelConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
        max_position_embeddings=128,
        initializer_range=0.25,
        rope_theta=10000.0,
        loop_num=2,
    ),
}


def peer_python() -> Path:
    """Return the interpreter of mlx-lm's environment, made first if it is not there."""
    folder = PEER / ".venv"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "-r", str(PEER / "requirements.txt")]
        subprocess.run(pip, check=True)
        (folder / "complete").touch()
    return folder / "bin" / "python"


def make_model(config: ModelConfig) -> LoopCoder:
    """Return a model in which norms and gates are random too, so that losing one shows."""
    model = LoopCoder(config, seed=7)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate_projection" in name:
                parameter.normal_(generator=generator)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
    return model


def make_ids(config: ModelConfig) -> torch.Tensor:
    """Return two rows of ids (2, LENGTH)."""
    return torch.randint(0, config.vocab_size, (2, LENGTH), generator=torch.Generator().manual_seed(11))


def peer_logits(folder: Path) -> dict[str, np.ndarray]:
    """Export every shape with every window under `folder` and return mlx-lm's logits by `<shape>-<window>/<mode>`."""
    jobs = {}
    for name, config in SHAPES.items():
        for window in WINDOWS:
            target = folder / f"{name}-{window}"
            save(make_model(config.model_copy(update={"loop_window_size": window})), target)
            jobs[target.name] = {"folder": str(target), "ids": make_ids(config).tolist(), "chunks": CHUNKS}
    (folder / "jobs.json").write_text(json.dumps(jobs))
    output = folder / "logits.npz"
    subprocess.run([str(peer_python()), str(PEER / "logits.py"), str(folder / "jobs.json"), str(output)], check=True)
    with np.load(output) as found:
        return {name: found[name] for name in found.files}


@torch.no_grad()
def our_logits(model: LoopCoder, ids: torch.Tensor, mode: str) -> np.ndarray:
    """Return our logits (rows, positions, vocabulary) by the whole pass (`prefill`) or over caches."""
    if mode == "prefill":
        return model.logits(model(ids)).numpy()
    chunks = CHUNKS if mode == "chunks" else (1,) * ids.shape[1]
    decoder = Decoder(model, ids.shape[1])
    parts, at = [], chunks[0]
    first = model.logits(model(ids[:, :at]))[:, :-1]  # a prefill returns its last position only
    parts += [first, decoder.prefill(ids[:, :at].tolist())[:, None]]
    for size in chunks[1:]:
        parts.append(decoder.extend(ids[:, at : at + size]))
        at += size
    return torch.cat(parts, dim=1).numpy()


def compare(peer: dict[str, np.ndarray], folder: Path) -> float:
    """Print the largest difference of each job and mode; return the largest of all."""
    worst = 0.0
    for key, theirs in peer.items():
        name, mode = key.split("/")
        model = load(folder / name)
        difference = float(np.abs(our_logits(model, make_ids(model.config), mode) - theirs).max())
        worst = max(worst, difference)
        print(f"{name:12s} {mode:8s} {difference:.2e} of {np.abs(theirs).max():.2f}")
    return worst


def write_goldens(peer: dict[str, np.ndarray], folder: Path) -> None:
    """Keep one exported directory per shape, its ids and the peer's logits of every window."""
    shutil.rmtree(GOLDENS, ignore_errors=True)
    for name, config in SHAPES.items():
        target = GOLDENS / name
        target.mkdir(parents=True)
        for file in ("config.json", "model.safetensors"):
            shutil.copyfile(folder / f"{name}-{WINDOWS[0]}" / file, target / file)
        kept = {f"{window}/{mode}": peer[f"{name}-{window}/{mode}"] for window in WINDOWS for mode in ("prefill",)}
        save_file(kept | {"ids": make_ids(config).numpy()}, target / "mlx_lm.safetensors")


def main() -> int:
    """Export, ask the peer, compare, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="rewrite tests/oracle/goldens")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peer = peer_logits(folder)
        worst = compare(peer, folder)
        print(f"largest difference {worst:.2e}, tolerance {TOLERANCE:.0e}")
        if worst > TOLERANCE:
            return 1
        if arguments.write:
            write_goldens(peer, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
