"""Muon for the matrices inside the layers, fused AdamW for everything else, or plain momentum; state by parameter name.

Muon (Jordan et al. 2024): the Nesterov momentum of a matrix is replaced by the nearest semi-orthogonal one, found by a
quintic Newton-Schulz iteration whose coefficients trade exactness (singular values end within about 0.7 .. 1.2) for
speed. The update is scaled by sqrt(max(1, rows / columns)), so that a learning rate means the same change of a layer's
output (root mean square) for every shape.

Sharded masters: a momentum is gathered, made orthogonal on every process alike, and each keeps its own part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from codeflow.core.freed_memory import make_room
from codeflow.kernels.wide import product_dtype
from codeflow.parallel.place import laid_out_like, whole
from codeflow.train.config import OptimizerConfig

_QUINTIC = (3.4445, -4.7750, 2.0315)
_SMALL = 1e-7


def orthogonalise(matrices: Tensor, iterations: int, dtype: torch.dtype) -> Tensor:
    """Return about U V^T of each matrix's U S V^T: (N, rows, columns) fp32 in and out, computed in `dtype`."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x.to(product_dtype(x))
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32) + _SMALL).to(x.dtype)
    a, b, c = _QUINTIC
    for _ in range(iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon:
    """Momentum, orthogonalisation and update of a set of named matrices."""

    def __init__(self, matrices: Mapping[str, nn.Parameter], config: OptimizerConfig, dtype: torch.dtype) -> None:
        self._matrices, self._config, self._dtype = dict(matrices), config, dtype
        self.momenta = {name: torch.zeros_like(matrix) for name, matrix in self._matrices.items()}
        self._by_shape: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name, matrix in self._matrices.items():
            rows, columns = matrix.shape
            self._by_shape[rows, columns].append(name)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all matrices from their gradients with the learning rate times `factor`."""
        config = self._config
        rate = config.muon_learning_rate * factor
        for (rows, columns), names in self._by_shape.items():
            directions = orthogonalise(
                torch.stack([whole(self._nesterov(name)) for name in names]), config.muon_iterations, self._dtype
            )
            scale = max(1.0, rows / columns) ** 0.5
            for name, direction in zip(names, directions, strict=True):
                matrix = self._matrices[name]
                matrix.mul_(1 - rate * config.muon_weight_decay)
                matrix.add_(laid_out_like(direction, matrix), alpha=-rate * scale)

    def _nesterov(self, name: str) -> Tensor:
        gradient = self._matrices[name].grad
        assert gradient is not None, f"{name} has no gradient"
        momentum = self.momenta[name].lerp_(gradient, 1 - self._config.muon_momentum)
        return gradient.lerp(momentum, self._config.muon_momentum)


class Momentum:
    """Stochastic gradient descent along a running mean of the gradients."""

    def __init__(self, masters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._masters, self._config = dict(masters), config
        self.means = {name: torch.zeros_like(master) for name, master in self._masters.items()}

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all masters from their gradients with the learning rate times `factor`."""
        for name, master in self._masters.items():
            assert master.grad is not None, f"{name} has no gradient"
            mean = self.means[name].lerp_(master.grad, 1 - self._config.sgd_momentum)
            master.add_(mean, alpha=-self._config.sgd_learning_rate * factor)


class AdamW:
    """Fused AdamW with decoupled weight decay (Loshchilov and Hutter 2019).

    torch's function and not its class, which imports torch's compiler to be made: 100 MiB and a second for a process
    that compiles nothing.
    """

    def __init__(self, masters: Mapping[str, nn.Parameter], config: OptimizerConfig) -> None:
        self._masters, self._config = dict(masters), config
        self.averages = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        self.squares = {name: torch.zeros_like(master) for name, master in self._masters.items()}
        self._updates = {
            name: torch.zeros((), dtype=torch.float32, device=master.device) for name, master in self._masters.items()
        }

    def weight_decays(self) -> dict[str, float]:
        """Return the weight decay of each master, by name."""
        return {
            name: self._config.adamw_weight_decay if _decays(name, master) else 0.0
            for name, master in self._masters.items()
        }

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Update all masters that have a gradient with the learning rate times `factor`."""
        config, by_decay = self._config, defaultdict[float, list[str]](list)
        for name, decay in self.weight_decays().items():
            if self._masters[name].grad is not None:
                by_decay[decay].append(name)
        for decay, names in by_decay.items():
            masters = [self._masters[name] for name in names]
            adamw(
                [*masters],
                [master.grad for master in masters if master.grad is not None],
                [self.averages[name] for name in names],
                [self.squares[name] for name in names],
                [],
                [self._updates[name] for name in names],
                fused=True,
                amsgrad=False,
                beta1=config.adamw_beta1,
                beta2=config.adamw_beta2,
                lr=config.adamw_learning_rate * factor,
                weight_decay=decay,
                eps=config.adamw_epsilon,
                maximize=False,
            )

    def resume(self, updates: int) -> None:
        """Set the number of updates done."""
        for count in self._updates.values():
            count.fill_(float(updates))


class Optimizer:
    """The optimizers of one set of named masters; each master belongs to one of them."""

    def __init__(self, masters: Mapping[str, nn.Parameter], config: OptimizerConfig, dtype: torch.dtype) -> None:
        """`dtype` is the precision of Muon's iteration; masters and state stay in fp32."""
        self._masters, self._config = dict(masters), config
        self.updates = 0
        owned: dict[str, dict[str, nn.Parameter]] = {"muon": {}, "adamw": {}, "sgd": {}}
        for name, master in masters.items():
            owned[config.matrices if is_matrix(name, master) else config.others][name] = master
        self._muon = Muon(owned["muon"], config, dtype)
        self._momentum = Momentum(owned["sgd"], config)
        self._adamw = AdamW(owned["adamw"], config)

    def gradients(self) -> list[Tensor]:
        """Return the masters' gradients."""
        return [master.grad for master in self._masters.values() if master.grad is not None]

    def step(self, factor: float, gradient_factor: float) -> None:
        """Multiply the gradients by `gradient_factor` (clipping) and update with the learning rates times `factor`."""
        if gradient_factor != 1.0:
            for gradient in self.gradients():
                gradient.mul_(gradient_factor)
        self._muon.step(factor)
        self._momentum.step(factor)
        self._adamw.step(factor)
        self.updates += 1

    def clear_gradients(self) -> None:
        """Forget the gradients."""
        largest = max((grad.nbytes for grad in self.gradients() if grad.device.type == "cpu"), default=0)
        for master in self._masters.values():
            master.grad = None
        make_room(largest)  # the next step makes others first

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name, to be saved or read into; `updates` is not in it."""
        state = {f"muon.momentum.{name}": momentum for name, momentum in self._muon.momenta.items()}
        state |= {f"sgd.mean.{name}": mean for name, mean in self._momentum.means.items()}
        for name, average in self._adamw.averages.items():
            state[f"adamw.average.{name}"] = average
            state[f"adamw.square.{name}"] = self._adamw.squares[name]
        return state

    def resume(self, updates: int) -> None:
        """Set the number of updates done, after `tensors` have been read into."""
        self.updates = updates
        self._adamw.resume(updates)


def is_matrix(name: str, parameter: Tensor) -> bool:
    """Say whether Muon takes this parameter: a matrix of a layer that maps hidden states to hidden states."""
    return parameter.ndim == 2 and name.startswith("layers.") and "gate_projection" not in name


def _decays(name: str, parameter: Tensor) -> bool:
    """Say whether AdamW may decay this parameter: embedding, output head and matrices, but no norm and no gate."""
    return parameter.ndim == 2 and "gate_projection" not in name
