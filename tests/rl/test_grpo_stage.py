from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.core.records import read_records
from codeflow.core.types import Rollout
from codeflow.parallel import checkpoint
from codeflow.parallel.config import IntegrityConfig
from codeflow.parallel.faults import RankFault
from codeflow.rl import grpo_stage
from codeflow.rl.config import GrpoConfig
from codeflow.rl.grpo_stage import run
from codeflow.sandbox.local import probe
from codeflow.solve.config import RolloutConfig
from codeflow.train.config import OptimizerConfig

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
CONFIG = GrpoConfig(
    steps=5,
    prompts_per_step=3,
    samples_per_prompt=6,
    rollout=RolloutConfig(max_new_tokens=24, wall_seconds=20),
    row_tokens=96,
    optimizer=OptimizerConfig(muon_learning_rate=5e-3, adamw_learning_rate=2e-3),
    precision="fp32",
    checkpoint_every_steps=2,
    n_threads=1,
)


def trained(config: GrpoConfig, inputs: dict[str, Path], output: Path) -> dict[str, str]:
    begin(output, "checkpoint", config, {}, "k")
    manifest = run(config, inputs, output)
    return {name: record.sha256 for name, record in manifest.files.items()}


class Killed(Exception):
    """Stands for the end of the process."""


@needs_sandbox
def test_a_stopped_run_goes_on_to_the_same_bytes(inputs, tmp_path, monkeypatch):
    whole = trained(CONFIG, inputs, tmp_path / "whole")
    assert {"metrics.jsonl", "model/model.safetensors", "rollouts-00005.parquet"} <= whole.keys()
    save, n_saved = checkpoint.save, [0]

    def save_and_end(*arguments) -> None:
        n_saved[0] += 1
        if n_saved[0] == 2:  # after step 4, before its checkpoint: steps 3 and 4 are done again
            raise Killed
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", save_and_end)
    with pytest.raises(Killed):
        trained(CONFIG, inputs, tmp_path / "stopped")
    monkeypatch.undo()
    assert not (tmp_path / "stopped/state").exists()
    assert trained(CONFIG, inputs, tmp_path / "stopped") == whole
    rows = list(read_metrics(tmp_path / "whole/metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    rollouts = list(read_records(tmp_path / "whole/rollouts-00001.parquet", Rollout))
    assert len(rollouts) == 18
    assert all(len(r.ids) == len(r.logprobs) and r.ids for r in rollouts)


@needs_sandbox
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_is_sampled_from_weights_that_changed(precision, inputs, tmp_path, monkeypatch):
    config = CONFIG.model_copy(update={"precision": precision, "integrity": IntegrityConfig(every_steps=1)})
    models, write = [], grpo_stage.write_records
    original = grpo_stage.roll_out

    def remember(source, *arguments):
        models.append(source.model)
        return original(source, *arguments)

    def write_and_flip(path, *arguments) -> None:
        write(path, *arguments)
        if path.name == "rollouts-00002.parquet":
            weight = models[-1].layers[0].mlp.up_proj.weight.detach()
            weight.view(torch.int16 if precision == "bf16" else torch.int32)[0, 1] ^= 4

    monkeypatch.setattr(grpo_stage, "roll_out", remember)
    monkeypatch.setattr(grpo_stage, "write_records", write_and_flip)
    with pytest.raises(RankFault, match=r"layers\.0\.mlp\.up_proj\.weight' of rank 0 at step 3"):
        trained(config, inputs, tmp_path / "out")
    assert len(models) == 2  # step 3 samples nothing
    monkeypatch.undo()
    trained(config, inputs, tmp_path / "out")


@needs_sandbox
def test_several_updates_measure_the_ratio_from_the_weights_that_sampled(inputs, tmp_path):
    trained(CONFIG.model_copy(update={"steps": 2, "updates_per_step": 3}), inputs, tmp_path / "out")
    rows = [row for row in read_metrics(tmp_path / "out/metrics.jsonl") if "skipped" not in row]
    assert rows
    assert all(row["sampler_gap"] < 1e-4 for row in rows)


@needs_sandbox
@pytest.mark.slow
def test_reward_rises_and_with_a_coin_it_does_not(inputs, tmp_path):
    gains = {}
    for kind in ("all_tests", "random"):
        config = CONFIG.model_copy(
            update={"steps": 25, "reward": kind, "prompts_per_step": 4, "samples_per_prompt": 12}
        )
        trained(config, inputs, tmp_path / kind)
        passed = [row["passed"] for row in read_metrics(tmp_path / kind / "metrics.jsonl")]
        gains[kind] = sum(passed[-5:]) / 5 - sum(passed[:5]) / 5
    assert gains["all_tests"] > 0.25, gains
    assert gains["random"] < gains["all_tests"] / 2, gains


def test_bad_input_is_named(inputs, tmp_path):
    begin(tmp_path / "out", "checkpoint", CONFIG, {}, "k")
    with pytest.raises(UserError, match="set split to one of: rl"):
        run(CONFIG.model_copy(update={"split": "dev"}), inputs, tmp_path / "out")
    rollout = RolloutConfig(max_new_tokens=96)
    with pytest.raises(UserError, match="lower it"):
        run(CONFIG.model_copy(update={"rollout": rollout}), inputs, tmp_path / "out")
    shutil.copytree(inputs["checkpoint"], tmp_path / "damaged")
    (tmp_path / "damaged/state/complete.json").write_text("{")
    with pytest.raises(UserError, match="no good checkpoint"):
        run(CONFIG, {**inputs, "checkpoint": tmp_path / "damaged"}, tmp_path / "out")
    with pytest.raises(ValueError, match="an update needs a group"):
        GrpoConfig(updates_per_step=17)
