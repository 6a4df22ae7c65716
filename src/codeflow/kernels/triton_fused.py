"""The `triton` back end: global attention, window and gate in one kernel, forward and backward, on accelerators.

Beside the inputs the backward needs one fp32 number per row, head and attention (lse). In fp32 it needs nothing else,
for the result O is alive anyway: with r = rowsum(dO * O) and b = rowsum(dO * B), B recomputed from the window, the
terms are D_B = (1 - g) b and D_A = r - D_B, and the gate logit's gradient is (1 - g)(r - b) = (1 - g) D_A - g D_B. In
16 bits r - b would lose its digits as g goes to 0, so there the global output A is kept as well: 2 bytes an element.

Plain causal attention is the same kernel without the window; the window and gate alone, for a global output that
another library computed, are the same kernel without the global part.

Legend: B rows, T positions, H query heads, G key/value heads, D head dim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.runtime.interpreter import InterpretedFunction

from codeflow.core.errors import UserError
from codeflow.kernels.documents import Documents
from codeflow.kernels.triton_kernels import d_keys_kernel, d_rows_kernel, forward_kernel

INTERPRETED = isinstance(forward_kernel, InterpretedFunction)  # TRITON_INTERPRET=1: on CPU, slowly, for tests
_LOG2_E = 1.4426950408889634
_LONG = 2048  # positions; longer rows are tuned apart from shorter ones
_MAX_HEAD_DIM = 128
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Tiles (BLOCK_M queries, BLOCK_N keys, warps, stages) that the tuner tries on a GPU, once per kind of call.
FORWARD_TILES = ((128, 128, 8, 2), (128, 64, 8, 3), (64, 128, 4, 2), (64, 64, 4, 3), (64, 32, 4, 3))
D_ROWS_TILES = ((128, 64, 8, 2), (128, 32, 8, 3), (64, 64, 4, 2), (64, 32, 4, 3))
D_KEYS_TILES = ((64, 128, 8, 2), (32, 128, 8, 2), (32, 128, 4, 3), (64, 64, 4, 2), (32, 64, 4, 3))


def _tuned(kernel: Any, tiles: tuple[tuple[int, int, int, int], ...]) -> Any:
    if INTERPRETED:
        return kernel
    configs = [triton.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=w, num_stages=s) for m, n, w, s in tiles]
    return triton.autotune(configs, key=["OPTIONS"])(kernel)


_FORWARD = _tuned(forward_kernel, FORWARD_TILES)
_D_ROWS = _tuned(d_rows_kernel, D_ROWS_TILES)
_D_KEYS = _tuned(d_keys_kernel, D_KEYS_TILES)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, documents: Documents | None) -> Tensor:
    """Causal attention within documents: q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D)."""
    return _apply(_Inputs(q, k, v), _Sight.of(documents))


def gated_attention(
    q: Tensor,
    global_kv: tuple[Tensor, Tensor],
    local_kv: tuple[Tensor, Tensor],
    gate_logits: Tensor,
    documents: Documents | None,
    window: int,
    strict: bool = False,
) -> Tensor:
    """Attention of a later loop; see `dispatch.gated_attention`."""
    return _apply(_Inputs(q, *global_kv, *local_kv, gate_logits), _Sight.of(documents, window, strict))


def window_and_gate(
    global_output: Tensor,
    q: Tensor,
    local_kv: tuple[Tensor, Tensor],
    gate_logits: Tensor,
    documents: Documents | None,
    window: int,
    strict: bool = False,
) -> Tensor:
    """Return g * global_output + (1 - g) * window(q, K2, V2) for a global output (B, T, H, D) that is given."""
    inputs = _Inputs(q, None, None, *local_kv, gate_logits, global_output)
    return _apply(inputs, _Sight.of(documents, window, strict))


class _Inputs(NamedTuple):
    q: Tensor
    k1: Tensor | None = None
    v1: Tensor | None = None
    k2: Tensor | None = None
    v2: Tensor | None = None
    gate_logits: Tensor | None = None
    given: Tensor | None = None  # the global output, where another library computed it


@dataclass(frozen=True)
class _Sight:
    """What queries see. `starts` and `ends` (B, T) int32 of each position's document, None for unpacked rows."""

    starts: Tensor | None
    ends: Tensor | None
    window: int
    strict: bool

    @staticmethod
    def of(documents: Documents | None, window: int = 0, strict: bool = False) -> _Sight:
        if documents is None:
            return _Sight(None, None, window, strict)
        return _Sight(*documents.once("edges", lambda: _edges(documents)), window, strict)


def _edges(documents: Documents) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor(documents.lengths, device=documents.starts.device)
    ends = documents.starts + lengths.repeat_interleave(lengths).view_as(documents.starts)
    return documents.starts.to(torch.int32), ends.to(torch.int32)


