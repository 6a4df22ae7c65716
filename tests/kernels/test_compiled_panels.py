"""Our product of packed weights against numpy's, for all numbers of rows and panels, and bit by bit against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codeflow.core.processor import has_avx512
from codeflow.kernels.arrays import as_array
from codeflow.kernels.compiled_panels import fits, pack, product

pytestmark = pytest.mark.skipif(not has_avx512(), reason="products in panels are for AVX-512, which is not here")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def _weights(outputs: int, inputs: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    return torch.randn((outputs, inputs), generator=torch.Generator().manual_seed(seed)).to(dtype)


def _multiply(x: np.ndarray, packed: np.ndarray) -> np.ndarray:
    out = np.full((len(x), packed.shape[0] * 16), np.nan, np.float32)
    product(np.ascontiguousarray(x), packed, out)
    return out


@DTYPES
@pytest.mark.parametrize("outputs", [16, 32, 48, 80, 176])
@pytest.mark.parametrize("inputs", [2, 30, 256])
def test_equals_numpy(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    weight = _weights(outputs, inputs, dtype)
    packed, exact = pack([as_array(weight)]), weight.double().numpy()
    for n_rows in (1, 2, 3, 4, 7, 8, 9, 15, 16, 29):
        x = np.random.default_rng(n_rows).standard_normal((n_rows, inputs)).astype(np.float32)
        bound = np.abs(x).astype(np.float64) @ np.abs(exact).T  # of what rounding can add
        assert np.all(np.abs(_multiply(x, packed) - x @ exact.T) <= inputs * 2.0**-24 * bound)


@DTYPES
def test_a_row_is_the_same_to_the_last_bit_in_every_tile(dtype: torch.dtype) -> None:
    x = np.random.default_rng(0).standard_normal((29, 98)).astype(np.float32)
    packed = pack([as_array(_weights(112, 98, dtype))])
    alone = np.concatenate([_multiply(row[None], packed) for row in x])
    for first in range(len(x)):
        for last in range(first + 1, len(x) + 1):
            assert np.array_equal(_multiply(x[first:last], packed), alone[first:last])


@DTYPES
def test_weights_of_one_input_lie_side_by_side(dtype: torch.dtype) -> None:
    some = [as_array(_weights(size, 34, dtype, size)) for size in (24, 16, 40, 16)]
    joined = np.concatenate(some)
    packed = pack(some)
    assert packed.shape == (6, 34, 16)
    for panel in range(6):
        assert np.array_equal(packed[panel], joined[panel * 16 : panel * 16 + 16].T)


def test_broken_numbers_show() -> None:
    x = np.ones((9, 4), np.float32)
    x[3, 2], x[8, 0] = np.nan, np.inf
    out = _multiply(x, pack([np.ones((16, 4), np.float32)]))
    assert np.isnan(out[3]).all()
    assert np.isposinf(out[8]).all()
    assert np.all(np.delete(out, [3, 8], 0) == 4)


@pytest.mark.parametrize("shapes", [[(24, 8)], [(16, 7)], [(16, 8), (8, 8)]], ids=str)
def test_weights_that_do_not_fit(shapes: list[tuple[int, int]]) -> None:
    assert not fits(shapes)
    with pytest.raises(ValueError, match=r"\d\)\] cannot be cut into panels of 16"):
        pack([np.zeros(shape, np.float32) for shape in shapes])
