"""The looped decoder: against a plain second writing of it, its gradients, packed rows, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.model.config import Checkpointing, ModelConfig, preset
from codeflow.model.looped import LoopCoder
from tests.model.by_hand import by_hand
from tests.model.shapes import SHAPE, changed, make_ids, make_model

LOOPED = changed(loop_num=2, loop_window_size=6)


@pytest.mark.parametrize("config", [SHAPE, LOOPED, changed(loop_num=3, loop_window_size=2)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
@torch.no_grad()
def test_forward_is_the_specification(config: ModelConfig, backend: str) -> None:
    model, ids = make_model(config), make_ids(1, 11)
    expected = by_hand(model, ids[0])
    model.attention_backend = backend
    torch.testing.assert_close(model.double().logits(model(ids))[0], expected, rtol=1e-11, atol=1e-11)
    single = make_model(config)
    single.attention_backend = backend
    assert float((single.logits(single(ids))[0] - expected).abs().max() / expected.abs().max()) < 5e-6


@torch.no_grad()
def test_packed_documents_equal_documents_alone() -> None:
    model, ids = make_model(LOOPED, torch.float64), make_ids(2, 20)
    starts = torch.tensor([[0] * 9 + [9] * 11, [0] + [1] * 2 + [3] * 17])
    packed = model(ids, document_starts=starts)
    for row, begin, end in ((0, 0, 9), (0, 9, 20), (1, 0, 1), (1, 1, 3), (1, 3, 20)):
        torch.testing.assert_close(packed[row, begin:end], model(ids[row : row + 1, begin:end])[0])
    positions = torch.arange(20)[None] - starts
    torch.testing.assert_close(model(ids, positions, starts), packed)


def _first_loop_gradient(model: LoopCoder, ids: Tensor, checkpointing: Checkpointing, detach: bool) -> Tensor:
    """Gradient of the key projection of layer 0, with K1 and V1 of every layer detached or not."""
    model.zero_grad()
    if detach:
        for block in model.layers:
            forward = type(block).forward

            def without(x, turn, documents, backend, kv=None, scale=1.0, block=block, forward=forward):
                kv = None if kv is None else tuple(part.detach() for part in kv)
                return forward(block, x, turn, documents, backend, kv, scale)

            block.forward = without  # type: ignore[method-assign]
    weights = torch.linspace(-1, 1, model.config.hidden_size, dtype=torch.float64)
    (model(ids, checkpointing=checkpointing) * weights).sum().backward()
    gradient = model.get_parameter("layers.0.self_attn.k_proj.weight").grad
    assert gradient is not None
    return gradient.clone()


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
def test_the_second_loops_gradient_flows_into_the_first(checkpointing: Checkpointing) -> None:
    """Against finite differences; detaching K1 and V1 must miss them."""
    model, ids = make_model(LOOPED, torch.float64), make_ids(2, 15)
    parameter = model.get_parameter("layers.0.self_attn.k_proj.weight")
    gradient = _first_loop_gradient(model, ids, checkpointing, detach=False)
    direction = torch.randn(parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = torch.linspace(-1, 1, model.config.hidden_size, dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(direction, alpha=sign * 1e-5)
            values.append(float((model(ids) * weights).sum()))
            parameter.sub_(direction, alpha=sign * 1e-5)
    slope = (values[0] - values[1]) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6)
    detached = _first_loop_gradient(model, ids, checkpointing, detach=True)
    assert float((detached * direction).sum()) != pytest.approx(slope, rel=1e-2)


def test_initialisation_is_a_function_of_seed_and_name() -> None:
    wide = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}
    dense, looped = LoopCoder(changed(**wide), seed=3), LoopCoder(changed(**wide, loop_num=2), seed=3)
    assert torch.equal(dense.embed_tokens.weight, looped.embed_tokens.weight)
    assert not torch.equal(dense.embed_tokens.weight, LoopCoder(changed(**wide), seed=4).embed_tokens.weight)
    for model, n_additions in ((dense, 4), (looped, 8)):
        spread = model.config.initializer_range
        assert float(model.get_parameter("layers.0.self_attn.q_proj.weight").detach().std()) == pytest.approx(
            spread, rel=0.1
        )
        residual = float(model.get_parameter("layers.1.mlp.down_proj.weight").detach().std())
        assert residual == pytest.approx(spread / n_additions**0.5, rel=0.1)
    assert not looped.get_parameter("layers.1.gate_projection.weight").any()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "num_attention_heads=6 is not divisible"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"loop_window_size": 0}, "loop_window_size=0"),
        ({"loop_num": 0}, "loop_num=0"),
        ({"vocab_size": -1}, "vocab_size=-1"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ({"attention_bias": True}, "attention_bias"),
    ],
)
def test_wrong_shapes_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(ModelConfig, SHAPE.model_dump() | fields)


def test_other_bad_input() -> None:
    with pytest.raises(UserError, match="a row of 65 tokens exceeds max_position_embeddings=64"):
        LoopCoder(SHAPE)(make_ids(1, 65))
    with pytest.raises(UserError, match="vocab_size=50 is smaller than the tokenizer's 51 ids"):
        SHAPE.check_vocabulary(51)
    with pytest.raises(UserError, match=r"no model preset '40'; did you mean '40b'\?"):
        preset("40")
