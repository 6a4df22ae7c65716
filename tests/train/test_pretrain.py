"""A phase from tokens to a checkpoint: golden curve, resuming, phases that follow each other, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from codeflow.core.config import Config, validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import Manifest, begin, check_files
from codeflow.core.metrics import read_metrics
from codeflow.model import compilation, huggingface
from codeflow.parallel import checkpoint
from codeflow.train import pretrain
from codeflow.train.config import ScheduleConfig, TrainConfig
from codeflow.train.losses import NextToken
from codeflow.train.rows import training_rows

FILES = ("metrics.jsonl", "model/model.safetensors", "state/__0_0.distcp", "state/index.json", "state/complete.json")


def phase_config(golden: ModuleType, **changes: Any) -> TrainConfig:
    fields: dict[str, Any] = {
        "model": golden.tiny_model(),
        "steps": 7,
        "batch_rows": 4,
        "mixture": {"general": 1.0, "code": 3.0},
        "schedule": ScheduleConfig(warmup_fraction=0.3),
        "validation_rows": 4,
        "checkpoint_every_steps": 2,
        "n_threads": 1,
    }
    return TrainConfig(**{**fields, **changes})


def train(config: Config, inputs: dict[str, Path], output: Path) -> Manifest:
    begin(output, "checkpoint", config, {}, "key")
    return pretrain.run(config, inputs, output)


def contents(output: Path) -> dict[str, bytes]:
    return {name: (output / name).read_bytes() for name in FILES}


class Stopped(BaseException):
    """What a test raises in place of a kill."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make the run end before the given training step, after which it is as usual again."""
    original, calls = pretrain.train_step, iter(range(1, 1_000_000))

    def step_or_stop(*arguments: Any) -> Any:
        if next(calls) == step:
            monkeypatch.setattr(pretrain, "train_step", original)
            raise Stopped
        return original(*arguments)

    monkeypatch.setattr(pretrain, "train_step", step_or_stop)


def _of_fields_in(tree: Any, fields: Any) -> Any:
    """Return `tree` with only those fields, at every depth, that `fields` has."""
    if not isinstance(tree, dict) or not isinstance(fields, dict):
        return tree
    return {name: _of_fields_in(tree.get(name), inner) for name, inner in fields.items()}


