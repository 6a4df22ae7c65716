"""Fingerprints of tensors: a pair of 64-bit sums over (bits, place), to find bits that changed in silence.

Every 32-bit word of a tensor (16 or 8 bits for narrower types) is multiplied with odd keys that belong to its index in
each dim of the whole tensor, and all products are added modulo 2**64. Sums do not depend on order, so the fingerprint
of a tensor is the sum of those of its parts, however it is cut (`offset` says where a part begins), and a sum over
processes is one all-reduce of two integers. Integers have no rounding: CPU, compiled CPU code and accelerators agree.

A change of a single word always changes both sums: the difference is less than 2**32, keys are odd, and an odd number
has an inverse modulo 2**64. Words that change places, and changes of several words, go unseen in one of about 2**64
cases for each sum (multilinear hashing; Carter and Wegman 1979). It is no defence against an adversary.

Legend: R rows (all dims but the last), C words of the last dim.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from codeflow.kernels.arrays import compiled_functions

Pair = tuple[int, int]  # both sums, 0 .. 2**64 - 1
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
_LEAST_ELEMENTS = 1 << 12  # below it loading compiled functions does not pay
_CHUNK_WORDS = 1 << 20  # whose 64-bit products exist at one time
_SALTS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)  # of the two sums
_MASK = (1 << 64) - 1


@torch.no_grad()
def fingerprint(x: Tensor, offset: Sequence[int] | None = None) -> Tensor:
    """Return the pair of sums over the bits of `x` (any shape, dtype and device) as int64 (2,) on its device.

    `offset`: the index in the whole tensor at which this part begins, one number per dim; None: it is the whole.
    """
    x = x.detach()
    if x.is_complex():
        x = torch.view_as_real(x)
        offset = None if offset is None else [*offset, 0]
    if x.ndim == 0:
        x, offset = x.reshape(1), (0,)
    first = tuple(offset) if offset is not None else (0,) * x.ndim
    assert len(first) == x.ndim, f"offset {first} of a tensor with {x.ndim} dims"
    if x.numel() == 0:
        return torch.zeros(2, dtype=torch.int64, device=x.device)
    per_element = 2 if x.element_size() == 8 else 1
    words = x.contiguous().view(_WORDS[x.element_size()]).reshape(-1, x.shape[-1] * per_element)  # (R, C)
    columns = _column_keys(first[-1] * per_element, words.shape[1], x.device)
    rows = _row_keys(x.shape[:-1], first[:-1], x.device)
    if x.device.type == "cpu" and words.numel() >= _LEAST_ELEMENTS:
        sums = compiled_functions().weighted_sums(_array(words), columns.numpy(), rows.numpy())
        return torch.from_numpy(sums)
    return _weighted_sums(words, columns, rows)


def _array(words: Tensor) -> np.ndarray:
    """Return the memory of a contiguous tensor. Tensor.numpy would fix its size, which FSDP2 sets to 0 to free it."""
    memory = memoryview((ctypes.c_byte * words.nbytes).from_address(words.data_ptr()))
    return np.frombuffer(memory, np.dtype(f"i{words.element_size()}")).reshape(words.shape)


def _weighted_sums(words: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return sum over r and c of words[r, c] * columns[k, c] * rows[k, r] for both k, modulo 2**64."""
    total = torch.zeros(2, dtype=torch.int64, device=words.device)
    step = max(_CHUNK_WORDS // words.shape[1], 1)
    for begin in range(0, len(words), step):
        part = words[begin : begin + step].to(torch.int64)
        for k in range(2):
            total[k] += ((part * columns[k]).sum(1) * rows[k, begin : begin + step]).sum()
    return total


def as_pair(sums: Tensor) -> Pair:
    """Return what `fingerprint` gave, or a sum of such, as two numbers 0 .. 2**64 - 1."""
    first, second = sums.tolist()
    return first & _MASK, second & _MASK


def _column_keys(first: int, n: int, device: torch.device) -> Tensor:
    """Return the odd 32-bit keys (2, n) of the last dim's words from `first` on."""
    return _table(0, _room(first + n), device)[:, first : first + n].contiguous()


def _row_keys(shape: Sequence[int], first: Sequence[int], device: torch.device) -> Tensor:
    """Return the odd 64-bit keys (2, R) of the rows: products of those of their dims, counted from the last."""
    keys = torch.ones(2, 1, dtype=torch.int64, device=device)
    for dim, (n, begin) in enumerate(zip(reversed(shape), reversed(first), strict=True), start=1):
        own = _table(dim, _room(begin + n), device)[:, begin : begin + n]
        keys = (own[:, :, None] * keys[:, None, :]).flatten(1)
    return keys


def _room(n: int) -> int:
    return 1 << max(n - 1, 1023).bit_length()


@cache
def _table(dim: int, n: int, device: torch.device) -> Tensor:
    """Return the keys (2, n) of a dim counted from the last (0: int32, else int64): splitmix64, made odd."""
    index = np.arange(1, n + 1, dtype=np.uint64)
    both: list[np.ndarray] = []
    for salt in _SALTS:
        z = (index + np.uint64(dim << 48)) * np.uint64(salt)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        both.append(z ^ (z >> np.uint64(31)) | np.uint64(1))
    keys = np.stack(both)
    narrow = (keys >> np.uint64(32)).astype(np.uint32).view(np.int32) | np.int32(1)
    return torch.from_numpy(keys.view(np.int64) if dim else narrow).to(device)
