"""The weights as the forward pass uses them: gathered, in the working precision, at the first use of each unit.

Under FSDP2 they exist only while a unit computes; a hook behind its own sees them, and their gradients before these are
reduced over processes. Names are those of the masters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from codeflow.kernels.fingerprint import fingerprint
from codeflow.parallel.fingerprints import Box, box, local, of_part

_ROOT = "model."  # what the module that a step calls puts before the model's names
_NOTHING = torch.zeros(2, dtype=torch.int64)


class WorkingWeights:
    """Takes fingerprints of weights at their first use, and of their gradients before these are reduced."""

    def __init__(self, root: nn.Module, blocks: Iterable[nn.Module]) -> None:
        """`root` and `blocks` are the units that `place` was given, placed already."""
        prefixes = {module: f"{name}." if name else "" for name, module in root.named_modules()}
        self.units = [*blocks, root]
        self._members: dict[nn.Module, list[tuple[str, nn.Module]]] = {}
        inner: set[nn.Module] = set()
        for unit in self.units:
            own = [module for module in unit.modules() if module not in inner]
            self._members[unit] = [(prefixes[module].removeprefix(_ROOT), module) for module in own]
            inner.update(own)
            unit.register_forward_pre_hook(self._used)
        self._weights_of: set[nn.Module] = set()  # units whose next use is looked at
        self._gradients_of: set[nn.Module] = set()
        self._handles: list[RemovableHandle] = []
        self._weights: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self.boxes: dict[str, Box] = {}  # where the weights seen last lie

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters as they stand in the modules now, each under its first name."""
        found: dict[nn.Parameter, str] = {}
        for unit in reversed(self.units):
            for name, parameter in self.of(unit):
                found.setdefault(parameter, name)
        return {name: parameter for parameter, name in found.items()}

    def see_weights(self) -> None:
        """Take fingerprints of the weights at the next use of each unit."""
        self._weights_of, self._weights = set(self.units), {}

    def weights(self, names: Iterable[str]) -> Tensor:
        """Return the fingerprints of the weights, int64 (n, 2); 0 for those that were not used."""
        self._weights_of = set()
        return torch.stack([self._weights.get(name, _NOTHING) for name in names])

    def see_gradients(self) -> None:
        """Take fingerprints of the gradients of the next forward and backward pass."""
        self._gradients_of, self._gradients = set(self.units), {}

    def gradients(self, names: Iterable[str]) -> Tensor:
        """Return the fingerprints of the gradients, int64 (n, 2); 0 for weights that got none."""
        self._gradients_of = set()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return torch.stack([self._gradients.get(name, _NOTHING) for name in names])

    def of(self, unit: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and parameters, as they stand now, of a unit without the units within."""
        for prefix, module in self._members[unit]:
            for leaf, parameter in module._parameters.items():
                if parameter is not None:
                    yield f"{prefix}{leaf}", parameter

    def _used(self, unit: nn.Module, _: Any) -> None:
        if unit in self._weights_of:
            self._weights_of.discard(unit)
            for name, parameter in self.of(unit):
                self._weights[name] = of_part(parameter.detach()).cpu()
                self.boxes[name] = box(parameter)
        if unit in self._gradients_of and torch.is_grad_enabled():
            self._gradients_of.discard(unit)
            for name, parameter in self.of(unit):
                if parameter.requires_grad:
                    self._handles.append(parameter.register_hook(_Keep(self._gradients, name)))


class _Keep:
    """Keeps the fingerprint of a gradient under a name."""

    def __init__(self, into: dict[str, Tensor], name: str) -> None:
        self._into, self._name = into, name

    def __call__(self, gradient: Tensor) -> None:
        self._into[self._name] = fingerprint(local(gradient)).cpu()
