"""Decoding over caches equals the whole forward pass: token by token, in chunks, ragged, for every kind of window."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codeflow.model.decode import Decoder
from tests.model.shapes import changed, make_ids, make_model

LENGTH = 20
DENSE = changed()
WINDOWS = [changed(loop_num=2, loop_window_size=window) for window in (1, 2, 7, 19, 20, 21, 60)]
DEEP = changed(loop_num=4, loop_window_size=5, num_key_value_heads=4)


def _relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("config", [DENSE, *WINDOWS, DEEP], ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@pytest.mark.parametrize("chunks", [(1,) * 14, (5, 1, 1, 7), (14,), (1, 12, 1)], ids=str)
@torch.no_grad()
def test_decoding_equals_the_forward_pass(config, chunks: tuple[int, ...]) -> None:
    model, ids = make_model(config), make_ids(2, LENGTH)
    exact = model.logits(model(ids))
    decoder = Decoder(model, LENGTH)
    logits = [decoder.prefill(ids[:, :6].tolist())[:, None]]
    at = 6
    for size in chunks:
        logits.append(decoder.extend(ids[:, at : at + size]))
        at += size
    assert _relative(torch.cat(logits, 1), exact[:, 5:]) < 5e-6


@pytest.mark.parametrize("config", [DENSE, *WINDOWS[:4], DEEP], ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@torch.no_grad()
def test_ragged_rows_equal_rows_alone(config) -> None:
    model, ids = make_model(config), make_ids(4, LENGTH)
    lengths = [1, 9, 3, 9]
    decoder = Decoder(model, 9 + 8)
    logits = [decoder.prefill([row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)])[:, None]]
    for step in range(5):
        logits.append(decoder.extend(torch.stack([ids[i, n + step] for i, n in enumerate(lengths)])[:, None]))
    chunk = torch.stack([ids[i, n + 5 : n + 8] for i, n in enumerate(lengths)])
    found = torch.cat([*logits, decoder.extend(chunk)], 1)
    for i, length in enumerate(lengths):
        exact = model.logits(model(ids[i : i + 1, : length + 8]))[0, length - 1 :]
        assert _relative(found[i], exact) < 5e-6


@torch.no_grad()
def test_selected_rows_go_on_unchanged() -> None:
    model, ids = make_model(WINDOWS[2]), make_ids(3, LENGTH)
    decoder = Decoder(model, LENGTH)
    decoder.prefill(ids[:, :10].tolist())
    decoder.extend(ids[:, 10:11])
    decoder.select([2, 0, 2])
    found = decoder.extend(ids[[2, 0, 2], 11:12])[:, 0]
    exact = model.logits(model(ids[[2, 0, 2], :12]))[:, -1]
    assert _relative(found, exact) < 5e-6


@torch.no_grad()
def test_later_loops_take_constant_memory() -> None:
    config = changed(loop_num=3, loop_window_size=8, max_position_embeddings=4096)
    model = make_model(config)
    sizes = {}
    for capacity in (16, 512, 4096):
        decoder = Decoder(model, capacity)
        decoder.prefill([[1, 2, 3]])
        assert decoder.cache is not None
        sizes[capacity] = (decoder.cache.global_bytes, decoder.cache.local_bytes)
    per_slot = 2 * 2 * 8 * 4 * config.num_hidden_layers  # keys and values, heads, head dim, bytes, layers
    assert {size[1] for size in sizes.values()} == {2 * 8 * per_slot}  # loops x window
    assert sizes[4096][0] == 4096 * per_slot


@pytest.mark.parametrize("wrong", ["window + 1", "second loop scaled", "gate before rope"])
@torch.no_grad()
def test_the_comparison_sees_known_mistakes(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each public mistake, made in decoding only, must fail the comparison above."""
    config, ids = WINDOWS[2], make_ids(2, LENGTH)
    model = make_model(config)
    exact = model.logits(model(ids))[:, -1]
    decoder = Decoder(model, LENGTH)
    if wrong == "window + 1":
        model.config = decoder.config = changed(loop_num=2, loop_window_size=8)
    elif wrong == "gate before rope":
        for block in model.layers:
            gate = block.gate_projection
            monkeypatch.setattr(gate, "forward", lambda q, gate=gate: (q.roll(1, -1) * gate.weight).sum(-1) + gate.bias)
    else:
        monkeypatch.setattr(model, "second_pass_scale", 0.9)
    decoder.prefill(ids[:, :6].tolist())
    for at in range(6, LENGTH):
        found = decoder.extend(ids[:, at : at + 1])[:, 0]
    assert _relative(found, exact) > 1e-3
