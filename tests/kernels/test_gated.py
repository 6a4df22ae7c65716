"""The gated operation's own backward: digits at every gate, the gradient into the first loop, the bytes it keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from codeflow.kernels import arrays, cpu, reference
from codeflow.kernels.documents import Documents
from codeflow.kernels.memory import saved_bytes
from tests.kernels.cases import NAMES, cast, gated, gradients, make_inputs, packed, relative

PACKING = [[100, 200], [300]]


def _composed(inputs: list[Tensor], documents: Documents | None, window: int) -> Tensor:
    """The same products as two attentions and a mix, whose outputs autograd stores."""
    q, k1, v1, k2, v2, logits = inputs
    global_part = cpu.causal_attention(q, k1, v1, documents)
    return reference.mix(global_part, cpu.window_attention(q, k2, v2, documents, window), logits)


def _errors(found: list[Tensor], exact: list[Tensor], q: Tensor) -> dict[str, float]:
    errors = {name: relative(ours, best) for name, ours, best in zip(NAMES, found, exact, strict=True)}
    sums = "bthd,bthd->hd" if found[6].dim() == 4 else "bth,bthd->hd"
    ours, best = (torch.einsum(sums, g[6].double(), q) for g in (found, exact))
    return errors | {"gate weight": relative(ours, best)}


@pytest.mark.parametrize("most_threads", [0, 1000], ids=["torch", "compiled"])
@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("logit", [-8.0, -4.0, 0.0, 4.0, 8.0])
def test_no_gate_loses_digits_in_bf16(
    logit: float, elementwise: bool, most_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most twice the error of the path that stores both outputs, in every gradient, against fp64."""
    monkeypatch.setattr(arrays, "_MOST_THREADS", most_threads)
    documents = packed(PACKING)
    inputs = make_inputs(2, 300, head_dim=16, elementwise=elementwise)
    inputs[5] = logit + 0.25 * inputs[5].detach()
    half = cast(inputs, torch.bfloat16)
    exact_inputs = cast(half, torch.float64)
    q = exact_inputs[0].detach()
    exact = gradients(gated(exact_inputs, documents, 16, "reference"), exact_inputs)
    ours = _errors(gradients(gated(half, documents, 16, "cpu"), half), exact, q)
    stored = _errors(gradients(_composed(half, documents, 16), half), exact, q)
    assert all(0 < error < 0.02 for error in stored.values())
    for name, error in ours.items():
        assert error <= 2 * stored[name], name


@pytest.mark.parametrize("elementwise", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_is_kept_beside_the_inputs(dtype: torch.dtype, elementwise: bool) -> None:
    documents = packed(PACKING)
    inputs = cast(make_inputs(2, 300, head_dim=16, elementwise=elementwise), dtype)
    assert saved_bytes(lambda: gated(inputs, documents, 16, "cpu"), inputs) == 0
    both_outputs = 2 * inputs[0].numel() * inputs[0].element_size()
    assert saved_bytes(lambda: _composed(inputs, documents, 16), inputs) >= both_outputs


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_first_loop_learns_through_its_keys_and_values(backend: str, checkpointed: bool) -> None:
    """The weight that makes K1 and V1 gets the derivative that finite differences find; detached, it would get none."""
    documents = packed([[3, 4], [7]])
    q, k1, v1, k2, v2, logits = (x.detach() for x in make_inputs(2, 7, head_dim=4))

    def loss(factor: Tensor) -> Tensor:
        first = (k1 * factor, v1 * factor)

        def later_loop(keys: Tensor, values: Tensor) -> Tensor:
            return gated([q, keys, values, k2, v2, logits], documents, 2, backend)

        again = checkpoint(later_loop, *first, use_reentrant=False) if checkpointed else later_loop(*first)
        assert isinstance(again, Tensor)
        return (again * torch.linspace(-1, 1, again.numel(), dtype=again.dtype).view_as(again)).sum()

    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss(factor).backward()
    assert factor.grad is not None
    with torch.no_grad():
        slope = (loss(factor + 1e-5) - loss(factor - 1e-5)) / 2e-5
    assert abs(float(slope)) > 0.1
    assert float(factor.grad) == pytest.approx(float(slope), rel=1e-6)
