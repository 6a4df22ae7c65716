"""Decoding over caches equals the whole forward pass: token by token, in chunks, ragged, for every kind of window."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor

from codeflow.core.processor import has_avx512
from codeflow.model import decode
from codeflow.model.compiled_step import RowsStep, WholeStep
from codeflow.model.decode import Decoder
from codeflow.model.kv_cache import BLOCK_TOKENS
from tests.model.shapes import changed, make_ids, make_model

LENGTH = 20
DENSE = changed()
WINDOWS = [changed(loop_num=2, loop_window_size=window) for window in (1, 2, 7, 19, 20, 21, 60)]
DEEP = changed(loop_num=4, loop_window_size=5, num_key_value_heads=4)


@pytest.fixture(params=["packed", "panels"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the weights of several rows lie, whatever is quicker here."""
    if request.param == "panels" and not has_avx512():
        pytest.skip("products in panels are for AVX-512, which is not here")
    monkeypatch.setattr(decode, "choose_form", lambda blocks, head: request.param)
    return request.param


def _relative(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("config", [DENSE, *WINDOWS, DEEP], ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@pytest.mark.parametrize("chunks", [(1,) * 14, (5, 1, 1, 7), (14,), (1, 12, 1)], ids=str)
@torch.no_grad()
def test_decoding_equals_the_forward_pass(config, chunks: tuple[int, ...], compiled: bool) -> None:
    model, ids = make_model(config), make_ids(2, LENGTH)
    exact = model.logits(model(ids))
    decoder = Decoder(model, LENGTH, compiled=compiled)
    logits = [decoder.prefill(ids[:, :6].tolist())[:, None]]
    at = 6
    for size in chunks:
        logits.append(decoder.extend(ids[:, at : at + size]))
        at += size
    assert _relative(torch.cat(logits, 1), exact[:, 5:]) < 5e-6


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)], ids=str)
@pytest.mark.parametrize("config", [DENSE, *WINDOWS[:4], DEEP], ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@torch.no_grad()
def test_a_decoder_of_one_row(config, dtype: torch.dtype, tolerance: float) -> None:
    """It multiplies in compiled functions, on the model's own weights; a step of several tokens does not."""
    model, ids = make_model(config, dtype), make_ids(1, LENGTH)
    exact = model.logits(model(ids)).float()
    decoder = Decoder(model, LENGTH, n_rows=1)
    assert isinstance(decoder._step, WholeStep)
    logits = [decoder.prefill(ids[:, :6].tolist())[:, None]]
    for at, end in [(6, 7), (7, 8), (8, 11), *((at, at + 1) for at in range(11, LENGTH))]:
        logits.append(decoder.extend(ids[:, at:end]))
    assert _relative(torch.cat(logits, 1), exact[:, 5:]) < tolerance


_LOOPS = [(1, 7), (2, 1), (2, 7), (2, 60), (3, 5)]
PANELS = [
    changed(loop_num=n, loop_window_size=w, hidden_size=48, intermediate_size=80, vocab_size=64) for n, w in _LOOPS
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 8e-2)], ids=str)
@pytest.mark.parametrize("config", PANELS, ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@torch.no_grad()
def test_every_form_of_the_weights(config, dtype: torch.dtype, tolerance: float, form: str) -> None:
    """Eleven rows: a tile of eight and three single ones; a step of several tokens in between."""
    model, ids = make_model(config, dtype), make_ids(11, LENGTH) % config.vocab_size
    whole = copy.deepcopy(model).double() if dtype == torch.bfloat16 else model
    exact = whole.logits(whole(ids)).float()
    decoder = Decoder(model, LENGTH, n_rows=11)
    assert isinstance(decoder._step, WholeStep if form == "panels" else RowsStep)
    logits = [decoder.prefill(ids[:, :6].tolist())[:, None]]
    for at, end in [(6, 7), (7, 8), (8, 11), *((at, at + 1) for at in range(11, LENGTH))]:
        logits.append(decoder.extend(ids[:, at:end]))
    assert _relative(torch.cat(logits, 1), exact[:, 5:]) < tolerance


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("config", [DENSE, *WINDOWS[:4], DEEP], ids=lambda c: f"{c.loop_num}x{c.loop_window_size}")
@torch.no_grad()
def test_ragged_rows_equal_rows_alone(config, compiled: bool) -> None:
    model, ids = make_model(config), make_ids(4, LENGTH)
    lengths = [1, 9, 3, 9]
    decoder = Decoder(model, 9 + 8, compiled=compiled)
    logits = [decoder.prefill([row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)])[:, None]]
    for step in range(5):
        logits.append(decoder.extend(torch.stack([ids[i, n + step] for i, n in enumerate(lengths)])[:, None]))
    chunk = torch.stack([ids[i, n + 5 : n + 8] for i, n in enumerate(lengths)])
    found = torch.cat([*logits, decoder.extend(chunk)], 1)
    for i, length in enumerate(lengths):
        exact = model.logits(model(ids[i : i + 1, : length + 8]))[0, length - 1 :]
        assert _relative(found[i], exact) < 5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours(dtype: torch.dtype, form: str) -> None:
    """Not by one bit, where weights are packed: whatever else is decoded, in any order, over any blocks.

    Both read all prompts together, for how attention is cut into products decides the last bits of what is read.
    """
    model, ids = make_model(PANELS[2], dtype), make_ids(9, LENGTH) % PANELS[2].vocab_size
    many = Decoder(model, LENGTH, n_rows=9)
    prompts = [row[: 3 + i] for i, row in enumerate(ids.tolist())]
    rows = many.cache.open(many.read(prompts), [LENGTH] * 9)
    alone = Decoder(model, LENGTH, n_rows=9)
    (row,) = alone.cache.open(alone.read(prompts)[4:5], [LENGTH])
    for step in range(8):
        group = rows[:: -1 if step % 2 else 1]
        new = torch.stack([ids[rows.index(row), 3 + rows.index(row) + step] for row in group])[:, None]
        together = many.step(group, new)[group.index(rows[4]), 0]
        assert torch.equal(together, alone.step([row], ids[4:5, 7 + step : 8 + step])[0, 0])


