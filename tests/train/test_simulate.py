"""Ranks that do not exist beside ranks that do: memory by the allocator's own account, bytes sent exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from codeflow.core.config import validate
from codeflow.model.config import ModelConfig
from codeflow.parallel.plan import Layout, PlanConfig, activation_bytes, traffic
from codeflow.train.simulate import simulate, traced_step
from tests.ranks import run_ranks

SHAPE = ModelConfig(
    vocab_size=2048,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=32,
    max_position_embeddings=2048,
    loop_num=2,
    loop_window_size=32,
)


def _plan(layout: dict[str, int], **fields: Any) -> PlanConfig:
    sizes = Layout.model_validate(layout)
    tree = {"model": SHAPE.model_dump(), "gpus": sizes.n_ranks, "layout": layout, "context_tokens": 512}
    return validate(PlanConfig, {**tree, "hardware": "cpu", **fields})


def allocated_peak(run: Any) -> tuple[Any, int]:
    """Return what `run` returns, and the most bytes that torch's allocator had given out at one time."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return result, peak


CASES: tuple[tuple[dict[str, int], dict[str, Any]], ...] = (
    ({"fsdp": 2, "cp": 2}, {}),
    ({"fsdp": 2, "tp": 2}, {"precision": "fp32", "checkpointing": "none"}),
    ({"data": 2, "fsdp": 2}, {"matrices": "muon"}),
    ({"fsdp": 2, "cp": 2}, {"context_exchange": "all_to_all", "checkpointing": "none"}),
)


def _measure(folder: Path, trees: list[dict[str, Any]]) -> None:
    for number, tree in enumerate(trees):
        plan = validate(PlanConfig, tree)
        trace, peak = allocated_peak(lambda plan=plan: traced_step(plan))
        found = {"peak": peak, "sent": trace.sent, "n_calls": trace.n_calls}
        (folder / f"{number}_{dist.get_rank()}.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_measured_runs(tmp_path: Path) -> None:
    """Four layouts of four processes."""
    plans = [_plan(layout, **fields) for layout, fields in CASES]
    run_ranks(4, tmp_path, _measure, tmp_path, [plan.model_dump(mode="json") for plan in plans])
    for number, plan in enumerate(plans):
        for rank in range(4):
            found = json.loads((tmp_path / f"{number}_{rank}.json").read_text())
            simulated = simulate(plan, rank, products=True)

            assert simulated.sent == found["sent"]
            assert simulated.n_calls == found["n_calls"]
            assert simulated.peak == pytest.approx(found["peak"], rel=0.1)


@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_one_measured_process(checkpointing: str) -> None:
    fields: dict[str, Any] = {"precision": "fp32", "context_tokens": 256, "checkpointing": checkpointing}
    plan = _plan({}, **fields, model=SHAPE.model_copy(update={"num_hidden_layers": 2}))
    simulated = simulate(plan, products=True)
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        trace, peak = allocated_peak(lambda: traced_step(plan))
    finally:
        dist.destroy_process_group()
    assert simulated.sent == trace.sent
    assert (simulated.masters, simulated.optimizer) == (trace.masters, trace.optimizer)
    assert simulated.peak == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    "layout", [{"fsdp": 8, "cp": 4, "tp": 2}, {"data": 4, "fsdp": 16}, {"fsdp": 16, "tp": 4}], ids=str
)
def test_sixty_four_ranks_send_what_is_planned(layout: dict[str, int]) -> None:
    plan = _plan(layout, model=SHAPE.model_copy(update={"num_hidden_layers": 2}))
    found, planned = simulate(plan, rank=9), traffic(plan)
    assert found.sent["fsdp"] == pytest.approx(planned.fsdp, rel=0.01)
    assert found.sent["data"] == pytest.approx(planned.data, rel=0.02)
    assert found.sent["cp"] == pytest.approx(planned.cp, rel=0.1)
    assert found.sent["tp"] == pytest.approx(planned.tp, rel=0.02)
    assert found.n_calls["_reduce_scatter_base_"] >= 3  # two blocks and the root
    assert not dist.is_initialized()


@pytest.mark.parametrize(("checkpointing", "loop_num"), [("none", 1), ("none", 2), ("full", 2)])
def test_an_exchange_for_heads_sends_and_keeps_what_is_planned(checkpointing: str, loop_num: int) -> None:
    """Bytes exactly; of memory the difference from the ring, in which much else cancels out.

    A window of one token, since the ring also keeps the window's rows of other ranks.
    """
    model = SHAPE.model_copy(update={"loop_num": loop_num, "loop_window_size": 1})
    fields: dict[str, Any] = {"model": model, "precision": "fp32", "checkpointing": checkpointing}
    ring, heads = (
        _plan({"cp": 2, "tp": 2}, context_exchange=exchange, **fields) for exchange in ("ring", "all_to_all")
    )
    found = simulate(heads, rank=3)
    assert found.sent["cp"] == traffic(heads).cp > 0
    assert found.n_calls["alltoall_base_"] > 0
    assert "send" not in found.n_calls
    grown = found.pass_peak - simulate(ring, rank=3).pass_peak
    assert grown == pytest.approx(activation_bytes(heads) - activation_bytes(ring), rel=0.02)


def test_nothing_is_left_behind() -> None:
    """Attention computes again, and storages resize as torch made them."""
    resize = torch.UntypedStorage.resize_
    simulate(_plan({"cp": 2}, model=SHAPE.model_copy(update={"num_hidden_layers": 1}), context_tokens=64))
    assert torch.UntypedStorage.resize_ is resize
    trace = simulate(_plan({"cp": 2}, model=SHAPE.model_copy(update={"num_hidden_layers": 1}), context_tokens=64), 1)
    assert type(torch.zeros(2)) is torch.Tensor
    assert trace.peak > trace.at_rest > trace.masters + trace.optimizer
