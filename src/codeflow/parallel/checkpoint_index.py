"""DCP's reader and writer with an index in JSON: what is on disk is never unpickled.

DCP pickles its index of a checkpoint (`.metadata`), and whoever loads such a file runs what it says. Here the index is
`index.json`: by tensor its dtype, shape and parts, by part the file and the bytes that hold it. Each part is read by
`torch.load(weights_only=True)`, which builds tensors and nothing else. What DCP's planners send between the processes
of one run is pickled by torch; it never lies on a disk.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor
from torch.distributed.checkpoint.filesystem import (
    FileSystemReader,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.storage import write_text

INDEX = "index.json"
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


class Part(Config):
    """A box of a tensor and where its bytes are."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    file: str
    first_byte: int = Field(ge=0)
    n_bytes: int = Field(ge=0)

    @field_validator("file")
    @classmethod
    def _beside_the_index(cls, file: str) -> str:
        if Path(file).name != file or file in ("", ".", ".."):
            raise ValueError(f"'{file}' is no file beside the index")
        return file


class Entry(Config):
    """One tensor."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    @field_validator("dtype")
    @classmethod
    def _known(cls, dtype: str) -> str:
        if dtype not in _DTYPES:
            raise ValueError(f"'{dtype}' is no dtype")
        return dtype


class Index(Config):
    """The content of `index.json`."""

    tensors: dict[str, Entry]


class IndexWriter(FileSystemWriter):
    """DCP's writer; the index is JSON, and equal tensors give equal bytes."""

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index of what all processes wrote."""
        places = {(r.index.fqn, tuple(r.index.offset or ())): r.storage_data for rank in results for r in rank}
        entries: dict[str, Entry] = {}
        for name, stored in sorted(metadata.state_dict_metadata.items()):
            assert isinstance(stored, TensorStorageMetadata), f"{name} is no tensor"
            parts: list[Part] = []
            for chunk in stored.chunks:
                place = places[name, tuple(chunk.offsets)]
                box = {"offset": tuple(chunk.offsets), "shape": tuple(chunk.sizes)}
                file = {"file": place.relative_path, "first_byte": place.offset, "n_bytes": place.length}
                parts.append(Part.model_validate({**box, **file}))
            dtype = str(stored.properties.dtype).removeprefix("torch.")
            entries[name] = Entry(dtype=dtype, shape=tuple(stored.size), parts=tuple(parts))
        write_text(Path(self.path) / INDEX, Index(tensors=entries).model_dump_json())


class IndexReader(FileSystemReader):
    """DCP's reader over an index in JSON."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index in DCP's form. Raises UserError as `read_index` does."""
        described: dict[str, Any] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        for name, entry in read_index(Path(self.path)).tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(p.offset), torch.Size(p.shape)) for p in entry.parts]
            properties = TensorProperties(dtype=_DTYPES[entry.dtype])
            described[name] = TensorStorageMetadata(properties, torch.Size(entry.shape), chunks)
            for part in entry.parts:
                place = _StorageInfo(part.file, part.first_byte, part.n_bytes)
                places[MetadataIndex(name, torch.Size(part.offset))] = place
        return Metadata(described, storage_data=places, storage_meta=StorageMeta(load_id=self.load_id))


def read_index(folder: Path) -> Index:
    """Return the index of a checkpoint. Raises UserError when there is none or it is damaged."""
    path = folder / INDEX
    try:
        return Index.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{folder} has no {INDEX}; it was saved by an older version, use another checkpoint") from None
    except (ValidationError, UnicodeDecodeError):
        raise UserError(f"checkpoint file {path} is damaged; use another checkpoint") from None


def parts_in(folder: Path, prefix: str) -> Iterator[tuple[str, Part, Tensor]]:
    """Yield (name, part, its tensor as the file holds it) of all parts in files whose names start with `prefix`."""
    for name, entry in read_index(folder).tensors.items():
        for part in entry.parts:
            if part.file.startswith(prefix):
                with open(folder / part.file, "rb") as file:
                    file.seek(part.first_byte)
                    data = io.BytesIO(file.read(part.n_bytes))
                yield name, part, torch.load(data, map_location="cpu", weights_only=True)
