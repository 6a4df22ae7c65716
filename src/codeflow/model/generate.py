"""Generating text in one call: greedy or sampled, ragged prompts, with the log-probability of every token.

A request's random numbers depend on its seed alone, so results do not depend on which requests share the batch, up to
rounding, which can turn a near tie: prompts are read together, and products of few rows may differ from those of many
in the last bit (on a CPU in fp32 and bf16, with oneDNN, steps after the prompt do not).
Equal prompts (samples of one task) are read once. For requests that come and go there is `model.batching`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from codeflow.core.errors import UserError
from codeflow.model.batching import ContinuousBatch, Piece, Request, check_request
from codeflow.model.kv_cache import BLOCK_TOKENS, blocks_of
from codeflow.model.looped import LoopCoder
from codeflow.model.sampling import GenerateSettings, distribution, sample

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer

__all__ = ["GenerateSettings", "Generation", "distribution", "generate", "sample"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What a request got. `ids` excludes the prompt and includes the stop id when `stop_reason` is "stop".

    `logprobs[i]` is log p(ids[i]) under the model's plain distribution, `sampling_logprobs[i]` under the one sampled
    from (0.0 when greedy). `stop_reason` is "stop", "length" (max_new_tokens) or "context" (the model's context is
    full). `text`, when a tokenizer was given, is without stop id and ends before a stop text, whose tokens `ids` has.
    """

    ids: list[int]
    logprobs: list[float]
    stop_reason: str
    sampling_logprobs: list[float] = field(default_factory=list)
    text: str = ""


def generate(
    model: LoopCoder,
    prompts: Sequence[Sequence[int]],
    settings: GenerateSettings,
    seeds: Sequence[int] | None = None,
    tokenizer: Tokenizer | None = None,
) -> list[Generation]:
    """Continue each prompt; results come in the order of `prompts`.

    `seeds` gives each request its own stream, so that it can be repeated alone; by default it is (settings.seed,
    index). Raises UserError for an empty prompt, ids outside the vocabulary, prompts that fill the context, stop texts
    without a tokenizer, and a model whose logits are not numbers.
    """
    if seeds is not None and len(seeds) != len(prompts):
        raise UserError(f"{len(seeds)} seeds for {len(prompts)} prompts; give one seed per prompt")
    for i, prompt in enumerate(prompts):
        try:
            check_request(model.config, prompt, settings, tokenizer)
        except UserError as error:
            raise UserError(f"prompt {i}: {error}") from None
    if not prompts:
        return []
    limit = model.config.max_position_embeddings
    sizes = sorted((min(len(prompt) + settings.max_new_tokens, limit) for prompt in prompts), reverse=True)
    n_rows = min(settings.max_batch, len(prompts))
    # Beside its row a prompt holds its last block while it is read.
    cache_tokens = sum((blocks_of(size) + 1) * BLOCK_TOKENS for size in sizes[:n_rows])
    batch = ContinuousBatch(model, n_rows, sizes[0], cache_tokens)
    # Neighbours in length waste the least padding; equal prompts come together and share their reading.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), list(prompts[i]), i))
    requests = {}
    for i in order:
        stream = (settings.seed, i) if seeds is None else (seeds[i], 0)
        requests[batch.submit(Request(prompts[i], settings, stream, tokenizer))] = i
    pieces: list[list[Piece]] = [[] for _ in prompts]
    while made := batch.step():
        for piece in made:
            i = requests[piece.ticket]
            pieces[i].append(piece)
            if piece.stop_reason == "invalid":
                raise UserError(f"prompt {i}: the model's logits are not numbers; its weights are broken")
    return [_generation(some) for some in pieces]


def _generation(pieces: Sequence[Piece]) -> Generation:
    return Generation(
        [piece.id for piece in pieces],
        [piece.logprob for piece in pieces],
        pieces[-1].stop_reason,
        [piece.sampling_logprob for piece in pieces],
        "".join(piece.text for piece in pieces),
    )
