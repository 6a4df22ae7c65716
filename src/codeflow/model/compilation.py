"""Blocks compiled by `torch.compile`: one graph before attention and one behind it; attention runs as it is.

The parts are functions of the block, so layers of one shape share their code: a dense model compiles two graphs, a
looped one a third for the gates of later loops, and each again where a number that the graph knows changes (the
shape of rows, the scale of a fold's later loops becoming 1, watched loops). Shapes are compiled as they are, never made
symbolic: code depends on what is computed now and not on what was computed before, so a phase that goes on after a
kill has the same bits. Passes without gradients run uncompiled.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import FunctionType
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels.dispatch import Backend
from codeflow.kernels.documents import Documents
from codeflow.model.attention import KeyValue
from codeflow.model.block import Block, Tap, tapped
from codeflow.model.looped import LoopCoder
from codeflow.model.rope import Rotation

_COMPILER = "inductor"


def compile_blocks(model: LoopCoder) -> None:
    """Let every block of `model` compute with compiled code wherever gradients are asked for.

    Raises UserError where torch finds no compiler, before anything is trained.
    """
    _check_compiler(model.embed_tokens.weight.device)
    plain, tapped_ones = (_Parts(_compiled(_before), _compiled(_behind)) for _ in range(2))
    for block in model.layers:
        assert isinstance(block, Block)
        block.forward = _Forward(block, plain, tapped_ones)


def _check_compiler(device: torch.device) -> None:
    x = torch.linspace(0, 1, 64, device=device, requires_grad=True)
    try:
        _compiled(_trial)(x).backward()
    except Exception as error:  # torch has a type of its own for each thing that may be missing
        said = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
        raise UserError(
            f"compile=blocks: torch.compile does not work here ({said}); install a C++ compiler (g++; on a GPU also "
            "Triton), or set compile=none"
        ) from error


def _trial(x: Tensor) -> Tensor:
    return x.sin().square().sum()


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a copy: torch keeps what it compiled, and counts how often, by the code object."""
    function = cast(FunctionType, function)
    own = FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
    return torch.compile(own, fullgraph=True, dynamic=False, backend=_COMPILER)


def _before(block: Block, x: Tensor, turn: Rotation, later: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    gate = block.gate_projection if later else None
    return block.self_attn.prepare(block.input_layernorm(x), turn, gate)


def _behind(block: Block, x: Tensor, mixed: Tensor, scale: Tensor | None) -> Tensor:
    return block.finish(x, block.self_attn.o_proj(mixed.flatten(-2)), scale)


class _Parts(NamedTuple):
    before: Callable[..., Any]
    behind: Callable[..., Any]


class _Forward:
    """Stands in for a block's forward; see `Block.forward`."""

    def __init__(self, block: Block, plain: _Parts, tapped_ones: _Parts) -> None:
        """`tapped_ones` are for blocks with other weights: torch does not look whether an attribute hides one."""
        self._block, self._plain, self._tapped = block, plain, tapped_ones
        self._eager: Callable[..., tuple[Tensor, KeyValue]] = block.forward

    def __call__(
        self,
        x: Tensor,
        turn: Rotation,
        documents: Documents | None,
        backend: Backend,
        global_kv: KeyValue | None = None,
        residual_scale: float = 1.0,
        tap: Tap | None = None,
    ) -> tuple[Tensor, KeyValue]:
        if not torch.is_grad_enabled():
            return self._eager(x, turn, documents, backend, global_kv, residual_scale)
        parts, weights = self._plain, nullcontext()
        if tap is not None:
            parts, weights = self._tapped, tapped(self._block, tap)
        with weights:
            q, k, v, logits = parts.before(self._block, x, turn, global_kv is not None)
            mixed, kv = self._block.self_attn.attend(q, k, v, logits, documents, backend, global_kv)
            scale = None  # a tensor, or each of a ramp's numbers would be compiled
            if residual_scale != 1.0:
                scale = torch.tensor(residual_scale, dtype=torch.promote_types(x.dtype, torch.float32))
            return parts.behind(self._block, x, mixed, scale), kv
