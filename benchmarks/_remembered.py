"""An encoder that has read its texts before: vectors from a file, so that one corpus is embedded once for many runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from codeflow.core.errors import UserError

VECTORS = "CODEFLOW_REMEMBERED_VECTORS"  # names the .npz
NAME = "benchmarks._remembered:Remembered"


def key(text: str) -> str:
    """Return what a text is known by."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).hexdigest()


def remember(path: Path, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
    """Write the vectors (N, d) of texts."""
    np.savez(path, keys=np.array([key(text) for text in texts]), vectors=vectors)


class Remembered:
    """The vectors of the file that the environment names. Raises UserError for a text that is not in it."""

    def __init__(self) -> None:
        with np.load(os.environ[VECTORS], allow_pickle=False) as file:
            self._places = {key: at for at, key in enumerate(file["keys"].tolist())}
            self._vectors = file["vectors"]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, (n, d)."""
        try:
            return self._vectors[[self._places[key(text)] for text in texts]]
        except KeyError:
            raise UserError(f"{os.environ[VECTORS]} holds another corpus; remove it, or name another file") from None