def _apply(inputs: _Inputs, sight: _Sight) -> Tensor:
    q = inputs.q
    if q.device.type == "cpu" and not INTERPRETED:
        raise UserError("the attention back end 'triton' needs a GPU; use 'cpu', or set TRITON_INTERPRET=1 for tests")
    if q.dtype not in _DTYPES or q.shape[-1] > _MAX_HEAD_DIM:
        raise UserError(
            f"the attention back end 'triton' takes fp32, bf16 or fp16 and head dims up to {_MAX_HEAD_DIM}, "
            f"not {q.dtype} and {q.shape[-1]}; use 'cpu', which runs on every device"
        )
    output = _Fused.apply(*(None if x is None else x.contiguous() for x in inputs), sight)
    assert isinstance(output, Tensor)
    return output


class _Fused(torch.autograd.Function):
    """One launch forward, two backward; see the module's text for what is kept."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, sight = _Inputs(*arguments[:-1]), arguments[-1]
        q = inputs.q
        output = torch.empty_like(q)
        keeps_global = inputs.k2 is not None and inputs.given is None and q.element_size() < 4
        kept = torch.empty_like(q) if keeps_global else inputs.given
        lse = [q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32) for _ in range(2)]
        launch = _Launch(inputs, sight, kept is not None)
        launch.forward(output, q if kept is None else kept, lse)
        ctx.save_for_backward(*inputs, output if kept is None else kept, *lse)
        ctx.sight = sight
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        *saved, mixed, lse1, lse2 = ctx.saved_tensors
        inputs = _Inputs(*saved)
        found = [None if x is None else torch.empty_like(x) for x in inputs]
        keeps_global = inputs.given is not None or (inputs.k2 is not None and inputs.q.element_size() < 4)
        launch = _Launch(inputs, ctx.sight, keeps_global)
        launch.backward(gradients[0].contiguous(), mixed, [lse1, lse2], _Inputs(*found))  # type: ignore[arg-type]
        return *found, None


class _Launch:
    """Grids, sizes and switches of one call."""

    def __init__(self, inputs: _Inputs, sight: _Sight, keeps_global: bool) -> None:
        q, logits = inputs.q, inputs.gate_logits
        self.n_rows, length, n_heads, head_dim = q.shape
        like_keys = inputs.k1 if inputs.k1 is not None else inputs.k2
        assert like_keys is not None
        self.n_kv_heads = like_keys.shape[2]
        self.inputs, self.sight = inputs, sight
        self.sizes = (length, n_heads, n_heads // self.n_kv_heads, sight.window)
        self.scale = head_dim**-0.5 * _LOG2_E
        self.options = (
            0 if logits is None else logits.dim() - 2,  # 0: gate and window: none, 1: gate per head, 2: per element
            inputs.given is None,  # 1: compute the global part
            length > _LONG,  # 2: only tells tuned configurations apart
            sight.starts is not None,  # 3: rows are packed
            int(sight.strict),  # 4: the window leaves out the query's own position
            keeps_global,  # 5: the global output is kept or given
            head_dim,  # 6
            max(16, triton.next_power_of_2(head_dim)),  # 7: head dim of tiles
            "ieee",  # 8: products of fp32 operands are not rounded to tf32
            INTERPRETED,  # 9
        )

    def forward(self, output: Tensor, kept: Tensor, lse: list[Tensor]) -> None:
        """Fill the output, lse, and the kept global output unless it was given."""
        starts = self._or_q(self.sight.starts)
        self._run(_FORWARD, "BLOCK_M", (*map(self._or_q, self.inputs), starts), (output, kept, *lse))

    def backward(self, d_output: Tensor, mixed: Tensor, lse: list[Tensor], found: _Inputs) -> None:
        """Fill the gradients `found`."""
        inputs = tuple(map(self._or_q, self.inputs))
        starts, ends = self._or_q(self.sight.starts), self._or_q(self.sight.ends)
        terms = [torch.empty_like(x) for x in lse]
        d_q, d_k1, d_v1, d_k2, d_v2, d_logits, d_given = map(self._or_q, found)
        rows = (d_q, d_logits, *terms, d_given)
        self._run(_D_ROWS, "BLOCK_M", (*inputs, starts), (d_output, mixed, *lse), rows)
        keys = (d_k1, d_v1, d_k2, d_v2)
        self._run(_D_KEYS, "BLOCK_N", (*inputs[:6], starts, ends), (d_output, *lse, *terms), keys)

    def _or_q(self, x: Tensor | None) -> Tensor:
        """A pointer for every place: kernels do not touch those that their switches leave out."""
        return self.inputs.q if x is None else x

    def _run(self, kernel: Any, tile: str, *tensors: tuple[Tensor, ...]) -> None:
        """Launch one program per tile of BLOCK_M queries and query head, or of BLOCK_N keys and key/value head."""
        n_heads = self.sizes[1] if tile == "BLOCK_M" else self.n_kv_heads

        def grid(chosen: dict[str, Any]) -> tuple[int, int]:
            return -(-self.sizes[0] // chosen[tile]), self.n_rows * n_heads

        blocks = {"BLOCK_M": 16, "BLOCK_N": 16} if INTERPRETED else {}
        kernel[grid](*tensors, self.sizes, self.scale, OPTIONS=self.options, **blocks)
