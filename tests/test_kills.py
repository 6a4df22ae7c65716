"""A small seeded sample of the kill campaign; `make campaign NAME=kills` is the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from campaigns.kills import Campaign, kill_drivers, kill_stage, kill_workers

MINIATURE = (
    "smoke",
    "collect.include_packages=false",
    "collect.cap_bytes=400000",
    "collect.general_cap_bytes=100000",
    "collect.shard_bytes=100000",
)


def test_killed_stages_end_as_undisturbed_ones(tmp_path: Path) -> None:
    campaign = Campaign(MINIATURE, tmp_path)
    reference = tmp_path / "reference"
    assert campaign.run(reference, "dedup") == 0
    stages = ["collect", "history", "prompts", "clean", "dedup"]
    for stage, points, n_random in (("collect", 1, 0), ("clean", 2, 1), ("dedup", 1, 0)):
        outcome = kill_stage(campaign, reference, stages, stage, points, n_random, random.Random(1))
        assert outcome.kills == points
        assert outcome.unequal == outcome.failed == 0
    outcome = kill_workers(campaign, reference, stages, "clean", 2, random.Random(1))
    assert outcome.worker_kills >= 1
    assert outcome.unequal == outcome.failed == 0


@pytest.mark.slow
def test_kills_on_ray_end_as_an_undisturbed_run_here(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    campaign = Campaign(MINIATURE, tmp_path, "ray")
    reference = tmp_path / "reference"
    assert Campaign(MINIATURE, tmp_path).run(reference, "clean") == 0
    stages = ["collect", "history", "prompts", "clean"]
    outcome = kill_stage(campaign, reference, stages, "clean", 2, 0, random.Random(1))
    outcome = outcome.and_also(kill_workers(campaign, reference, stages, "clean", 1, random.Random(1)))
    outcome = outcome.and_also(kill_drivers(campaign, reference, stages, "clean", 1, random.Random(1)))
    assert outcome.kills == 2
    assert outcome.worker_kills >= 1
    assert outcome.driver_kills == 1
    assert outcome.unequal == outcome.failed == 0
