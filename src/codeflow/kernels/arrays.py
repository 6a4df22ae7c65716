"""CPU tensors as the arrays that `kernels.compiled` works on, and when that pays. Importing this compiles nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_DTYPES = (torch.float32, torch.bfloat16)
_MOST_THREADS = 4  # compiled functions use one; with more than this torch's passes are quicker
_LEAST_ELEMENTS = 1 << 14  # below it calls decide, and loading the compiled functions does not pay


def compilable(tensor: Tensor) -> bool:
    """True for tensors that `kernels.compiled` works on: fp32 and bf16 in the host's memory."""
    return tensor.device.type == "cpu" and tensor.dtype in _DTYPES


def compiling_pays(tensor: Tensor) -> bool:
    """True where one compiled pass over such a tensor is quicker than torch's passes."""
    return compilable(tensor) and few_threads() and tensor.numel() >= _LEAST_ELEMENTS


def few_threads() -> bool:
    """True where torch has so few threads that one compiled pass over large tensors is quicker than its passes."""
    return torch.get_num_threads() <= _MOST_THREADS


def as_array(tensor: Tensor) -> np.ndarray[Any, Any]:
    """Return the memory of such a tensor: fp32 as it is, bf16 as its bits in uint16."""
    return (tensor if tensor.dtype == torch.float32 else tensor.view(torch.uint16)).numpy()


def compiled_functions() -> Any:
    """Return `kernels.compiled`, imported when it is first used; type checkers do not know its parameters."""
    from codeflow.kernels import compiled

    return compiled


def compiled_attention_functions() -> Any:
    """Return `kernels.compiled_attention`, imported when it is first used."""
    from codeflow.kernels import compiled_attention

    return compiled_attention


def compiled_step_functions() -> Any:
    """Return `kernels.compiled_step`, imported when it is first used."""
    from codeflow.kernels import compiled_step

    return compiled_step


def compiled_panel_functions() -> Any:
    """Return `kernels.compiled_panels`, imported when it is first used."""
    from codeflow.kernels import compiled_panels

    return compiled_panels
