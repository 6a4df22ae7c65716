"""Training of the transformer quality proxy: our decoder, from scratch, on labels and, beside them, on the text.

The labels are few and noisy, so the next-token loss on the same windows goes along with a small weight. Masters and
the optimizer's state are fp32, the working copy has the precision that it will score in. The best epoch on the
validation documents is kept.

Legend: B rows, T positions, C hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from codeflow.core.progress import Bar
from codeflow.model.config import ModelConfig
from codeflow.model.text_regressor import TextRegressor, TransformerScorer, first_tokens, padded
from codeflow.tokens.tokenizer import Tokenizer
from codeflow.train.classifier_config import TransformerProxyConfig
from codeflow.train.classifier_scores import spearman
from codeflow.train.optimizer import Optimizer
from codeflow.train.schedule import factor

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POOL_BATCHES = 16  # batches are made of rows of like length out of so many batches' rows


def shape_of(config: TransformerProxyConfig, vocab_size: int) -> ModelConfig:
    """Return the decoder's shape."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=2 * config.hidden_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.hidden_size // config.head_dim,
        num_key_value_heads=config.hidden_size // config.head_dim,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_tokens,
        tie_word_embeddings=True,
    )


class _Masters:
    """fp32 masters of a network that computes in another precision, and their optimizer."""

    def __init__(self, network: TextRegressor, config: TransformerProxyConfig) -> None:
        self._network = {name.removeprefix("backbone."): p for name, p in network.named_parameters()}
        self._masters = {name: nn.Parameter(p.detach().float().clone()) for name, p in self._network.items()}
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        self._optimizer = Optimizer(self._masters, config.optimizer, dtype)
        self._clip = config.optimizer.clip_norm

    def step(self, rate_factor: float) -> None:
        """Take the network's gradients, update the masters, and give the network their values."""
        for name, parameter in self._network.items():
            assert parameter.grad is not None, name
            self._masters[name].grad = parameter.grad.float()
            parameter.grad = None
        norm = torch.stack([gradient.norm() for gradient in self._optimizer.gradients()]).norm()
        self._optimizer.step(rate_factor, min(1.0, self._clip / max(float(norm), 1e-12)))
        with torch.no_grad():
            for name, parameter in self._network.items():
                parameter.copy_(self._masters[name])


def train_transformer(
    texts: Sequence[str],
    labels: NDArray[np.float64],
    validation: tuple[Sequence[str], NDArray[np.float64]],
    tokenizer: Tokenizer,
    config: TransformerProxyConfig,
    seed: int,
) -> tuple[TransformerScorer, dict[str, float]]:
    """Return the network of the best epoch on `validation`, and what it was. `labels` (N,) are 0..1."""
    network = TextRegressor(shape_of(config, tokenizer.vocab_size), seed)
    scorer = TransformerScorer(network, tokenizer, config.precision)
    masters = _Masters(network, config)
    generator = np.random.default_rng(seed)
    steps = config.epochs * len(_batches(np.ones(len(texts), np.int64), config.batch_rows, generator))
    best: dict[str, Tensor] = {}
    chosen = {"epoch": 0.0, "validation_spearman": -2.0}
    step = 0
    with Bar("transformer", steps, "steps") as bar:
        for epoch in range(1, config.epochs + 1):
            encoded = [_window(tokenizer, text, config, generator) for text in texts]
            network.train()
            for rows in _batches(np.array([len(ids) for ids in encoded]), config.batch_rows, generator):
                step += 1
                _loss(network, [encoded[row] for row in rows.tolist()], labels[rows], config, step).backward()
                masters.step(factor(config.schedule, step, steps))
                bar.advance()
            network.eval()
            value = spearman(scorer.logits(validation[0])[0], validation[1])
            if value > chosen["validation_spearman"]:
                chosen = {"epoch": float(epoch), "validation_spearman": value}
                best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(best)
    return scorer, chosen


def _loss(
    network: TextRegressor,
    encoded: list[NDArray[np.int64]],
    labels: NDArray[np.float64],
    config: TransformerProxyConfig,
    start: int,
) -> Tensor:
    """Return the cross-entropy with the labels (B,), and the weighted next-token loss on the same windows.

    The latter is taken at every `language_stride`-th of the T - 1 places, P in all, from `start` on (cyclically).
    """
    ids, lengths = padded(encoded)
    hidden = network.backbone(ids)  # (B, T, C)
    loss = binary_cross_entropy_with_logits(
        network.pooled_logits(hidden, lengths), torch.from_numpy(labels).to(torch.float32)
    )
    if config.language_weight and ids.shape[1] > 1:
        stride = config.language_stride
        places = torch.arange(ids.shape[1] - 1)[start % stride :: stride]  # (P,)
        targets = ids[:, places + 1].masked_fill(places[None] + 1 >= lengths[:, None], -100)
        if (targets >= 0).any():
            logits = network.backbone.logits(hidden[:, places])  # (B, P, V)
            loss = loss + config.language_weight * cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss


def _window(
    tokenizer: Tokenizer, text: str, config: TransformerProxyConfig, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the ids of the text's start or, half of the time, from a line start on, so that more of it is seen."""
    draw, place = generator.random(2)
    if config.window_shift and draw < 0.5:
        text = text[text.rfind("\n", 0, int(place * len(text))) + 1 :]
    return first_tokens(tokenizer, text, config.max_tokens)


def _batches(lengths: NDArray[np.int64], batch_rows: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return row numbers of batches in random order; a batch's rows are of like length, so that little is padding."""
    order = generator.permutation(len(lengths))
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), _POOL_BATCHES * batch_rows):
        pool = order[start : start + _POOL_BATCHES * batch_rows]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[first : first + batch_rows] for first in range(0, len(pool), batch_rows)]
    return [batches[number] for number in generator.permutation(len(batches))]
