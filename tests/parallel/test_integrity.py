"""A small seeded sample of the bit-flip campaign on four processes; `make campaign NAME=bit_flips` is the whole."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
from campaigns.bit_flips import N_RANKS, PLACES, REPLICAS, Rig, clean, computation, flips

from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.parallel.mesh import world
from tests.ranks import run_ranks

N_FLIPS = 2
EVERY_STEP = IntegrityConfig(every_steps=1, recompute_every_steps=1, recompute_on="both")


CASES = {name: axes for name, (axes, _) in PLACES.items()} | {
    "payloads, exchanged for heads": {"shard": 2, "context": 2, "context_exchange": "all_to_all"},
}


def _sample(folder: Path) -> None:
    found: dict[str, object] = {}
    for name, axes in CASES.items():
        mesh, rng = MeshConfig.model_validate(axes), random.Random(3)
        with world(mesh) as here:
            rig = Rig.make(here, mesh, folder, EVERY_STEP)
            found[name] = asdict(flips(rig, name, N_FLIPS, rng))
            found[f"{name}, clean"] = clean(rig, 1)[1]
    with world(MeshConfig.model_validate(REPLICAS)) as here:
        for kind in ("once", "always"):
            found[kind] = asdict(computation(here, (kind, N_FLIPS, 1), random.Random(4), folder))
    if dist.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def test_flips_are_caught_and_their_rank_is_named(tmp_path: Path) -> None:
    run_ranks(N_RANKS, tmp_path, _sample, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    for name in CASES:
        assert found[name] == {"flips": N_FLIPS, "caught": N_FLIPS, "named": N_FLIPS}, name
        assert found[f"{name}, clean"] == 0
    for kind in ("once", "always"):
        assert found[kind]["named"] == found[kind]["caught"] == found[kind]["sampled"] > 0, kind
