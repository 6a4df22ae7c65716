"""Generating text: greedy or sampled, in batches of ragged prompts, with the log-probability of every token.

A request's random numbers depend on its seed alone, so results do not depend on which requests share a batch, up to
the rounding of matrix products: on CPU a product of few rows may differ from the same rows of a larger one in the
last bit, which can turn a near tie. Equal prompts (samples of one task) share one prefill. Not covered: stop strings.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.model.config import ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.looped import LoopCoder


class GenerateSettings(Config):
    """How to choose tokens. `temperature` 0 is greedy. Filters: top-k, then top-p, then min-p; 0, 1 and 0 are off."""

    max_new_tokens: PositiveInt
    temperature: NonNegativeFloat = 0.0
    top_k: NonNegativeInt = 0  # keep the k most likely tokens
    top_p: float = 1.0  # keep the fewest tokens whose probabilities reach p
    min_p: float = 0.0  # keep tokens at least min_p times as likely as the most likely one
    stop_ids: tuple[int, ...] = ()
    seed: int = 0  # request i draws from (seed, i) unless seeds are given
    max_batch: PositiveInt = 32

    @model_validator(mode="after")
    def _fractions(self) -> GenerateSettings:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must lie in (0, 1]; 1 switches it off")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p} must lie in [0, 1]; 0 switches it off")
        return self


@dataclass(frozen=True, slots=True)
class Generation:
    """What a request got. `ids` excludes the prompt and includes the stop id when `stop_reason` is "stop".

    `logprobs[i]` is log p(ids[i]) under the model's plain distribution, `sampling_logprobs[i]` under the one sampled
    from (0.0 when greedy). `stop_reason` is "stop", "length" (max_new_tokens) or "context" (the model's context is
    full).
    """

    ids: list[int]
    logprobs: list[float]
    stop_reason: str
    sampling_logprobs: list[float] = field(default_factory=list)


@torch.no_grad()
def generate(
    model: LoopCoder,
    prompts: Sequence[Sequence[int]],
    settings: GenerateSettings,
    seeds: Sequence[int] | None = None,
) -> list[Generation]:
    """Continue each prompt; results come in the order of `prompts`.

    `seeds` gives each request its own stream, so that it can be repeated alone; by default it is (settings.seed,
    index). Raises UserError for an empty prompt, ids outside the vocabulary, prompts that fill the context.
    """
    _check(model.config, prompts, settings)
    if seeds is not None and len(seeds) != len(prompts):
        raise UserError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    streams = [(settings.seed, i) if seeds is None else (seeds[i], 0) for i in range(len(prompts))]
    # Neighbours in length waste the least padding; equal prompts come together and share their prefill.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i]), i))
    results: dict[int, Generation] = {}
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(order), settings.max_batch):
            indices = order[start : start + settings.max_batch]
            batch = _Batch([prompts[i] for i in indices], [streams[i] for i in indices], model, settings)
            results.update(zip(indices, batch.run(), strict=True))
    finally:
        model.train(was_training)
    return [results[i] for i in range(len(prompts))]


def _check(config: ModelConfig, prompts: Sequence[Sequence[int]], settings: GenerateSettings) -> None:
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty; give at least one token, such as the beginning-of-text token")
        if len(prompt) >= config.max_position_embeddings:
            raise UserError(
                f"prompt {i} has {len(prompt)} tokens, which leaves no room in the context of "
                f"{config.max_position_embeddings} (max_position_embeddings); shorten it"
            )
        if min(prompt) < 0 or max(prompt) >= config.vocab_size:
            wrong = next(token for token in prompt if not 0 <= token < config.vocab_size)
            raise UserError(
                f"prompt {i} holds id {wrong}, outside 0..{config.vocab_size - 1}; use the model's tokenizer"
            )
    for token in settings.stop_ids:
        if not 0 <= token < config.vocab_size:
            raise UserError(f"stop id {token} is outside 0..{config.vocab_size - 1}; use the model's tokenizer")


class _Batch:
    """Requests decoded together. Rows that finish are dropped from the batch when they are a third of it."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        streams: Sequence[tuple[int, int]],
        model: LoopCoder,
        settings: GenerateSettings,
    ) -> None:
        self.prompts = [tuple(prompt) for prompt in prompts]
        self.settings = settings
        limit = model.config.max_position_embeddings
        self.allowed = [min(settings.max_new_tokens, limit - len(prompt)) for prompt in prompts]
        # Slots are aligned at the prompts' right end, so the last token of the longest row decides; the token that
        # ends a row is never read back.
        longest = max(len(prompt) for prompt in prompts)
        self.decoder = Decoder(model, longest + max(self.allowed) - 1)
        self.uniform = _uniform(streams, max(self.allowed)) if settings.temperature > 0 else None
        self.ids: list[list[int]] = [[] for _ in prompts]
        self.logprobs: list[list[float]] = [[] for _ in prompts]
        self.sampling_logprobs: list[list[float]] = [[] for _ in prompts]
        self.reasons = [""] * len(prompts)

    def run(self) -> list[Generation]:
        """Decode until every row has finished."""
        unique = list(dict.fromkeys(self.prompts))
        logits = self.decoder.prefill(unique)
        rows = list(range(len(self.prompts)))  # rows[j]: the request that slot row j of the decoder serves
        if len(unique) < len(self.prompts):
            where = [unique.index(prompt) for prompt in self.prompts]
            self.decoder.select(where)
            logits = logits[where]
        for step in range(max(self.allowed)):
            chosen = self._choose(logits, rows, step)
            alive = [j for j, request in enumerate(rows) if not self.reasons[request]]
            if not alive:
                break
            if 3 * (len(rows) - len(alive)) >= len(rows):
                self.decoder.select(alive)
                rows, chosen = [rows[j] for j in alive], chosen[alive]
            logits = self.decoder.extend(chosen[:, None])[:, 0]
        return [
            Generation(*parts)
            for parts in zip(self.ids, self.logprobs, self.reasons, self.sampling_logprobs, strict=True)
        ]

    def _choose(self, logits: Tensor, rows: list[int], step: int) -> Tensor:
        """Pick the next token (B,) of each row and record it for the requests that go on."""
        if self.uniform is None:
            chosen = logits.argmax(-1)
            sampling = torch.zeros(len(rows))
        else:
            chosen, sampling = sample(logits, self.uniform[rows, step].to(logits.device), self.settings)
        plain = (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)).tolist()
        for j, (request, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if self.reasons[request]:
                continue
            self.ids[request].append(token)
            self.logprobs[request].append(plain[j])
            self.sampling_logprobs[request].append(float(sampling[j]))
            if token in self.settings.stop_ids:
                self.reasons[request] = "stop"
            elif step + 1 == self.allowed[request]:
                self.reasons[request] = "length" if step + 1 == self.settings.max_new_tokens else "context"
        return chosen


def _uniform(streams: Sequence[tuple[int, int]], n_steps: int) -> Tensor:
    """Return fp64 numbers in [0, 1), (B, n_steps): a function of each request's stream alone."""
    rows = []
    for seed, index in streams:
        generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9) % 2**63)
        rows.append(torch.rand(n_steps, dtype=torch.float64, generator=generator))
    return torch.stack(rows)


def distribution(logits: Tensor, settings: GenerateSettings) -> Tensor:
    """Return the probabilities (B, V) that are sampled from, for logits (B, V) and temperature > 0."""
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

    logits (B, V), uniform (B,) in [0, 1).
    """
    probabilities = distribution(logits, settings)
    mass = probabilities.to(torch.float64).cumsum(-1)
    target = uniform.to(torch.float64)[:, None] * mass[:, -1:]
    chosen = torch.searchsorted(mass, target, right=True)[:, 0]
    chosen = torch.minimum(chosen, (probabilities > 0).to(torch.int64).cumsum(-1).argmax(-1))
    return chosen, probabilities.gather(1, chosen[:, None])[:, 0].log()
