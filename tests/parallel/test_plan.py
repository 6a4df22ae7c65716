"""The planner against what a rank really holds and sends, against hand arithmetic, and on bad input."""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.model.config import ModelConfig, preset
from codeflow.model.flops import training_flops
from codeflow.parallel.plan import (
    HARDWARE,
    Layout,
    PlanConfig,
    activation_bytes,
    block_elements,
    make_plan,
    memory,
    parse_layout,
    peak_bytes,
    traffic,
)
from codeflow.train.simulate import simulate
from tests.parallel.measure import measured

SHAPE = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=320,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=512,
    loop_window_size=32,
)
LOOPED = SHAPE.model_copy(update={"loop_num": 2})
STATE = ("masters (fp32)", "optimizer state (fp32)", "gradients (fp32)")


def _plan(model: ModelConfig = SHAPE, **fields: object) -> PlanConfig:
    tree = {"model": model.model_dump(), "context_tokens": 64, "hardware": "cpu"} | fields
    return validate(PlanConfig, tree)


def _bytes(plan: PlanConfig) -> dict[str, int]:
    return {part.name: part.n_bytes for part in memory(plan)}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("model", [SHAPE, LOOPED], ids=["dense", "looped"])
@pytest.mark.parametrize(("precision", "matrices"), [("fp32", "adamw"), ("bf16", "muon")])
def test_one_rank_holds_what_is_planned(model: ModelConfig, precision: str, matrices: str) -> None:
    plan = _plan(model, precision=precision, matrices=matrices, checkpointing="none")
    found, expected = measured(plan), _bytes(plan)
    assert {name: found[name] for name in STATE} == {name: expected[name] for name in STATE}
    assert found["sent"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [SHAPE, LOOPED], ids=["dense", "looped"])
def test_activations(model: ModelConfig, precision: str) -> None:
    plan = _plan(model, precision=precision, checkpointing="none")
    assert measured(plan)["activations"] == pytest.approx(activation_bytes(plan), rel=0.15)


@pytest.mark.parametrize("model", [SHAPE, LOOPED], ids=["dense", "looped"])
def test_activations_of_selective_checkpointing(model: ModelConfig) -> None:
    """The forward pass keeps what is planned but for the one product that is made again later."""
    plan = _plan(model, precision="fp32", checkpointing="selective")
    again = 4 * 64 * model.intermediate_size
    assert measured(plan)["activations"] == pytest.approx(activation_bytes(plan) - again, rel=0.15)


@pytest.mark.parametrize("loop_num", [1, 2, 3])
def test_activations_of_recomputed_blocks(loop_num: int) -> None:
    """The forward pass keeps inputs, and the first loop's keys and values; the block that is recomputed comes later."""
    plan = _plan(SHAPE.model_copy(update={"loop_num": loop_num}), precision="fp32")
    one_block = 4 * 64 * max(block_elements(plan.model, loop) for loop in range(loop_num))
    read_by_loss = 4 * 64 * plan.model.hidden_size  # the last norm's result, which no backward pass reads
    planned = activation_bytes(plan) - one_block - read_by_loss
    assert measured(plan)["activations"] == pytest.approx(planned, rel=0.15)


@pytest.mark.parametrize("checkpointing", ["none", "selective"])
def test_activations_of_tensor_parallel_ranks(checkpointing: str) -> None:
    """What tokens of two blocks add to a simulated rank's peak: heads and columns are divided, gathered norms not."""
    found, planned = [], []
    for n_layers in (1, 3):
        model = SHAPE.model_copy(update={"num_hidden_layers": n_layers})
        for context_tokens in (256, 512):
            fields = {"gpus": 2, "layout": {"tp": 2}, "context_tokens": context_tokens, "checkpointing": checkpointing}
            plan = _plan(model, **fields, precision="fp32", loss_chunk_rows=64)
            found.append(simulate(plan).pass_peak)
            planned.append(peak_bytes(memory(plan)))
    of_blocks = [(peaks[3] - peaks[2]) - (peaks[1] - peaks[0]) for peaks in (found, planned)]
    assert of_blocks[0] == pytest.approx(of_blocks[1], rel=0.02)


def _rank(rank: int, folder: Path, trees: list[dict[str, object]]) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
        found = [measured(validate(PlanConfig, tree)) for tree in trees]
        (folder / f"{rank}.json").write_text(json.dumps(found))
        dist.destroy_process_group()
    except BaseException:
        (folder / f"failure_of_rank_{rank}").write_text(traceback.format_exc())
        os._exit(1)


