"""What a process holds on a mesh, and models that fit no mesh. The other processes are torch's fake ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import Placed, _MixedWhole, _room_for_gradient, place
from codeflow.parallel.plan import Layout, PlanConfig, memory, traffic
from codeflow.parallel.traced import Sent, local_bytes, one_of
from codeflow.train.losses import NextToken, Objective
from tests.parallel.measure import ones, sent_by_axis

N_RANKS = 8
SHAPE = ModelConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=8,
    head_dim=8,
    max_position_embeddings=64,
    loop_num=2,
    loop_window_size=1,
)


@pytest.fixture(autouse=True)
def fake_world() -> Iterator[None]:
    """Eight ranks of which this process is the first; what they would send is nowhere."""
    with one_of(N_RANKS, 0):
        yield


def placed(config: MeshConfig, **changes: Any) -> Placed:
    with world(config) as here:
        model = LoopCoder(ModelConfig.model_validate({**SHAPE.model_dump(), **changes}))
        objective = Objective(model, NextToken())
        return place(model, objective, model.layers, here.mesh, torch.float32, config)


@pytest.mark.parametrize(
    "axes",
    [{}, {"data": 2}, {"context": 4}, {"tensor": 8}, {"context": 2, "tensor": 2}, {"data": 2, "tensor": 4}],
    ids=str,
)
def test_memory_falls_as_planned(axes: dict[str, int]) -> None:
    config = MeshConfig.model_validate(axes)
    data, shard, context, tensor = config.sizes(N_RANKS)
    layout = Layout(data=data, fsdp=shard, cp=context, tp=tensor)
    plan = PlanConfig(model=SHAPE, gpus=N_RANKS, layout=layout, context_tokens=64)
    (planned,) = (part.n_bytes for part in memory(plan) if part.name == "masters (fp32)")
    assert local_bytes(list(placed(config).masters.values())) == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("axes", [{}, {"context": 8}, {"tensor": 8}, {"context": 2, "tensor": 2}], ids=str)
def test_bytes_sent_are_those_of_the_plan(axes: dict[str, int], checkpointing: Checkpointing) -> None:
    """Of one pass, by axis; the plan leaves out sums of a number per token or per channel."""
    config = MeshConfig.model_validate({**axes, "data": 1})
    _, shard, context, tensor = config.sizes(N_RANKS)
    plan = PlanConfig(
        model=SHAPE,
        gpus=N_RANKS,
        layout=Layout(fsdp=shard, cp=context, tp=tensor),
        context_tokens=64,
        precision="fp32",
        checkpointing=checkpointing,
    )
    planned = traffic(plan)
    found = sent_by_axis(plan, config)
    assert found["fsdp"] == pytest.approx(planned.fsdp, rel=0.01)
    assert found["cp"] == pytest.approx(planned.cp, rel=0.01)
    assert found["tp"] == pytest.approx(planned.tp, rel=0.02)


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize(
    ("axes", "changes"),
    [
        ({"context": 8}, {}),
        ({"context": 8}, {"loop_num": 1}),
        ({"context": 4, "tensor": 2}, {"loop_num": 3, "loop_window_size": 20}),
        ({"context": 2}, {"num_key_value_heads": 2, "research": {"gate_per_element": True}}),
    ],
    ids=str,
)
def test_bytes_exchanged_for_heads_are_exactly_those_of_the_plan(
    axes: dict[str, int], changes: dict[str, Any], checkpointing: Checkpointing
) -> None:
    config = MeshConfig.model_validate({**axes, "context_exchange": "all_to_all"})
    _, shard, context, tensor = config.sizes(N_RANKS)
    plan = PlanConfig(
        model=ModelConfig.model_validate({**SHAPE.model_dump(), **changes}),
        gpus=N_RANKS,
        layout=Layout(fsdp=shard, cp=context, tp=tensor),
        context_tokens=64,
        precision="fp32",
        checkpointing=checkpointing,
        context_exchange="all_to_all",
    )
    found, planned = sent_by_axis(plan, config), traffic(plan)
    assert found["cp"] == planned.cp > 0
    assert found["fsdp"] == pytest.approx(planned.fsdp, rel=0.01)
    assert found["tp"] == pytest.approx(planned.tp, rel=0.02)


@pytest.mark.parametrize(("regather", "gathers"), [(True, [9, 9, 9]), (False, [3, 0, 3])])
def test_weights_are_gathered_once_per_step(regather: bool, gathers: list[int]) -> None:
    """Two layers that run twice, forward and backward, and the root: in a first pass, a second, and after an update."""
    config = MeshConfig(regather=regather)
    with world(config) as here:
        model = LoopCoder(SHAPE)
        objective = Objective(model, NextToken())
        placed = place(model, objective, model.layers, here.mesh, torch.float32, config)
        found = []
        for _ in range(3):
            with Sent() as sent:
                objective(ones(1, 64), 1.0).backward()
            found.append(sent.n_calls["_allgather_base_"])
            if len(found) == 2:
                placed.publish()
    assert found == gathers


@pytest.mark.parametrize(
    ("axes", "changes", "message"),
    [
        ({"tensor": 8}, {"num_key_value_heads": 4}, "mesh.tensor=8 does not divide num_key_value_heads=4"),
        ({"tensor": 4}, {"vocab_size": 510}, "mesh.tensor=4 does not divide vocab_size=510"),
        ({"tensor": 2}, {"research": {"shift": True}}, "research.shift moves .* mesh.tensor"),
        ({"context": 2}, {"research": {"shift": True}}, "research.shift moves .* mesh.context"),
        (
            {"context": 8, "context_exchange": "all_to_all"},
            {"num_key_value_heads": 4},
            "mesh.context=8 does not divide num_key_value_heads=4, which .*; use a divisor of it, or .*=ring",
        ),
        (
            {"context": 4, "tensor": 2, "context_exchange": "all_to_all"},
            {"num_key_value_heads": 4},
            "mesh.context=4 does not divide num_key_value_heads=4 / mesh.tensor=2, which",
        ),
        ({"context": 3}, {}, "needs 6 processes, 8 are running"),
    ],
)
def test_what_does_not_fit_is_refused(axes: dict[str, int], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        placed(MeshConfig.model_validate(axes), **changes)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_room_is_made_for_gradients(precision: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the embedding's is made, and before each is handed to its master; without a backward pass, never."""
    calls: list[int] = []
    monkeypatch.setattr("codeflow.parallel.place.make_room", calls.append)
    model = LoopCoder(SHAPE)
    model.embed_tokens.register_forward_hook(_room_for_gradient)
    if precision == torch.bfloat16:
        _MixedWhole(model, precision)
    with torch.no_grad():
        model(torch.zeros((1, 8), dtype=torch.int64))
    assert not calls
    model.lm_head(model(torch.zeros((1, 8), dtype=torch.int64))).sum().backward()
    words, n_bytes = SHAPE.vocab_size * SHAPE.hidden_size, 4 if precision == torch.float32 else 2
    assert calls.count(n_bytes * words) >= 1
    assert calls.count(4 * words) == (1 if precision == torch.float32 else 2)


def test_a_gradient_handed_over_at_the_end_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a second pass, which is added; nothing is handed over before the last gradient is made."""
    found: list[dict[str, torch.Tensor]] = []
    for spares in (False, True):
        monkeypatch.setattr("codeflow.parallel.place.spares", lambda _, spares=spares: spares)
        model = LoopCoder(SHAPE, seed=1)
        masters = _MixedWhole(model, torch.bfloat16).masters
        early: list[bool] = []
        model.embed_tokens.weight.register_hook(
            lambda _, some=masters, seen=early: seen.append(some["lm_head.weight"].grad is not None)
        )
        for ids in ([[5, 6, 7]], [[8, 9, 5]]):
            model.lm_head(model(torch.tensor(ids))).float().sum().backward()
            assert all(parameter.grad is None for parameter in model.parameters())
        assert early[0] != spares
        found.append({name: master.grad for name, master in masters.items() if master.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