@pytest.mark.parametrize("loop_num", [1, 2])
def test_golden_curve(loop_num: int, golden: ModuleType, tmp_path: Path) -> None:
    expected = json.loads(golden.GOLDEN[loop_num].read_text())
    config = golden.golden_config(loop_num).model_dump(mode="json")
    # fields that came later have their defaults
    assert expected["config"] == _of_fields_in(config, expected["config"]), (
        "the curve's configuration has changed: make the golden file again"
    )
    assert golden.golden_losses(tmp_path, loop_num) == pytest.approx(expected["losses"], rel=1e-4)
    assert expected["losses"][-1] < expected["losses"][0] - 0.5


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_resumed_run_is_bitwise_the_undisturbed_one(
    precision: str, golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = phase_config(golden, precision=precision, validation_every_steps=3)
    whole = train(config, inputs, tmp_path / "whole")
    begin(tmp_path / "broken", "checkpoint", config, {}, "key")
    for stop in (4, 2):  # before step 4 (checkpoint at 2), then before the second step after that
        stop_at(monkeypatch, stop)
        with pytest.raises(Stopped):
            pretrain.run(config, inputs, tmp_path / "broken")
    resumed = pretrain.run(config, inputs, tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
    assert resumed == whole
    assert sorted(p.name for p in (tmp_path / "broken").iterdir()) == sorted(
        ["model", "state", "manifest.json", "config.json", "plan.json", "metrics.jsonl", ".timing.jsonl"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiled_phase(
    compiler: str, golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are those of a plain phase; going on after a kill gives the undisturbed compiled phase's bytes."""
    monkeypatch.setattr(compilation, "_COMPILER", compiler)
    looped = golden.tiny_model().model_copy(update={"loop_num": 2, "loop_window_size": 8})
    fields = {"model": looped, "precision": "fp32", "steps": 6, "second_pass_ramp_steps": 5, "micro_rows": 3}
    fields |= {"integrity": {"every_steps": 1, "recompute_every_steps": 2}, "loop_norms_every_steps": 3}
    config = phase_config(golden, compile="blocks", **fields)
    plain = phase_config(golden, **fields)
    train(plain, inputs, tmp_path / "plain")
    train(config, inputs, tmp_path / "whole")
    rows = [list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("plain", "whole")]
    for expected, found in zip(*rows, strict=True):
        assert found.keys() == expected.keys()
        if "loss" in expected:
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        if "loop_gradients" in expected:
            assert found["loop_gradients"] == pytest.approx(expected["loop_gradients"], rel=1e-3)
    begin(tmp_path / "broken", "checkpoint", config, {}, "key")
    stop_at(monkeypatch, 4)
    with pytest.raises(Stopped):
        pretrain.run(config, inputs, tmp_path / "broken")
    if compiler == "inductor":  # in a process of its own, which has compiled nothing
        assert _in_child(config, inputs, tmp_path / "broken", {}) == 0
    else:
        pretrain.run(config, inputs, tmp_path / "broken")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpointing": "selective"}, "compile=blocks does not go with checkpointing=selective.*none or full"),
        ({"mesh": {"tensor": 2}}, "compile=blocks does not go with mesh.tensor=2.*set compile=none"),
    ],
)
def test_what_does_not_go_with_compilation(changes: dict[str, Any], message: str) -> None:
    assert validate(TrainConfig, changes).compile == "none"
    with pytest.raises(UserError, match=message):
        validate(TrainConfig, {"compile": "blocks", **changes})


@pytest.mark.parametrize(
    "moments",
    [
        pytest.param((9,), id="while saving"),
        pytest.param(tuple(range(1, 34, 2)), id="every second moment", marks=pytest.mark.slow),
    ],
)
def test_killed_run_goes_on(
    moments: tuple[int, ...], golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Each kill happens in the run that goes on after the kill before; the moments lie in ever later parts of it."""
    config = phase_config(golden, steps=4)
    train(config, inputs, tmp_path / "whole")
    output, log = tmp_path / "killed", tmp_path / "log"
    begin(output, "checkpoint", config, {}, "key")
    n_kills = 0
    for moment in moments:
        status = _in_child(config, inputs, output, {"CODEFLOW_CRASH_LOG": str(log), "CODEFLOW_CRASH_AT": str(moment)})
        log.unlink()
        n_kills += status == -signal.SIGKILL
        if status == 0:
            break
    assert n_kills >= min(len(moments), 8)
    if not (output / "manifest.json").exists():
        pretrain.run(config, inputs, output)
    assert contents(output) == contents(tmp_path / "whole")
    check_files(output, deep=True)


_CHILD = """
import json, os, sys
from pathlib import Path
from codeflow.core.storage import crash_point
from codeflow.train.config import TrainConfig
from codeflow.train.pretrain import run
config, tokens, tokenizer, output = sys.argv[1:]
run(TrainConfig.model_validate_json(config), {"tokens": Path(tokens), "tokenizer": Path(tokenizer)}, Path(output))
"""


def _in_child(config: TrainConfig, inputs: dict[str, Path], output: Path, environment: dict[str, str]) -> int:
    arguments = [config.model_dump_json(), str(inputs["tokens"]), str(inputs["tokenizer"]), str(output)]
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *arguments],
        env={**os.environ, **environment},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode in (0, -signal.SIGKILL), child.stderr
    return child.returncode


def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    golden: ModuleType,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = phase_config(golden)
    train(config, inputs, tmp_path / "whole")
    output = tmp_path / "damaged"
    begin(output, "checkpoint", config, {}, "key")
    stop_at(monkeypatch, 6)
    with pytest.raises(Stopped):
        pretrain.run(config, inputs, output)
    newest = checkpoint.step_folder(output / "checkpoints", 4) / "__0_0.distcp"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    pretrain.run(config, inputs, output)
    said = capsys.readouterr().err
    assert f"{newest} does not match its SHA-256" in said
    assert "going on after step 2" in said
    assert contents(output) == contents(tmp_path / "whole")


def test_checkpoints_of_every_so_many_steps_stay(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    """Beside the newest ones, and in the finished artifact, where they are part of what its manifest checks."""
    config, output = phase_config(golden, keep_every_steps=4, keep=1), tmp_path / "out"
    plain = train(phase_config(golden, keep=1), inputs, tmp_path / "plain")
    manifest = train(config, inputs, output)
    folders = checkpoint.step_folders(output / "checkpoints")
    assert [checkpoint.read(folder).step for folder in folders] == [4]
    assert "checkpoints/step-00000004/complete.json" in manifest.files
    assert not (tmp_path / "plain" / "checkpoints").exists()
    kept = {name for name in manifest.files if not name.startswith("checkpoints/")}
    assert kept == set(plain.files)
    assert contents(output) == contents(tmp_path / "plain")


def test_checkpoints_that_are_never_made_cannot_be_kept(golden: ModuleType) -> None:
    with pytest.raises(ValueError, match="keep_every_steps=3 is no multiple of checkpoint_every_steps=2"):
        phase_config(golden, keep_every_steps=3)


def test_phases_follow_each_other(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    general = train(phase_config(golden, steps=12, mixture={"general": 1.0}), inputs, tmp_path / "general")
    child = phase_config(golden, phase="code", model=None, steps=12, mixture={"code": 1.0}, checkpoint_every_steps=50)
    code = train(child, {**inputs, "parent": tmp_path / "general"}, tmp_path / "code")
    for manifest, name in ((general, "general"), (code, "code")):
        assert manifest.metrics["validation_after"][name] < manifest.metrics["validation_before"][name] - 0.2
        assert manifest.metrics["attention_backend"] == "cpu"
    about = checkpoint.read(tmp_path / "code" / "state").about
    assert about["updates"] == 24
    assert code.metrics["tokens_in_all"] == general.metrics["tokens"] + code.metrics["tokens"]
    first, *_ = read_metrics(tmp_path / "code" / "metrics.jsonl")
    assert first["tokens"] == general.metrics["tokens"]
    fresh = train(
        child.model_copy(update={"inherit_optimizer": False}),
        {**inputs, "parent": tmp_path / "general"},
        tmp_path / "fresh",
    )
    assert checkpoint.read(tmp_path / "fresh" / "state").about["updates"] == 12
    assert fresh.metrics["first_loss"] == code.metrics["first_loss"]
    assert fresh.metrics["last_loss"] != code.metrics["last_loss"]


def test_exported_model_has_the_loss_that_was_measured(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    config = phase_config(golden, precision="fp32", model=golden.tiny_model().model_copy(update={"vocab_size": 300}))
    manifest = train(config, inputs, tmp_path / "out")
    model = huggingface.load(tmp_path / "out" / "model")
    rows = training_rows(inputs["tokens"], config.mixture, 4, 4, 0)
    batch = pretrain.TensorBatch.of(rows.held_out("code", 0, 1))
    with torch.no_grad():
        loss = NextToken()(model, batch, 1 / batch.weight).item()
    assert loss == pytest.approx(manifest.metrics["validation_after"]["code"], rel=1e-5)
    assert load_file(tmp_path / "out" / "model" / "model.safetensors")["lm_head.weight"].shape[0] == 300
    assert (tmp_path / "out" / "model" / "tokenizer.json").read_bytes() == (
        inputs["tokenizer"] / "tokenizer.json"
    ).read_bytes()


def test_an_absent_set_is_an_error_unless_it_is_optional(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    mixture = {"code": 0.9, "evolution": 0.1}
    with pytest.raises(UserError, match="evolution"):
        train(phase_config(golden, mixture=mixture), inputs, tmp_path / "error")
    manifest = train(phase_config(golden, mixture=mixture, optional_sets=("evolution",)), inputs, tmp_path / "out")
    assert manifest.metrics["remarks"] == [
        "set 'evolution' is empty: left out of the mixture, the other weights share its part"
    ]
    assert set(manifest.metrics["sets"]) == {"code"}


def test_loss_spikes_are_skipped_and_recorded(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = NextToken.__call__, iter(range(1000))

    def spike(self: NextToken, *arguments: Any) -> Any:
        loss = original(self, *arguments)
        return loss * float("nan") if torch.is_grad_enabled() and next(calls) == 3 else loss

    monkeypatch.setattr(NextToken, "__call__", spike)
    manifest = train(phase_config(golden), inputs, tmp_path / "out")
    rows = {row["step"]: row for row in read_metrics(tmp_path / "out" / "metrics.jsonl")}
    assert [step for step, row in rows.items() if "skipped" in row] == [4]
    assert "loss" not in rows[4]
    assert rows[4]["tokens"] == rows[3]["tokens"]
    assert manifest.counts.notes == {"skipped_updates": 1}
    assert checkpoint.read(tmp_path / "out" / "state").about["updates"] == 6


def test_a_run_that_only_skips_ends(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = NextToken.__call__
    monkeypatch.setattr(NextToken, "__call__", lambda self, *arguments: original(self, *arguments) * float("inf"))
    with pytest.raises(InfrastructureError, match="3 updates in a row were skipped at step 3"):
        train(phase_config(golden, max_skips=2), inputs, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "neither a model nor a parent"),
        ({"mixture": {"generel": 1.0}}, "generel"),
    ],
)
def test_refusals(
    changes: dict[str, Any], message: str, golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train(phase_config(golden, **changes), inputs, tmp_path / "out")


def test_rows_longer_than_the_model_are_refused(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    model = golden.tiny_model().model_copy(update={"max_position_embeddings": 32})
    with pytest.raises(UserError, match="rows of 64 tokens exceed max_position_embeddings=32"):
        train(phase_config(golden, model=model), inputs, tmp_path / "out")
