"""A small decoder that gives a whole text one number: the transformer among the quality proxies.

Our decoder reads the first `max_tokens` of a text; the hidden states of all of them are averaged, and a linear map
makes the logit. Attention is causal, so padding behind a text changes nothing of it. Texts are sorted by length before
they are batched, so that little is padding, and a text's logit does not depend on its batch but for rounding.

Legend: B rows, T positions, C hidden size, N texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from codeflow.core.config import validate
from codeflow.core.storage import write_bytes
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS = "transformer.safetensors"
_BATCH_TOKENS = 4096  # of one forward pass: their activations stay near the core
_PIECE_BYTES_PER_TOKEN = 12  # so many bytes are encoded first; only where they give too few tokens, the whole text


class TextRegressor(nn.Module):
    """The decoder, the mean over its positions, one logit."""

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.backbone = LoopCoder(config, seed)
        self.head = nn.Linear(config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return fp32 logits (B,) of ids (B, T), of which the first lengths (B,) >= 1 of each row are text."""
        return self.pooled_logits(self.backbone(ids), lengths)

    def pooled_logits(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Return fp32 logits (B,) of hidden states (B, T, C)."""
        inside = torch.arange(hidden.shape[1], device=hidden.device)[None] < lengths[:, None]
        mean = torch.einsum("bt,btc->bc", inside / lengths[:, None], hidden.float())
        return self.head(mean.to(hidden.dtype)).squeeze(-1).float()


class TransformerScorer:
    """A TextRegressor with its tokenizer. `precision` "bf16" is quicker only where the processor multiplies in it."""

    def __init__(self, network: TextRegressor, tokenizer: Tokenizer, precision: str = "fp32") -> None:
        self.network = network.to(torch.bfloat16 if precision == "bf16" else torch.float32).eval()
        self._tokenizer, self._precision = tokenizer, precision

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that are read."""
        return self.network.backbone.config.max_position_embeddings

    def logits(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return a logit per text (N,), and the bytes read (N,)."""
        encoded = [first_tokens(self._tokenizer, text, self.max_tokens) for text in texts]
        result = np.zeros(len(texts))
        with torch.inference_mode():
            for rows in batches_by_length([len(ids) for ids in encoded], _BATCH_TOKENS):
                ids, lengths = padded([encoded[row] for row in rows.tolist()])
                result[rows] = self.network(ids, lengths).double().numpy()
        lengths = self._tokenizer.byte_lengths
        return result, np.array([int(lengths[ids].sum()) for ids in encoded], np.int64)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the weights to `folder`, where the caller puts the tokenizer; return the parameters for `load`."""
        tensors = {name: value.float().contiguous() for name, value in _stored(self.network).items()}
        write_bytes(folder / WEIGHTS, save(tensors))
        return {"model": json.loads(self.network.backbone.config.model_dump_json()), "precision": self._precision}


def _stored(network: TextRegressor) -> dict[str, Tensor]:
    """Return the weights without the language model's head, which is the embedding."""
    return {name: value for name, value in network.state_dict().items() if "lm_head" not in name}


def load(folder: Path, parameters: Mapping[str, Any], n_threads: int | None = None) -> TransformerScorer:
    """Load what `save` wrote, with the tokenizer beside it; `n_threads` is set for the whole process."""
    if n_threads:
        torch.set_num_threads(n_threads)
    network = TextRegressor(validate(ModelConfig, parameters["model"], str(folder)))
    network.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    return TransformerScorer(network, Tokenizer.load(folder), str(parameters["precision"]))


def first_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> NDArray[np.int64]:
    """Return the first `max_tokens` ids of a text, at least one (a blank for an empty text).

    Only the start of a long text is encoded. Where the start is cut inside a word, the last ids may differ from those
    of the whole text; they are the same for the same text.
    """
    clean = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
    ids = tokenizer.encode_array(clean[: _PIECE_BYTES_PER_TOKEN * max_tokens])
    if len(ids) < max_tokens and len(clean) > _PIECE_BYTES_PER_TOKEN * max_tokens:
        ids = tokenizer.encode_array(clean[: 8 * _PIECE_BYTES_PER_TOKEN * max_tokens])
    if not len(ids):
        ids = tokenizer.encode_array(" ")
    return ids[:max_tokens].astype(np.int64)


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[NDArray[np.int64]]:
    """Return row numbers (n,) of batches of neighbours in length, each of at most `batch_tokens` with its padding."""
    order = np.argsort(np.asarray(lengths, np.int64), kind="stable")[::-1]
    batches, start = [], 0
    while start < len(order):
        n = max(1, batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + n].astype(np.int64))
        start += n
    return batches


def padded(encoded: Sequence[NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """Return ids (B, T), short rows padded with 0, and lengths (B,)."""
    lengths = torch.tensor([len(ids) for ids in encoded])
    ids = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.int64)
    for row, one in zip(ids, encoded, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    return ids, lengths
