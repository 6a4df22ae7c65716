"""Our model against the logits that mlx-lm gave for the same exported directories (scripts/make_oracle_goldens.py).

Each known mistake of public implementations, made on purpose, must break the agreement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from codeflow.model import rope
from codeflow.model.attention import GateProjection, SelfAttention
from codeflow.model.decode import Decoder
from codeflow.model.huggingface import load
from codeflow.model.looped import LoopCoder

GOLDENS = Path(__file__).parent / "goldens"
SHAPES = sorted(path.name for path in GOLDENS.iterdir())
WINDOWS = (1, 3, 7, 19, 20, 21, 64)
TOLERANCE = 5e-5


def _model(shape: str, window: int, dtype: torch.dtype = torch.float32) -> LoopCoder:
    model = load(GOLDENS / shape, dtype)
    model.config = model.config.model_copy(update={"loop_window_size": window})
    for block in model.layers:
        block.self_attn.config = model.config
    return model


def _golden(shape: str, window: int) -> tuple[Tensor, Tensor]:
    stored = load_file(GOLDENS / shape / "mlx_lm.safetensors")
    return stored["ids"], stored[f"{window}/prefill"]


def _whole(model: LoopCoder, ids: Tensor) -> Tensor:
    return model.logits(model(ids))


def _by_chunks(*chunks: int) -> Callable[[LoopCoder, Tensor], Tensor]:
    def run(model: LoopCoder, ids: Tensor) -> Tensor:
        """Logits from the end of the first chunk on."""
        decoder = Decoder(model, ids.shape[1])
        parts, at = [decoder.prefill(ids[:, : chunks[0]].tolist())[:, None]], chunks[0]
        for size in chunks[1:]:
            parts.append(decoder.extend(ids[:, at : at + size]))
            at += size
        return torch.cat(parts, dim=1)

    return run


def _ragged(model: LoopCoder, ids: Tensor) -> Tensor:
    """Both rows in one batch with a third, shorter one; only the last tokens are compared."""
    decoder = Decoder(model, ids.shape[1])
    decoder.prefill([ids[0, :15].tolist(), ids[1, :15].tolist(), ids[1, :4].tolist()])
    for at in range(15, 20):
        logits = decoder.extend(torch.stack([ids[0, at], ids[1, at], ids[1, at - 11]])[:, None])
    return logits[:2]


PATHS = {
    "whole": _whole,
    "tokens": _by_chunks(*[1] * 20),
    "prompt then tokens": _by_chunks(6, *[1] * 14),
    "chunks": _by_chunks(6, 5, 1, 1, 7),
    "ragged": _ragged,
}


def _difference(model: LoopCoder, shape: str, window: int, path: str = "whole") -> float:
    ids, expected = _golden(shape, window)
    with torch.no_grad():
        found = PATHS[path](model, ids)
    return float((found - expected[:, -found.shape[1] :]).abs().max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("path", PATHS)
def test_all_paths_agree_with_mlx_lm(shape: str, window: int, path: str) -> None:
    assert _difference(_model(shape, window), shape, window, path) < TOLERANCE


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_back_ends_agree_with_mlx_lm(window: int, backend: str) -> None:
    model = _model("grouped", window)
    model.attention_backend = backend
    assert _difference(model, "grouped", window) < TOLERANCE


def _window(change: int) -> Callable[[LoopCoder, pytest.MonkeyPatch], None]:
    def mutate(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
        model.config = model.config.model_copy(update={"loop_window_size": 7 + change})
        for block in model.layers:
            block.self_attn.config = model.config

    return mutate


def _gate_before_rope(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    project, gate, seen = SelfAttention.project, GateProjection.forward, {}

    def remembering(self: SelfAttention, x: Tensor, turn: rope.Rotation) -> tuple[Tensor, ...]:
        seen["q"] = self.q_proj(x).unflatten(-1, (-1, self.config.head_dim))
        return project(self, x, turn)

    patch.setattr(SelfAttention, "project", remembering)
    patch.setattr(GateProjection, "forward", lambda self, q: gate(self, seen["q"]))


def _norm_between_loops(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    block = model.layers[0]
    forward, project = block.forward, block.self_attn.project

    def normed(x: Tensor, turn, documents, backend, kv=None, scale=1.0):
        return forward(x if kv is None else model.norm(x), turn, documents, backend, kv, scale)

    assert project is not None
    patch.setattr(block, "forward", normed)


def _gates_lost(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    for name, parameter in model.named_parameters():
        if "gate_projection" in name:
            parameter.data.zero_()


def _gate_inverted(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    for name, parameter in model.named_parameters():
        if "gate_projection" in name:
            parameter.data.neg_()


def _embedding_added(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    block, first = model.layers[0], {}
    forward = block.forward

    def added(x: Tensor, turn, documents, backend, kv=None, scale=1.0):
        if kv is None:
            first["x"] = x
        return forward(x if kv is None else x + first["x"], turn, documents, backend, kv, scale)

    patch.setattr(block, "forward", added)


def _interleaved_rope(model: LoopCoder, patch: pytest.MonkeyPatch) -> None:
    def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        first, second = x[..., ::2], x[..., 1::2]
        return torch.stack([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(-2)

    patch.setattr(rope, "_turn", turn)


MUTATIONS = {
    "window one too wide": _window(1),
    "window one too narrow": _window(-1),
    "gate before rope": _gate_before_rope,
    "norm between loops": _norm_between_loops,
    "gates lost": _gates_lost,
    "gate inverted": _gate_inverted,
    "embedding added": _embedding_added,
    "interleaved rope": _interleaved_rope,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MUTATIONS)
def test_mistakes_are_seen(name: str, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(shape, 7)
    assert _difference(model, shape, 7) < TOLERANCE
    MUTATIONS[name](model, monkeypatch)
    assert _difference(model, shape, 7) > 20 * TOLERANCE


def test_a_ring_one_slot_too_large_is_seen() -> None:
    """The mistake of one public decoder: window + 1 keys while decoding, prefill right."""
    ids, expected = _golden("grouped", 7)
    decoder = Decoder(_model("grouped", 8), 20)  # the prompt is shorter than either window
    with torch.no_grad():
        decoder.prefill(ids[:, :6].tolist())
        for at in range(6, 20):
            logits = decoder.extend(ids[:, at : at + 1])[:, 0]
    assert float((logits - expected[:, -1]).abs().max()) > 20 * TOLERANCE
