"""What an operation keeps for its backward pass, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def saved_bytes(run: Callable[[], Tensor], inputs: Iterable[Tensor]) -> int:
    """Run `run` and return the bytes that autograd keeps for its backward beside `inputs` and the result.

    Inputs and result are alive anyway where they come from and go to; each storage counts once.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        result = run()
    known = {x.untyped_storage().data_ptr() for x in (*inputs, result)}
    return sum(n_bytes for address, n_bytes in kept.items() if address not in known)
