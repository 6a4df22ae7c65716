"""What the backward pass computes again: equal bits, less memory, no matrix product twice, nothing left behind."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from codeflow.kernels import cpu
from codeflow.model.checkpointing import recomputed, selectively
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.traced import LiveBytes
from tests.model.shapes import SHAPE, changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=6)
THREE_LOOPS = changed(loop_num=3, loop_window_size=3, tie_word_embeddings=True)
ALL: tuple[Checkpointing, ...] = ("none", "full", "selective")
STARTS = torch.tensor([[0] * 9 + [9] * 11, [0] * 20])


def gradients(model: LoopCoder, checkpointing: Checkpointing, scale: float = 1.0) -> dict[str, Tensor]:
    model.second_pass_scale = scale
    hidden = model(make_ids(2, 20), document_starts=STARTS, checkpointing=checkpointing)
    model.logits(hidden).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("config", [SHAPE, LOOPED, THREE_LOOPS], ids=["dense", "two loops", "three loops"])
def test_gradients_have_the_same_bits(config: ModelConfig, backend: str, dtype: torch.dtype) -> None:
    found = []
    for checkpointing in ALL:
        model = make_model(config, dtype)
        model.attention_backend = backend
        found.append(gradients(model, checkpointing, scale=0.5))
    assert found[0].keys() == dict(make_model(config).named_parameters()).keys() - {"lm_head.weight"} | (
        set() if config.tie_word_embeddings else {"lm_head.weight"}
    )
    for name, value in found[0].items():
        assert value.any(), name
        assert torch.equal(value, found[1][name]), name
        assert torch.equal(value, found[2][name]), name


def test_frozen_weights_and_accumulated_passes() -> None:
    found = []
    for checkpointing in ALL:
        model = make_model(LOOPED)
        model.layers[0].input_layernorm.weight.requires_grad_(False)
        model.layers[1].mlp.gate_proj.weight.requires_grad_(False)
        gradients(model, checkpointing)
        found.append(gradients(model, checkpointing))
    assert "layers.0.input_layernorm.weight" not in found[0]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())


@pytest.mark.parametrize("config", [SHAPE, LOOPED], ids=["dense", "looped"])
def test_memory_lies_between_nothing_and_everything(config: ModelConfig) -> None:
    """After the forward pass, and at the peak; and afterwards nothing is left, without a collection of cycles."""
    model, ids = make_model(config.model_copy(update={"num_hidden_layers": 6})), make_ids(2, 64)
    kept: dict[str, int] = {}
    peaks: dict[str, int] = {}
    model(ids).sum().backward()  # what is made once, and the gradients
    gc.collect()
    gc.disable()
    try:
        for checkpointing in ALL:
            with LiveBytes() as live:
                views = [x.detach() for p in model.parameters() for x in (p, p.grad) if x is not None]
                before = live.now
                loss = model(ids, checkpointing=checkpointing).sum()
                kept[checkpointing] = live.now - before
                loss.backward()
                peaks[checkpointing] = live.peak - before
                del loss
                assert live.now == before
                del views
    finally:
        gc.enable()
    assert kept["full"] < kept["selective"] < 0.8 * kept["none"]
    assert peaks["full"] < peaks["selective"] < 0.9 * peaks["none"]


def test_no_product_and_no_attention_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"none": 0, "full": 0, "selective": 0}
    flops = {}
    for checkpointing in ALL:
        for name in ("causal_attention", "gated_attention"):
            real = getattr(cpu, name)

            def counted(*args, real=real, checkpointing=checkpointing):
                calls[checkpointing] += 1
                return real(*args)

            monkeypatch.setattr(cpu, name, counted)
        with FlopCounterMode(display=False) as counter:
            gradients(make_model(LOOPED), checkpointing)
        flops[checkpointing] = counter.get_total_flops()
        monkeypatch.undo()
    assert calls["selective"] == calls["none"] == 2 * SHAPE.num_hidden_layers
    assert calls["full"] == 2 * calls["none"]
    assert flops["selective"] == flops["none"] < flops["full"]


def test_cheap_work_runs_once_more_and_only_where_gradients_are_asked_for() -> None:
    made = []

    def make(x: Tensor) -> Tensor:
        made.append(torch.is_grad_enabled())
        return x.exp()

    def use(x: Tensor) -> Tensor:
        return x @ weight + (x[:, :2] @ weight[:2]) * x.transpose(0, 1)[1:3].sum()

    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    plain = recomputed(make, (x,), use)
    expected = torch.autograd.grad(plain.sum(), (x, weight))
    made.clear()
    with selectively():
        output = recomputed(make, (x,), use)
        with torch.no_grad():
            assert torch.equal(recomputed(make, (x,), use), plain)
    assert torch.equal(output, plain)
    found = torch.autograd.grad(output.sum(), (x, weight))
    assert made == [True, False, True]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_evaluation_under_selective_checkpointing() -> None:
    model, ids = make_model(LOOPED), make_ids(1, 12)
    with torch.no_grad():
        assert torch.equal(model(ids, checkpointing="selective"), model(ids))
