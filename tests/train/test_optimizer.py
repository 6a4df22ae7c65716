"""Muon's directions are nearly orthogonal, and parameters go to the optimizer that is meant for them."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from codeflow.model.looped import LoopCoder
from codeflow.train.config import OptimizerConfig
from codeflow.train.optimizer import Optimizer, is_matrix, orthogonalise


@pytest.mark.parametrize("shape", [(64, 64), (48, 128), (128, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(3, *shape, generator=generator) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    result = orthogonalise(matrices, 5, dtype)
    values = torch.linalg.svdvals(result)
    # the smallest values of a square random matrix are not lifted all the way: the median must be, and none may exceed
    assert values.max() < 1.3
    assert values.median(dim=1).values.min() > 0.6
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    polar = u @ vh
    cosine = (result * polar).sum((1, 2)) / (result.norm(dim=(1, 2)) * polar.norm(dim=(1, 2)))
    assert cosine.min() > 0.95


def test_equal_matrices_in_a_batch_get_equal_directions() -> None:
    matrix = torch.randn(16, 40, generator=torch.Generator().manual_seed(1))
    single, double = (
        orthogonalise(matrix[None], 5, torch.float32),
        orthogonalise(matrix.repeat(2, 1, 1), 5, torch.float32),
    )
    torch.testing.assert_close(double[0], single[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(double[0], double[1])


def test_zero_gradient_gives_zero_direction() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 6), 5, torch.bfloat16).any()


@pytest.mark.parametrize("loop_num", [1, 2])
def test_who_updates_what(loop_num: int, golden: ModuleType) -> None:
    model = LoopCoder(golden.tiny_model().model_copy(update={"loop_num": loop_num}))
    names = {name for name, parameter in model.named_parameters() if is_matrix(name, parameter)}
    assert len(names) == 2 * 7
    assert not any(word in name for name in names for word in ("norm", "embed", "lm_head", "gate_projection"))
    optimizer = Optimizer(dict(model.named_parameters()), OptimizerConfig(adamw_weight_decay=0.1), torch.float32)
    decays = optimizer._adamw.weight_decays()
    assert {name for name, decay in decays.items() if decay} == {"embed_tokens.weight", "lm_head.weight"}
    assert names | set(decays) == {name for name, _ in model.named_parameters()}
    plain = OptimizerConfig(matrices="adamw", adamw_weight_decay=0.1)
    decays = Optimizer(dict(model.named_parameters()), plain, torch.float32)._adamw.weight_decays()
    assert len(decays) == len(list(model.parameters()))
    assert len([name for name, decay in decays.items() if decay]) == len(names) + 2


def test_adamw_is_torchs(golden: ModuleType) -> None:
    """The bits of `torch.optim.AdamW(fused=True)`: clipping, a changing rate, a master without gradient at first."""
    config = OptimizerConfig(matrices="adamw", adamw_weight_decay=0.1)
    ours, theirs = (dict(LoopCoder(golden.tiny_model()).named_parameters()) for _ in range(2))
    optimizer = Optimizer(ours, config, torch.float32)
    decays = optimizer._adamw.weight_decays()
    groups = [{"params": [theirs[name]], "weight_decay": decay} for name, decay in decays.items()]
    betas = config.adamw_beta1, config.adamw_beta2
    peer = torch.optim.AdamW(groups, betas=betas, eps=config.adamw_epsilon, fused=True)
    generator = torch.Generator().manual_seed(0)
    for step, factor in enumerate((0.5, 1.0, 0.25)):
        for name, master in ours.items():
            if step or name != "norm.weight":
                master.grad = torch.randn(master.shape, generator=generator)
                theirs[name].grad = master.grad * 0.5
        for group in peer.param_groups:
            group["lr"] = config.adamw_learning_rate * factor
        optimizer.step(factor, 0.5)
        peer.step()
    for name, master in ours.items():
        assert torch.equal(master, theirs[name]), name
        assert torch.equal(optimizer.tensors()[f"adamw.square.{name}"], peer.state[theirs[name]]["exp_avg_sq"]), name


def test_a_step_does_not_import_torchs_compiler() -> None:
    """It takes 100 MiB and a second of every process that trains."""
    code = """
import sys, torch
from codeflow.train.config import OptimizerConfig
from codeflow.train.optimizer import Optimizer
masters = {"norm.weight": torch.nn.Parameter(torch.ones(4)), "layers.0.q_proj.weight": torch.nn.Parameter(torch.eye(4))}
optimizer = Optimizer(masters, OptimizerConfig(), torch.float32)
for master in masters.values():
    master.grad = torch.ones_like(master)
optimizer.step(1.0, 1.0)
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_update_is_what_the_formulae_say(golden: ModuleType) -> None:
    """First step: AdamW moves by its rate along the sign, Muon by lr * sqrt(max(1, r / c)) along the polar factor."""
    model = LoopCoder(golden.tiny_model())
    masters = dict(model.named_parameters())
    before = {name: master.detach().clone() for name, master in masters.items()}
    optimizer = Optimizer(masters, OptimizerConfig(muon_learning_rate=0.1, adamw_learning_rate=0.01), torch.float32)
    generator = torch.Generator().manual_seed(0)
    for master in masters.values():
        master.grad = torch.randn(master.shape, generator=generator)
    gradients = {name: master.grad.clone() for name, master in masters.items() if master.grad is not None}
    optimizer.step(0.5, 1.0)
    moved = masters["norm.weight"].detach() - before["norm.weight"]
    torch.testing.assert_close(moved, -0.005 * gradients["norm.weight"].sign(), rtol=1e-4, atol=1e-6)
    name = "layers.1.mlp.up_proj.weight"
    moved = masters[name].detach() - before[name]
    direction = orthogonalise(gradients[name][None], 5, torch.float32)[0]
    torch.testing.assert_close(moved, -0.05 * 3**0.5 * direction, rtol=1e-3, atol=1e-5)


def test_momentum_follows_the_running_mean_of_the_gradients() -> None:
    names = ("layers.0.self_attn.q_proj.weight", "norm.weight")
    masters = {name: torch.nn.Parameter(torch.ones(4, 4) if "proj" in name else torch.ones(4)) for name in names}
    config = OptimizerConfig(matrices="sgd", others="sgd", sgd_learning_rate=0.5, sgd_momentum=0.75)
    optimizer = Optimizer(masters, config, torch.float32)
    assert set(optimizer.tensors()) == {f"sgd.mean.{name}" for name in names}
    mean, value = 0.0, 1.0
    for gradient in (1.0, -2.0, 0.5):
        for master in masters.values():
            master.grad = torch.full_like(master, gradient)
        optimizer.step(factor=0.5, gradient_factor=1.0)
        mean += 0.25 * (gradient - mean)
        value -= 0.25 * mean
        for master in masters.values():
            torch.testing.assert_close(master.detach(), torch.full_like(master, value))
