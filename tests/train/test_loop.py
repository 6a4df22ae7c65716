"""The step: accumulation, clipping, the guard, and the precision of the working copy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import get_args

import pytest
import torch

from codeflow.model.config import Checkpointing
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer


@contextmanager
def trainee(golden: ModuleType, dtype: torch.dtype = torch.float32) -> Iterator[Trainee]:
    with world(MeshConfig()) as here:
        model = LoopCoder(golden.tiny_model(), seed=1)
        objective = Objective(model, NextToken(chunk_rows=100))
        placed = place(model, objective, model.layers, here.mesh, dtype)
        yield Trainee(objective, placed, Optimizer(placed.masters, OptimizerConfig(), dtype), here)


def batch(rows: int = 4, length: int = 32) -> TensorBatch:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(16, 272, (rows, length), generator=generator)
    weights = (torch.rand(rows, length, generator=generator) < 0.7).float()
    weights[0] = 0  # micro-batches of unequal weight: means of means would differ
    starts = torch.zeros(rows, length, dtype=torch.int32)
    positions = torch.arange(length, dtype=torch.int32).expand(rows, -1).contiguous()
    return TensorBatch(ids, ids.roll(-1, 1), weights, positions, starts)


def masters(trained: Trainee) -> dict[str, torch.Tensor]:
    return {name: master.detach().clone() for name, master in trained.placed.masters.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_accumulated_gradient_is_that_of_the_large_batch(
    rows: int, dtype: torch.dtype, tolerance: float, golden: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients: list[dict[str, torch.Tensor]] = []

    def keep(self: Optimizer, *_: float) -> None:
        gradients.append({name: m.grad.clone() for name, m in self._masters.items() if m.grad is not None})

    monkeypatch.setattr(Optimizer, "step", keep)
    with trainee(golden, dtype) as trained:
        large = train_step(trained, [batch()], 1.0, 1.0)
        small = train_step(trained, batch().split(rows), 1.0, 1.0)
    assert small.loss == pytest.approx(large.loss, rel=tolerance)
    assert small.weight == large.weight
    for name, expected in gradients[0].items():
        assert expected.dtype == torch.float32
        difference = (gradients[1][name] - expected).abs().max()
        assert difference <= tolerance * expected.abs().max(), name


def test_steps_learn_and_equal_steps_are_bitwise_equal(golden: ModuleType) -> None:
    runs = []
    for _ in range(2):
        with trainee(golden, torch.bfloat16) as trained:
            reports = [train_step(trained, [batch()], 1.0, 1.0) for _ in range(5)]
            runs.append((reports, masters(trained)))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(runs[0][1][name], runs[1][1][name]) for name in runs[0][1])
    assert runs[0][0][-1].loss < runs[0][0][0].loss - 0.3


def test_updates_smaller_than_bf16_are_not_lost(golden: ModuleType) -> None:
    """Masters are fp32: a hundred updates of 1e-5 move a norm of 1.0, which bf16 (spacing 2**-8) could not add."""
    with trainee(golden, torch.bfloat16) as trained:
        for _ in range(20):
            train_step(trained, [batch()], 1e-2, 1.0)
        master = trained.placed.masters["norm.weight"]
        working = trained.objective.model.norm.weight
        assert working.dtype == torch.bfloat16
        assert (master - 1.0).abs().max() > 1e-4
        assert torch.equal(working, master.to(torch.bfloat16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing(bad: float, golden: ModuleType) -> None:
    with trainee(golden) as trained:
        train_step(trained, [batch()], 1.0, 1.0)
        before, state = masters(trained), {k: t.clone() for k, t in trained.optimizer.tensors().items()}
        broken = batch()
        broken.weights[2, 3] = bad
        report = train_step(trained, [broken], 1.0, 1.0)
        assert "is" in report.skipped
        assert all(torch.equal(before[name], master) for name, master in masters(trained).items())
        assert all(torch.equal(state[name], tensor) for name, tensor in trained.optimizer.tensors().items())
        assert train_step(trained, [batch()], 1.0, 1.0).skipped == ""


def test_a_gradient_that_is_not_finite_changes_nothing(golden: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    with trainee(golden) as trained:
        before = masters(trained)
        handle = trained.objective.model.norm.weight.register_hook(lambda gradient: gradient * float("nan"))
        report = train_step(trained, [batch()], 1.0, 1.0)
        assert report.skipped == "gradient norm is nan"
        assert all(torch.equal(before[name], master) for name, master in masters(trained).items())
        handle.remove()
        assert train_step(trained, [batch()], 1.0, 1.0).skipped == ""


def test_a_batch_without_weight_is_skipped(golden: ModuleType) -> None:
    with trainee(golden) as trained:
        empty = batch()
        empty.weights.zero_()
        assert train_step(trained, [empty], 1.0, 1.0).skipped == "no token of the batch carries loss"


def test_clipping_bounds_the_gradient(golden: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []
    monkeypatch.setattr(Optimizer, "step", lambda self, factor, gradient_factor: factors.append(gradient_factor))
    with trainee(golden) as trained:
        norm = train_step(trained, [batch()], 1.0, 1e9).grad_norm
        train_step(trained, [batch()], 1.0, norm / 4)
    assert factors == [1.0, pytest.approx(0.25)]


def test_recomputing_changes_nothing(golden: ModuleType) -> None:
    with world(MeshConfig()):
        model = LoopCoder(golden.tiny_model(), seed=1)
        losses = []
        for checkpointing in get_args(Checkpointing):
            model.zero_grad()
            loss = NextToken(checkpointing=checkpointing)(model, batch(), 1.0)
            loss.backward()
            gradient = model.layers[0].mlp.up_proj.weight.grad
            assert gradient is not None
            losses.append((loss.item(), gradient.clone()))
    for loss, gradient in losses[1:]:
        assert loss == losses[0][0]
        assert torch.equal(gradient, losses[0][1])


def test_gradients_are_handed_to_the_masters_during_the_backward_pass(golden: ModuleType) -> None:
    with trainee(golden, torch.bfloat16) as trained:
        rows = batch()
        for _ in range(2):
            trained.objective(rows, 1.0).backward()
        assert all(working.grad is None for working in trained.objective.model.parameters())
        assert all(gradient.dtype == torch.float32 for gradient in trained.optimizer.gradients())
        twice = [gradient.clone() for gradient in trained.optimizer.gradients()]
        trained.optimizer.clear_gradients()
        trained.objective(rows, 1.0).backward()
        for once, both in zip(trained.optimizer.gradients(), twice, strict=True):
            assert torch.equal(2 * once, both)
