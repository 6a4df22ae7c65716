"""Counts against the built model, against torch's own counter, and against the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from codeflow.model.config import preset
from codeflow.model.decode import Decoder
from codeflow.model.flops import cache_bytes, count_parameters, decode_flops, forward_flops, training_flops
from codeflow.model.kv_cache import BLOCK_TOKENS, blocks_of
from codeflow.model.looped import LoopCoder
from tests.model.shapes import changed, make_ids, make_model

RESEARCH = [
    changed(loop_num=2, research={"gate_per_element": per_element, "gate_input": source})
    for per_element in (False, True)
    for source in ("query_before_rope", "hidden")
]
SHAPES = [changed(), changed(tie_word_embeddings=True), changed(loop_num=3, loop_window_size=5)]


@pytest.mark.parametrize("config", [*SHAPES, *RESEARCH])
def test_parameters_are_those_of_the_built_model(config) -> None:
    assert count_parameters(config).total == sum(p.numel() for p in LoopCoder(config).parameters())


@pytest.mark.parametrize(
    ("name", "exact"),
    [
        ("7b", 7_612_810_240),
        ("14b", 14_439_183_360),
        ("40b", 39_794_283_520),
        ("loop_40b", 39_794_283_520 + 80 * 40 * 129),
    ],
)
def test_published_sizes_on_the_meta_device(name: str, exact: int) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = LoopCoder(config)
    assert sum(p.numel() for p in model.parameters()) == count_parameters(config).total == exact


@pytest.mark.parametrize("config", [changed(), changed(loop_num=3, loop_window_size=5)])
@torch.no_grad()
def test_operations_are_those_torch_counts(config) -> None:
    """The reference back end makes whole T * T products; the rest must agree to the operation."""
    length = 12
    model, ids = make_model(config), make_ids(1, length)
    model.attention_backend = "reference"
    with FlopCounterMode(display=False) as counter:
        model.logits(model(ids))
    heads = config.num_attention_heads * config.head_dim
    attended = 4 * config.num_hidden_layers * heads
    square = attended * (2 * config.loop_num - 1) * length**2
    window = config.loop_window_size
    local = sum(min(i + 1, window) for i in range(length))
    exact = attended * (config.loop_num * length * (length + 1) // 2 + (config.loop_num - 1) * local)
    gates = 2 * length * (config.loop_num - 1) * config.num_hidden_layers * heads
    counted = counter.get_total_flops()
    assert forward_flops(config, length) - exact - gates == pytest.approx(counted - square, abs=gates)
    assert training_flops(config, length) == 3 * forward_flops(config, length)
    assert training_flops(config, length, recomputed=True) == 4 * forward_flops(config, length)


@pytest.mark.parametrize("config", SHAPES)
def test_decoding_a_row_costs_its_forward_pass(config) -> None:
    assert sum(decode_flops(config, i) for i in range(17)) == forward_flops(config, 17)


@pytest.mark.parametrize("capacity", [3, 5, 40])
def test_cache_bytes_are_those_allocated(capacity: int) -> None:
    config = changed(loop_num=3, loop_window_size=5)
    cache = Decoder(make_model(config), capacity, n_rows=1, pool_tokens=capacity).cache
    whole_blocks = cache_bytes(config, blocks_of(capacity) * BLOCK_TOKENS, item_bytes=4)
    assert cache.global_bytes == whole_blocks.first
    assert cache.local_bytes == cache_bytes(config, capacity, item_bytes=4).later


def test_the_released_loop_model_at_full_context() -> None:
    """40 GB of global cache at 131,072 tokens, 20 MB of local: 80 layers, 8 heads of 128, bf16, window 64."""
    found = cache_bytes(preset("loop_40b"), 131072)
    assert (found.first, found.later) == (131072 * 327680, 64 * 327680)
