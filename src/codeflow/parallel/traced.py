"""What one rank does in a step, seen from torch's dispatcher: bytes sent by axis, and bytes alive. On data or without.

`Dataless` lets a program run on tensors that have shapes and no data, so that one machine can be any rank of any
number: with a process group of torch's backend "fake" a model of any size is built, sharded and stepped in minutes.
Tensors of floating-point numbers have no data; integers and booleans do, so documents, positions and targets are real,
and whatever is asked of a number is answered with 1.0.

Modes see operations; entered last is asked first: enter `Dataless` first, what counts after it.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SEND = "send"  # what goes from rank to rank, all-to-all too, as the group of `Sent.n_bytes`
_ALL_TO_ALL = "alltoall_base_"
_FACTORS = {
    "_allgather_base_": 1.0,
    "_reduce_scatter_base_": 1.0,
    "allreduce_": 2.0,
    _ALL_TO_ALL: 1.0,
    "send": 1.0,
}
_WHOLE = {"_allgather_base_": 0, "_reduce_scatter_base_": 1}  # which argument has all ranks' parts
_FUNCTIONAL = {"all_gather_into_tensor": 1.0, "reduce_scatter_tensor": 1.0, "all_reduce": 2.0}


class Sent(TorchDispatchMode):
    """Counts the bytes that this rank sends: point to point, and in the collectives of each group as a ring would."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes: dict[str | tuple[int, ...], float] = defaultdict(float)  # by SEND or the group's ranks
        self.n_calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # it comes again as what it is made of
        space, _, name = str(func).partition(".")
        name = name.partition(".")[0]
        if space == "c10d" and name in _FACTORS:
            self._count(name, args)
        elif space == "_c10d_functional" and name in _FUNCTIONAL:
            self._count_functional(name, args)
        return func(*args, **(kwargs or {}))

    def _count(self, name: str, args: tuple[Any, ...]) -> None:
        self.n_calls[name] += 1
        tensors = [args[_WHOLE[name]]] if name in _WHOLE else args[0] if name != _ALL_TO_ALL else [args[1]]
        n_bytes = sum(tensor.nbytes for tensor in tensors) * _FACTORS[name]
        if name == SEND:
            self.n_bytes[SEND] += n_bytes
            return
        group = next(dist.ProcessGroup.unbox(x) for x in args if isinstance(x, torch.ScriptObject))
        ranks = dist.get_process_group_ranks(group)
        if name == _ALL_TO_ALL:  # only context parallelism does it, over ranks that may be those of another axis, too
            self.n_bytes[SEND] += n_bytes * (len(ranks) - 1) / len(ranks)
        else:
            self._add(ranks, n_bytes)

    def _count_functional(self, name: str, args: tuple[Any, ...]) -> None:
        self.n_calls[name] += 1
        group = dist.distributed_c10d._resolve_process_group(args[-1])  # pyright: ignore[reportPrivateImportUsage]
        ranks = dist.get_process_group_ranks(group)
        whole = args[0].nbytes * (len(ranks) if name == "all_gather_into_tensor" else 1)
        self._add(ranks, whole * _FUNCTIONAL[name])

    def _add(self, ranks: Sequence[int], n_bytes: float) -> None:
        if len(ranks) > 1:
            self.n_bytes[tuple(ranks)] += n_bytes * (len(ranks) - 1) / len(ranks)

    def by_axis(self, mesh: DeviceMesh) -> dict[str, int]:
        """Return bytes by the planner's axes; "all" are the sums over all ranks, of a few numbers per step."""
        found: dict[str, float] = {"fsdp": 0.0, "data": 0.0, "cp": 0.0, "tp": 0.0, "all": 0.0}
        for group, n_bytes in self.n_bytes.items():
            found["cp" if isinstance(group, str) else _axis(mesh, group)] += n_bytes
        return {axis: round(n_bytes) for axis, n_bytes in found.items()}


def _axis(mesh: DeviceMesh, ranks: tuple[int, ...]) -> str:
    """Return the axis along which these ranks lie; parameters are sharded over `shard` and `context` together."""
    assert mesh.mesh_dim_names is not None
    places = torch.tensor([(mesh.mesh == rank).nonzero()[0].tolist() for rank in ranks])
    varying = {name for name, column in zip(mesh.mesh_dim_names, places.T, strict=True) if len(column.unique()) > 1}
    names = {frozenset({"tensor"}): "tp", frozenset({"data"}): "data"}
    return names.get(frozenset(varying), "fsdp" if varying <= {"shard", "context"} else "all")


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most there have been since `lap`.

    What operations need inside themselves is not seen. Storages that are freed and filled again, as FSDP2 does with
    gathered weights, are followed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __enter__(self) -> LiveBytes:
        """Follow `torch.UntypedStorage.resize_` too, which no dispatcher sees."""
        self._resize = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = self._resize(storage, size)
            if storage._cdata in self._sizes:
                self._set(storage._cdata, storage.nbytes())
            return result

        torch.UntypedStorage.resize_ = resize  # pyright: ignore[reportAttributeAccessIssue]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if _asks_for_shapes():
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key).atexit = False
            self._sizes[key] = 0
        self._set(key, storage.nbytes())

    def _set(self, key: int, n_bytes: int) -> None:
        self.now += n_bytes - self._sizes[key]
        self._sizes[key] = n_bytes
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)

    def lap(self) -> int:
        """Return the most bytes since the last call, and begin anew."""
        peak, self.peak = self.peak, self.now
        return peak


class Dataless(TorchDispatchMode):
    """Makes tensors of floating-point numbers without data, and lets others be real."""

    def __init__(self) -> None:
        super().__init__()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented
        kwargs = kwargs or {}
        if _asks_for_shapes():
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            if func is torch.ops.aten._local_scalar_dense.default:
                return False if tensors[0].dtype == torch.bool else 1.0
            if func is torch.ops._c10d_functional.wait_tensor.default:
                return tensors[0]  # not a copy, as without data it would be
            return func(*args, **kwargs)
        if not tensors and func.namespace == "aten" and _makes_numbers(func, kwargs):
            with self._fake:
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _asks_for_shapes() -> bool:
    """Whether DTensor is finding out what an operation would return, on whole tensors that never exist."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def _makes_numbers(func: Any, kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype") or torch.get_default_dtype()
    return dtype.is_floating_point and "arange" not in str(func)


@contextmanager
def one_of(n_ranks: int, rank: int) -> Iterator[None]:
    """Be one rank of a world whose other ranks do not exist; what is sent goes nowhere."""
    from torch.testing._internal.distributed import fake_pg  # registers the backend

    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=rank, world_size=n_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()
        _clear_sharding_prop_cache()  # equal meshes of another world have groups of other names


def local_bytes(tensors: Sequence[Tensor]) -> int:
    """Return the bytes of this rank's parts."""
    return sum((tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes for tensor in tensors)
