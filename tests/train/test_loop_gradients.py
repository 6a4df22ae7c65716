"""What each loop sends back: against separate weights per loop, micro-batches, bounding, processes, metrics."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.core.manifest import begin
from codeflow.core.metrics import read_metrics
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place, whole
from codeflow.train import pretrain
from codeflow.train.config import OptimizerConfig, TrainConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.loop_gradients import LoopGradients
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

SHAPE = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=32,
    initializer_range=0.2,
    loop_num=3,
    loop_window_size=4,
)
N_ROWS, LENGTH = 4, 16


class SeparateWeights:
    """A tap that gives each later loop a copy of the weights, whose gradient is then that loop's contribution."""

    def __init__(self) -> None:
        self.copies: dict[tuple[int, str], Tensor] = {}
        self.borders: dict[int, Tensor] = {}

    def weight(self, loop: int, name: str, weight: Tensor) -> Tensor:
        return self.copies.setdefault((loop, name), weight.detach().clone().requires_grad_())

    def border(self, loop: int, gradient: Tensor) -> None:
        self.borders[loop] = gradient.clone()


def make_batch() -> TensorBatch:
    ids = torch.randint(0, SHAPE.vocab_size, (N_ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(LENGTH, dtype=torch.int32).repeat(N_ROWS, 1)
    starts = torch.tensor([[0] * 6 + [6] * 10] * N_ROWS)
    return TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions - starts.int(), starts)


@contextmanager
def trainee(
    dtype: torch.dtype = torch.float32, bound: float | None = None, ckpt: Checkpointing = "none"
) -> Iterator[Trainee]:
    with world(MeshConfig()) as here:
        model = LoopCoder(SHAPE, seed=2)
        objective = Objective(model, NextToken(checkpointing=ckpt))
        placed = place(model, objective, model.layers, here.mesh, dtype)
        model.loop_tap = loops = LoopGradients(SHAPE.loop_num, bound)
        yield Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(), dtype), here, loops)


def expected() -> tuple[dict[str, Tensor], SeparateWeights]:
    """Return the first loop's gradients by name, and the later ones'."""
    model, batch, tap = LoopCoder(SHAPE, seed=2), make_batch(), SeparateWeights()
    model.loop_tap = tap
    NextToken()(model, batch, 1 / batch.weight).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, tap


def norm(tensors: Any) -> float:
    return sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5


def shared(first: dict[str, Tensor]) -> list[str]:
    return [name for name in first if name.startswith("layers.") and "gate_projection" not in name]


