"""Weights on disk: safetensors, in one file or in shards with an index, read and written a tensor at a time.

Reading maps a file into memory and copies what is asked for. Writing holds one shard. Each file's header carries the
fingerprint (`kernels.fingerprint`) of every tensor in it, taken before it was written, and reading compares: whoever
computes with published weights has those that were published.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.core.storage import atomic_path, write_text
from codeflow.kernels.fingerprint import as_pair, fingerprint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FINGERPRINTS = "fingerprints"  # of a file's remarks: tensor -> 32 hexadecimal digits
_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_CHECKED_ELEMENTS = 1 << 22  # at one time, so that the check needs no memory of the tensor's size

Shape = tuple[int, ...]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError when it is missing or broken."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a Hugging Face model directory") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); export the model again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold a JSON object; export the model again")
    return tree


class StoredTensors:
    """All tensors of a directory by name; only headers are read until one is asked for."""

    def __init__(self, folder: Path) -> None:
        """Read the headers. Raises UserError for missing or truncated files, and for a name that is in two of them."""
        self._files: dict[str, Path] = {}
        self.shapes: dict[str, Shape] = {}
        self._opened: tuple[Path, Any] | None = None
        self._marks: dict[str, str] = {}  # of the open file
        for path in weight_files(folder):
            file = _open(path)
            for name in sorted(file.keys()):
                if name in self._files:
                    raise UserError(f"{folder}: {name} is in {self._files[name].name} and in {path.name}; remove one")
                self._files[name] = path
                self.shapes[name] = tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file. Raises UserError for NaN, infinity, and numbers of another kind."""
        path = self._files[name]
        if self._opened is None or self._opened[0] != path:
            self._opened = (path, _open(path))
            self._marks = _marks(self._opened[1].metadata(), path)
        value = self._opened[1].get_tensor(name)
        if value.dtype not in _DTYPES:
            kind = str(value.dtype).removeprefix("torch.")
            raise UserError(f"{path}: {name} is stored as {kind}; convert the weights to bfloat16 or float32 first")
        self._check_fingerprint(name, value, path)
        check_finite(name, value, str(path))
        return value

    def _check_fingerprint(self, name: str, value: Tensor, path: Path) -> None:
        """Raise UserError for a tensor that is not what our export wrote; files of others carry no fingerprints."""
        if name in self._marks and self._marks[name] != _written(value):
            raise UserError(f"{path}: {name} is not what was written, by its fingerprint; export or copy it again")


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold weights. Raises UserError when one is missing."""
    if (folder / INDEX).exists():
        where = read_json(folder / INDEX).get("weight_map")
        names = list(where.values()) if isinstance(where, dict) else []
        if not all(isinstance(name, str) for name in names):
            raise UserError(f"{folder / INDEX}: weight_map does not name files; export the model again")
        paths = [folder / name for name in sorted(set(names))]
    else:
        paths = [folder / WEIGHTS]
    missing = [path.name for path in paths if not path.exists()]
    if missing or not paths:
        lost = ", ".join(missing) or "weights in its index"
        raise UserError(f"{folder}: no {lost}; the directory is incomplete, export or copy it again")
    return paths


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); export or copy it again") from None


def check_finite(name: str, value: Tensor, origin: str) -> None:
    """Raise UserError when a weight is NaN or infinite."""
    for part in value.flatten().split(_CHECKED_ELEMENTS):
        if not bool(torch.isfinite(part).all()):
            raise UserError(f"{origin}: {name} holds NaN or infinite weights; take an earlier checkpoint")


def write_shards(
    folder: Path, shapes: Mapping[str, Shape], read: Callable[[str], Tensor], dtype: torch.dtype, shard_bytes: int
) -> None:
    """Write the tensors named in `shapes` as `dtype`, in that order, in files of at most `shard_bytes` of weights.

    `read` is called once per name, when its shard is written. An index is written when there are several files;
    weights that an earlier export left in `folder` are removed.
    """
    shards = _plan(shapes, dtype.itemsize, shard_bytes)
    for file, names in shards.items():
        part = {name: read(name).to("cpu", dtype).contiguous() for name in names}
        with atomic_path(folder / file) as temporary:
            marks = {name: _written(value) for name, value in sorted(part.items())}
            save_file(part, temporary, metadata={"format": "pt", FINGERPRINTS: json.dumps(marks)})
            _sort_metadata(temporary)
            temporary.chmod(0o644)  # the library writes files that only their owner may read
        del part
    _remove_others(folder, shards)
    if len(shards) > 1:
        total = sum(_n_elements(shape) for shape in shapes.values()) * dtype.itemsize
        where = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _marks(metadata: dict[str, str] | None, path: Path) -> dict[str, str]:
    try:
        marks = json.loads((metadata or {}).get(FINGERPRINTS, "{}"))
    except ValueError:
        marks = None
    if not isinstance(marks, dict):
        raise UserError(f"{path}: the fingerprints in its header are damaged; export or copy it again")
    return marks


def _written(value: Tensor) -> str:
    first, second = as_pair(fingerprint(value))
    return f"{first:016x}{second:016x}"


def _sort_metadata(path: Path) -> None:
    """Put the header's remarks in order, which the library writes in any: equal weights are equal bytes."""
    with open(path, "r+b") as file:
        n_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(n_bytes))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(n_bytes)
        assert len(text) == n_bytes, "the header has changed its length"
        file.seek(8)
        file.write(text)


def _remove_others(folder: Path, files: Iterable[str]) -> None:
    kept = set(files)
    for path in [folder / WEIGHTS, *folder.glob("model-?????-of-?????.safetensors"), folder / INDEX]:
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _plan(shapes: Mapping[str, Shape], item_bytes: int, shard_bytes: int) -> dict[str, list[str]]:
    """Return file name -> tensor names, in order; a tensor larger than a shard has one of its own."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        size = _n_elements(shape) * item_bytes
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, start=1)}


def _n_elements(shape: Shape) -> int:
    return torch.Size(shape).numel()
