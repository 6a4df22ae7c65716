"""Norm and SwiGLU have torch's results and gradients, in blocks or not, and keep their inputs alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import rms_norm as torch_rms_norm
from torch.nn.functional import silu

from codeflow.model.elementwise import rms_norm, swiglu

EPSILON = 1e-6
SHAPES = [(1, 1, 8), (3, 5, 320), (2, 700, 872), (1, 3, 200_000)]  # within one block, in several, and wider than one


def inputs(*shapes: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def kept_bytes(make: Callable[[], Tensor]) -> int:
    """Return the bytes of all tensors that the backward pass will read, those of leaves too, each once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = make()
    assert result.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = inputs(shape, shape[-1:], dtype=dtype)
    (gradient,) = inputs(shape, dtype=dtype)
    ours, theirs = rms_norm(x, weight, EPSILON), torch_rms_norm(x, weight.shape, weight, EPSILON)
    assert torch.equal(ours, theirs)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float64: 1e-13}[dtype]
    for one, other in zip(
        torch.autograd.grad(ours, (x, weight), gradient),
        torch.autograd.grad(theirs, (x, weight), gradient),
        strict=True,
    ):
        assert one.dtype == dtype
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_swiglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    gate, up = inputs(shape, shape, dtype=dtype)
    (gradient,) = inputs(shape, dtype=dtype)
    ours, theirs = swiglu(gate, up), silu(gate) * up
    assert torch.equal(ours, theirs)
    pairs = (torch.autograd.grad(result, (gate, up), gradient) for result in (ours, theirs))
    assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))


def test_gradients_of_strided_inputs() -> None:
    x, weight = inputs((40, 6), (6,), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(x[::2], weight, EPSILON), (x, weight))
    gate, up = inputs((12, 8), (8, 12), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda gate, up: swiglu(gate, up.T), (gate, up))


def test_numbers_that_are_none_stay_so() -> None:
    x, weight = inputs((2, 4), (4,), dtype=torch.float32)
    with torch.no_grad():
        x[0, 0] = torch.nan
    normed = rms_norm(x, weight, EPSILON)
    assert normed[0].isnan().all()
    assert normed[1].isfinite().all()
    assert torch.autograd.grad(normed.sum(), weight)[0].isnan().all()


def test_what_is_kept() -> None:
    x, weight = inputs((4, 64, 32), (32,), dtype=torch.bfloat16)
    rows = 4 * 64
    assert kept_bytes(lambda: rms_norm(x, weight, EPSILON)) == x.nbytes + weight.nbytes + rows * 4
    gate, up = inputs((4, 64, 32), (4, 64, 32), dtype=torch.bfloat16)
    assert kept_bytes(lambda: swiglu(gate, up)) == gate.nbytes + up.nbytes


def test_torchs_compiler_gets_torchs_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    x, weight = inputs((2, 4), (4,), dtype=torch.float32)
    assert "RMSNorm" not in type(rms_norm(x, weight, EPSILON).grad_fn).__name__
    assert "SwiGLU" not in type(swiglu(x, x).grad_fn).__name__