@pytest.mark.slow
def test_two_ranks_hold_and_send_what_is_planned(tmp_path: Path) -> None:
    """State to 1 % (tensors with an odd number of rows are padded), bytes sent to 1 %."""
    layout = {"gpus": 2, "layout": {"fsdp": 2}}
    plans = [
        _plan(LOOPED, **layout, precision="fp32", matrices="adamw"),
        _plan(SHAPE, **layout, precision="bf16", matrices="muon", checkpointing="none"),
    ]
    context = multiprocessing.get_context("spawn")
    trees = [plan.model_dump(mode="json") for plan in plans]
    ranks = [context.Process(target=_rank, args=(rank, tmp_path, trees)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
    for failure in tmp_path.glob("failure*"):
        raise AssertionError(failure.read_text())
    for rank in range(2):
        for plan, found in zip(plans, json.loads((tmp_path / f"{rank}.json").read_text()), strict=True):
            expected = _bytes(plan)
            for name in STATE:
                assert found[name] == pytest.approx(expected[name], rel=0.01), name
            assert found["sent"] == pytest.approx(traffic(plan).fsdp, rel=0.01)


def test_the_released_loop_model_on_64_devices() -> None:
    """By hand: 39.79 G parameters, an eighth of the matrices per rank, an eighth of that in masters."""
    tree = {"model": preset("loop_40b").model_dump(), "gpus": 64, "context_tokens": 131072}
    plan = validate(PlanConfig, tree | {"layout": {"fsdp": 8, "tp": 8}})
    parts = _bytes(plan)
    assert parts["masters (fp32)"] == pytest.approx(4 * 39.794696e9 / 64, rel=1e-3)
    assert parts["optimizer state (fp32)"] == 2 * parts["masters (fp32)"]
    stream = 2 * 80 * 131072 * 5120 * 2 / 8  # a block's input in bf16, two loops, divided along the sequence
    kept_kv = 80 * 131072 * 2 * 1024 * 2 / 8
    recomputed = 131072 * 2 * ((2 * 5120 + 4 * 5120 + 2 * 1024 + 3 * 27648) / 8 + 2 * 5120)  # norms are gathered
    last_norm = 131072 * 2 * (5120 / 8 + 5120)
    assert parts["activations"] == pytest.approx(stream + kept_kv + recomputed + last_norm, rel=0.01)
    result = make_plan(plan)
    assert result.step_tokens == 8 * 131072
    assert result.step_flops == 8 * training_flops(plan.model, 131072)
    assert result.fits
    assert 0.1 < result.mfu < HARDWARE["h100"].efficiency
    assert result.days == pytest.approx(1e12 / result.step_tokens * result.step_seconds / 86400)
    assert result.cache_bytes_per_sequence == (131072 + 64) * 327680


def test_more_ranks_hold_less_and_a_given_mfu_sets_the_time() -> None:
    sizes = [{"data": 4}, {"fsdp": 4}, {"fsdp": 2, "tp": 2}, {"fsdp": 2, "cp": 2}]
    peaks = [make_plan(_plan(gpus=4, layout=size, context_tokens=512)).peak_bytes for size in sizes]
    assert peaks[0] == max(peaks)
    plan = make_plan(_plan(mfu=0.25, step_tokens=64 * 4, tokens=640))
    assert plan.mfu == pytest.approx(0.25)
    assert plan.step_seconds == pytest.approx(4 * training_flops(SHAPE, 64) / (0.25 * HARDWARE["cpu"].peak["bf16"]))
    assert plan.days == pytest.approx(2.5 * plan.step_seconds / 86400)
    assert traffic(_plan(gpus=2, layout={"data": 2})).data > 0
    assert traffic(_plan(gpus=2, layout={"cp": 2})).cp > 0
    assert traffic(_plan(gpus=2, layout={"tp": 2})).tp > 0


def test_an_exchange_for_heads_by_hand() -> None:
    """4 query and 2 key/value heads of 32, 3 layers, 2 loops, 512 tokens on 2 ranks, bf16, everything recomputed."""
    plan = _plan(LOOPED, gpus=2, layout={"cp": 2}, context_tokens=512, context_exchange="all_to_all")
    ring = plan.model_copy(update={"context_exchange": "ring"})
    half = 512 // 2 // 2  # of a rank's tokens the other one's heads
    assert traffic(plan).cp == 3 * half * 2 * (6 * (4 + 2 + 2 + 4) * 32 + 3 * 4)
    assert traffic(ring).cp == 6 * 4 * 32 * 256 * (3 * 2 + 2 * 4) + 3 * 4 * 32 * 2 * 31 * 3 * 2
    assert activation_bytes(plan) - activation_bytes(ring) == 2 * 256 * 4 * 32  # one block's output, there and here
    slow, fast = make_plan(plan), make_plan(ring)
    assert slow.step_seconds == pytest.approx(fast.step_seconds + slow.traffic.cp / HARDWARE["cpu"].link, rel=1e-3)
    alone = _plan(LOOPED, context_exchange="all_to_all")
    assert make_plan(alone) == make_plan(_plan(LOOPED))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus": 64, "layout": {"fsdp": 7, "tp": 8}}, "fsdp=7 x tp=8 makes 56 ranks, gpus=64; change gpus to 56"),
        ({"gpus": 3, "layout": {"tp": 3}}, "tp=3 does not divide num_attention_heads=4"),
        ({"gpus": 4, "layout": {"tp": 4}}, "tp=4 does not divide num_key_value_heads=2"),
        ({"gpus": 3, "layout": {"cp": 3}}, "cp=3 does not divide context_tokens=64"),
        (
            {"gpus": 4, "layout": {"cp": 4}, "context_exchange": "all_to_all"},
            "cp=4 does not divide num_key_value_heads=2, which context_exchange=all_to_all needs; use a divisor of it",
        ),
        (
            {"gpus": 4, "layout": {"cp": 2, "tp": 2}, "context_exchange": "all_to_all"},
            "cp=2 does not divide num_key_value_heads=2 / tp=2",
        ),
        ({"context_tokens": 513}, "context_tokens=513 exceeds max_position_embeddings=512"),
        ({"hardware": "h10"}, "hardware='h10': no such hardware; did you mean 'h100'?"),
        ({"step_tokens": 65}, "step_tokens=65 is no multiple of the 64 tokens"),
        ({"gpus": 0}, "gpus=0"),
        ({"mfu": 1.5}, "mfu=1.5"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        _plan(**fields)
    assert message in str(error.value)
    assert "(whole)" not in str(error.value)


def test_layouts_are_read_and_refused_by_name() -> None:
    assert parse_layout("fsdp=8, tp=2") == Layout(fsdp=8, tp=2)
    for text, message in (("fspd=8", "did you mean 'fsdp'"), ("fsdp", "no axis=size"), ("tp=x", "tp='x'")):
        with pytest.raises(UserError, match=message):
            parse_layout(text)
