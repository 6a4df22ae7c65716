"""Which back end runs, and what is said when one cannot."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import pytest
import torch

from codeflow.core.errors import UserError
from codeflow.kernels.dispatch import default_backend
from tests.kernels.cases import cast, gated, make_inputs


def test_the_device_chooses() -> None:
    pytest.importorskip("triton")
    assert default_backend(torch.device("cpu")) == "cpu"
    assert default_backend(torch.device("cuda")) == "triton"
    assert default_backend(torch.device("mps")) == "cpu"


def test_without_triton_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("codeflow.kernels.triton")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(UserError, match=r"'triton' needs Triton; pip install 'codeflow\[triton\]'"):
        gated(make_inputs(1, 3), None, 2, "triton")


def test_without_flash_attention_the_error_names_what_was_looked_for() -> None:
    pytest.importorskip("triton")
    if find_spec("flash_attn") or find_spec("flash_attn_interface"):
        pytest.skip("FlashAttention is installed")
    inputs = cast(make_inputs(1, 3), torch.bfloat16)
    with pytest.raises(UserError, match=r"none of flash_attn.cute, flash_attn_interface, flash_attn can be imported"):
        gated(inputs, None, 2, "flash")
    with pytest.raises(UserError, match=r"bf16 or fp16, not torch\.float64"):
        gated(make_inputs(1, 3), None, 2, "flash")