@torch.no_grad()
def test_samples_share_the_blocks_of_their_prompt() -> None:
    """Rows behind one prompt equal rows that read it each; blocks go back with their last owner."""
    config = changed(loop_num=3, loop_window_size=7, max_position_embeddings=256)
    model, n_prompt = make_model(config), 2 * BLOCK_TOKENS + 5
    ids = make_ids(3, n_prompt + 40)
    ids[:, :n_prompt] = ids[0, :n_prompt]
    exact = model.logits(model(ids))
    decoder = Decoder(model, n_prompt + 40, n_rows=3)
    before = decoder.cache.n_free_blocks
    (prompt,) = decoder.read([ids[0, :n_prompt].tolist()])
    rows = decoder.cache.open([prompt] * 3, [n_prompt + 40] * 3)
    table = decoder.cache.table
    assert (table[rows[0], :2] == table[rows[1], :2]).all()
    assert len({int(table[row, 2]) for row in rows}) == 3
    assert before - decoder.cache.n_free_blocks == 3 + 3 * 2  # the prompt's, and two of each sample's own
    found = torch.cat([decoder.step(rows, ids[:, at : at + 1]) for at in range(n_prompt, n_prompt + 40)], 1)
    assert _relative(found, exact[:, n_prompt:]) < 5e-6
    decoder.cache.release(prompt.blocks)
    for row in rows:
        decoder.cache.close(row)
    assert decoder.cache.n_free_blocks == before
    assert decoder.cache.n_free_rows == 3