def gradients(trained: Trainee, batches: list[TensorBatch], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Return the masters' gradients as the optimizer gets them, and the step's report under `loops`."""
    found: dict[str, Any] = {}

    def step(factor: float, gradient_factor: float) -> None:
        found.update({name: whole(m.grad).clone() for name, m in trained.placed.masters.items() if m.grad is not None})

    monkeypatch.setattr(trained.optimizer, "step", step)
    found["loops"] = train_step(trained, batches, 1.0, 1e9).loops
    return found


@pytest.mark.parametrize("rows", [4, 1])
@pytest.mark.parametrize("ckpt", ["none", "full", "selective"])
def test_contributions_sum_to_the_whole_gradient(
    rows: int, ckpt: Checkpointing, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, tap = expected()
    with trainee(ckpt=ckpt) as trained:
        found = gradients(trained, make_batch().split(rows), monkeypatch)
        trained.objective.model.loop_tap = None
        plain = gradients(trained, make_batch().split(rows), monkeypatch)
    assert plain["loops"] is None
    report = found["loops"]
    names = shared(first)
    by_hand = [norm(first[name] for name in names)]
    by_hand += [norm(tap.copies[loop, name].grad for name in names) for loop in (1, 2)]
    assert report.norms == pytest.approx(by_hand, rel=1e-4)
    assert report.border_norms == pytest.approx([norm([tap.borders[loop]]) for loop in (1, 2)], rel=1e-4)
    assert report.factors == (1.0, 1.0, 1.0)
    for name, value in plain.items():
        if name != "loops":
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert max(report.norms[1:]) > 1e-3  # there is something to sum


def test_a_bound_rescales_each_contribution_that_exceeds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, tap = expected()
    names = shared(first)
    norms = [norm(first[name] for name in names)]
    norms += [norm(tap.copies[loop, name].grad for name in names) for loop in (1, 2)]
    bound = sorted(norms)[1] * 0.99  # two of three exceed it
    with trainee(bound=bound) as trained:
        found = gradients(trained, [make_batch()], monkeypatch)
    factors = [min(1.0, bound / n) for n in norms]
    assert found["loops"].norms == pytest.approx(norms, rel=1e-4)
    assert found["loops"].factors == pytest.approx(factors, rel=1e-4)
    assert sum(f"factor_{i}" in found["loops"].values() for i in (1, 2, 3)) == 2
    for name in names:
        parts = [first[name], *(tap.copies[loop, name].grad for loop in (1, 2))]
        bounded = sum(factor * part for factor, part in zip(factors, parts, strict=True))
        torch.testing.assert_close(found[name], bounded, rtol=1e-4, atol=1e-6)
    for name in set(first) - set(names):
        torch.testing.assert_close(found[name], first[name], rtol=1e-4, atol=1e-6)


def test_bf16_contributions_are_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    first, tap = expected()
    with trainee(torch.bfloat16) as trained:
        found = gradients(trained, make_batch().split(2), monkeypatch)
    names = shared(first)
    by_hand = [norm(first[name] for name in names)]
    by_hand += [norm(tap.copies[loop, name].grad for name in names) for loop in (1, 2)]
    assert found["loops"].norms == pytest.approx(by_hand, rel=0.03)
    assert {found[name].dtype for name in names} == {torch.float32}


def test_a_loss_that_is_no_number_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with trainee() as trained:
        good = train_step(trained, [make_batch()], 0.0, 1e9)
        batch = make_batch()
        batch.weights[0, 0] = float("nan")
        assert train_step(trained, [batch], 1.0, 1e9).skipped
        again = train_step(trained, [make_batch()], 0.0, 1e9)
    assert again.loops == good.loops


def _rank(rank: int, folder: Path) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
        first, _ = expected()
        with trainee(bound=0.05) as trained, pytest.MonkeyPatch.context() as patch:
            own = make_batch().split(N_ROWS // 2)[rank]
            found = gradients(trained, own.split(1), patch)
        sums = {name: norm([found[name]]) for name in first}
        (folder / f"{rank}.json").write_text(json.dumps({"report": found["loops"].values(), "norms": sums}))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure_of_rank_{rank}").write_text(traceback.format_exc())
        os._exit(1)


@pytest.mark.slow
def test_two_processes_report_and_bound_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    for failure in tmp_path.glob("failure*"):
        raise AssertionError(failure.read_text())
    with trainee(bound=0.05) as trained:
        alone = gradients(trained, [make_batch()], monkeypatch)
    assert min(alone["loops"].factors) < 1
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["report"] == pytest.approx(alone["loops"].values(), rel=1e-4)
        for name, value in found["norms"].items():
            assert value == pytest.approx(norm([alone[name]]), rel=1e-4), name


def test_a_phase_logs_them(golden: ModuleType, inputs: dict[str, Path], tmp_path: Path) -> None:
    model = golden.tiny_model().model_copy(update={"loop_num": 2, "loop_window_size": 8})
    common = {"model": model, "steps": 4, "batch_rows": 2, "mixture": {"general": 1.0}, "validation_rows": 0}
    rows = {}
    for name, fields in (
        ("watched", {"loop_norms_every_steps": 2}),
        ("bounded", {"loop_clip_norm": 1e-3}),
        ("off", {}),
    ):
        config = TrainConfig(**common, **fields, n_threads=1)
        begin(tmp_path / name, "checkpoint", config, {}, "key")
        pretrain.run(config, inputs, tmp_path / name)
        rows[name] = [row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "loss" in row]
    assert ["loop_gradients" in row for row in rows["watched"]] == [False, True, False, True]
    assert set(rows["watched"][1]["loop_gradients"]) == {"loop_1", "loop_2", "border_1_2"}
    assert all({"factor_1", "factor_2"} <= set(row["loop_gradients"]) for row in rows["bounded"])
    assert all(row["grad_norm"] < rows["off"][i]["grad_norm"] for i, row in enumerate(rows["bounded"]))
    assert not any("loop_gradients" in row for row in rows["off"])
    assert rows["watched"][0]["loss"] == rows["off"][0]["loss"]
