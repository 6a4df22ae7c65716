"""Choosing tokens: settings, the distribution that they make of logits, and drawing from it.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from codeflow.core.config import Config
from codeflow.kernels.arrays import as_array, compilable, compiled_step_functions

_COLDEST = 1e-4  # logits divided by less leave fp32
_BLOCK = 128  # at most so many probabilities are summed one by one when a token is looked up


class GenerateSettings(Config):
    """How to choose tokens. `temperature` 0 is greedy. Filters: top-k, then top-p, then min-p; 0, 1 and 0 are off."""

    max_new_tokens: PositiveInt
    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0  # keep the k most likely tokens
    top_p: float = 1.0  # keep the fewest tokens whose probabilities reach p
    min_p: float = 0.0  # keep tokens at least min_p times as likely as the most likely one
    stop_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()  # need a tokenizer; the text ends before the first that comes
    top_logprobs: NonNegativeInt = 0  # also tell the most likely tokens at each place
    seed: int = 0  # request i draws from (seed, i) unless seeds are given
    max_batch: PositiveInt = 32

    @model_validator(mode="after")
    def _within_bounds(self) -> GenerateSettings:
        if not (self.temperature == 0 or _COLDEST <= self.temperature < math.inf):
            raise ValueError(f"temperature={self.temperature} must be 0 (greedy) or a number from {_COLDEST}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]; 1 switches it off")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must lie in [0, 1]; 0 switches it off")
        if "" in self.stop_texts:
            raise ValueError("stop_texts holds an empty text, which would stop at once; leave it out")
        return self

    @property
    def plain(self) -> bool:
        """True when tokens are drawn from the model's own distribution."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1 and self.min_p == 0


def distribution(logits: Tensor, settings: GenerateSettings) -> Tensor:
    """Return the probabilities (B, V) that are sampled from, for logits (B, V) and temperature > 0."""
    if settings.temperature != 1:
        logits = logits / settings.temperature
    if 0 < settings.top_k < logits.shape[-1]:
        smallest = logits.topk(settings.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    if settings.top_p < 1:
        ordered, order = logits.softmax(-1).sort(dim=-1, descending=True, stable=True)
        excess = ordered.cumsum(-1) - ordered >= settings.top_p  # the mass before this token is enough already
        logits = logits.masked_fill(excess.scatter(1, order, excess), -torch.inf)
    probabilities = logits.softmax(-1)
    if settings.min_p > 0:
        floor = settings.min_p * probabilities.amax(-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def sample(logits: Tensor, uniform: Tensor, settings: GenerateSettings) -> tuple[Tensor, Tensor]:
    """Return tokens (B,) and their log-probabilities under the sampled distribution, by inverting its sum at `uniform`.

    logits (B, V), uniform (B,) in [0, 1). The sum is taken over blocks of the vocabulary, then inside the block found.
    """
    probabilities = distribution(logits, settings)
    blocks = probabilities.unflatten(-1, (-1, _block(probabilities.shape[-1])))  # (B, blocks, block)
    mass = blocks.sum(-1).to(torch.float64).cumsum(-1)
    target = uniform.to(torch.float64)[:, None] * mass[:, -1:]
    which = _first_above(mass, target)
    inside = blocks.gather(1, which[..., None].expand(-1, 1, blocks.shape[-1]))[:, 0].to(torch.float64).cumsum(-1)
    before = torch.where(which > 0, mass.gather(1, (which - 1).clamp(min=0)), 0.0)
    chosen = which * blocks.shape[-1] + _first_above(inside, target - before)
    return chosen[:, 0], probabilities.gather(1, chosen)[:, 0].log()


def _first_above(sums: Tensor, target: Tensor) -> Tensor:
    """Return the first index (B, 1) of rising sums (B, n) above target (B, 1); rounding leads at most to the last
    index that adds something, and NaN to any."""
    last = torch.searchsorted(sums, sums[:, -1:].contiguous())
    return torch.minimum(torch.searchsorted(sums, target, right=True), last).clamp(max=sums.shape[1] - 1)


def _block(size: int) -> int:
    """Return the largest divisor of `size` up to _BLOCK."""
    return next(n for n in range(min(size, _BLOCK), 0, -1) if size % n == 0)


def logprob(logits: Tensor, chosen: Tensor) -> Tensor:
    """Return log softmax(logits)[chosen] (B,) of logits (B, V)."""
    return logits.gather(1, chosen[:, None])[:, 0] - log_total(logits)


def log_total(logits: Tensor) -> Tensor:
    """Return log(sum(exp(logits))) (B,); several times faster than torch.logsumexp on a CPU."""
    top = logits.amax(-1, keepdim=True)
    return (logits - top).exp_().sum(-1).log() + top[:, 0]


def choose(logits: Tensor, uniform: Tensor | None, settings: GenerateSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens (B,), their plain log-probabilities, and those under the distribution sampled from (greedy: 0)."""
    if uniform is None and compilable(logits):
        chosen, plain = torch.empty(len(logits), dtype=torch.int64), torch.empty(len(logits))
        compiled_step_functions().greedy(as_array(logits), chosen.numpy(), plain.numpy())
        return chosen, plain, torch.zeros(len(logits))
    if uniform is None:
        blocks = logits.unflatten(-1, (-1, _block(logits.shape[-1])))
        which = blocks.amax(-1).argmax(-1, keepdim=True)
        inside = blocks.gather(1, which[..., None].expand(-1, 1, blocks.shape[-1]))[:, 0].argmax(-1)
        chosen = which[:, 0] * blocks.shape[-1] + inside
        return chosen, logprob(logits, chosen), torch.zeros(len(logits))
    chosen, sampling = sample(logits, uniform, settings)
    return chosen, sampling if settings.plain else logprob(logits, chosen), sampling