@torch.no_grad()
def test_later_loops_take_constant_memory() -> None:
    config = changed(loop_num=3, loop_window_size=8, max_position_embeddings=4096)
    model = make_model(config)
    per_slot = 2 * 2 * 8 * 4 * config.num_hidden_layers  # keys and values, heads, head dim, bytes, layers
    for capacity in (32, 512, 4096):
        cache = Decoder(model, capacity, n_rows=1, pool_tokens=capacity).cache
        assert cache.local_bytes == 2 * 8 * per_slot  # loops x window
        assert cache.global_bytes == capacity * per_slot


def _live_bytes() -> int:
    """Bytes of all tensors that are alive; oneDNN's own layouts, of packed weights, do not tell theirs.

    Of torch's compiler, where another test has used it, subclasses without memory may be left.
    """
    gc.collect()
    kinds = (Tensor, torch.nn.Parameter)
    tensors = [x for x in gc.get_objects() if type(x) in kinds and x.layout == torch.strided]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return sum(storages.values())


def _held_bytes(loop_num: int) -> list[int]:
    """Bytes that decoding a row holds beside its model, around token 40 and around token 32,768."""
    model = make_model(changed(loop_num=loop_num, loop_window_size=16, max_position_embeddings=32768))
    Decoder(model, 64).prefill([[1] * 20])  # masks of this shape are kept
    before = _live_bytes()
    decoder = Decoder(model, 32768, n_rows=1)
    decoder.prefill([[1] * 20])
    held = []
    for start in (20, 32768 - 40):  # what lies between stays zero
        decoder.cache.lengths[:] = start
        for _ in range(40):
            decoder.extend(torch.tensor([[2]]))
        held.append(_live_bytes() - before)
    return held


@torch.no_grad()
def test_at_32k_tokens_the_second_loop_holds_its_window() -> None:
    """Counted over all living tensors: a looped model takes one window more than a dense one, at first and at last."""
    window = 2 * 2 * 2 * 16 * 8 * 4  # keys and values, layers, heads, window, head dim, bytes
    dense, looped = _held_bytes(1), _held_bytes(2)
    assert dense[0] == dense[1] >= 32768 // 16 * window
    assert looped == [dense[0] + window] * 2


@pytest.mark.slow
@torch.no_grad()
def test_a_decode_of_32k_tokens_keeps_its_window() -> None:
    """The second loop's memory is that of its window from the first token to the last, and the last ones are right."""
    config = changed(loop_num=2, loop_window_size=16, max_position_embeddings=32768, num_hidden_layers=1)
    model, ids = make_model(config), make_ids(1, 32768)
    decoder = Decoder(model, 32768, n_rows=1)
    decoder.prefill(ids[:, :32].tolist())
    held = set()
    for at in range(32, 32768):
        logits = decoder.extend(ids[:, at : at + 1])
        if at % 4096 in (32, 4095):
            held.add(_live_bytes())
    assert decoder.cache.local_bytes == 2 * 16 * 2 * 8 * 4  # keys and values, window, heads, head dim, bytes
    assert len(held) == 1
    assert _relative(logits[:, 0], model.logits(model(ids)[:, -1])) < 2e-5


@pytest.mark.parametrize("wrong", ["window + 1", "second loop scaled", "gate before rope"])
@torch.no_grad()
def test_the_comparison_sees_known_mistakes(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each public mistake, made in decoding only, must fail the comparison above."""
    config, ids = WINDOWS[2], make_ids(2, LENGTH)
    model = make_model(config)
    exact = model.logits(model(ids))[:, -1]
    if wrong == "window + 1":
        model.config = changed(loop_num=2, loop_window_size=8)
    elif wrong == "gate before rope":
        for block in model.layers:
            gate = block.gate_projection
            monkeypatch.setattr(gate, "forward", lambda q, gate=gate: (q.roll(1, -1) * gate.weight).sum(-1) + gate.bias)
    else:
        monkeypatch.setattr(model, "second_pass_scale", 0.9)
    decoder = Decoder(model, LENGTH, compiled=wrong != "gate before rope")
    decoder.prefill(ids[:, :6].tolist())
    for at in range(6, LENGTH):
        found = decoder.extend(ids[:, at : at + 1])[:, 0]
    assert _relative(found, exact) > 1e-3
