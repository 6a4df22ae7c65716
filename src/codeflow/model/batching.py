"""Continuous batching: requests join and leave between steps, each with its own length, settings and random numbers.

A step reads the prompts of requests that join, each distinct one once, and then decodes one token of every running
row. A request's random numbers depend on its stream alone. Memory is reserved when a request joins, so that none has
to be thrown out later; those that find no room wait in order.

Not covered: prompts are read whole (a long one delays the running rows), speculative decoding.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.model.config import ModelConfig
from codeflow.model.decode import Decoder
from codeflow.model.kv_cache import BLOCK_TOKENS, Prompt, blocks_of
from codeflow.model.looped import LoopCoder
from codeflow.model.sampling import GenerateSettings, choose, log_total
from codeflow.tokens.text_stream import TextStream

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer

_READ_TOKENS = 8192  # prompts read in one pass have together at most this many tokens, padding included


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue. `stream` names its random numbers; with a tokenizer its text is made as well."""

    prompt: Sequence[int]
    settings: GenerateSettings
    stream: tuple[int, int] = (0, 0)
    tokenizer: Tokenizer | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of a request, and the text that became certain with it.

    `logprob` is that of the plain distribution, `sampling_logprob` of the one sampled from (0 when greedy). An empty
    `stop_reason` means that the request goes on; otherwise "stop", "length", "context", or "invalid" when the model's
    logits are not numbers.
    """

    ticket: int
    id: int
    logprob: float
    sampling_logprob: float
    text: str
    stop_reason: str
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens with their plain log-probabilities


@dataclass(slots=True)
class _Job:
    ticket: int
    prompt: tuple[int, ...]
    settings: GenerateSettings
    n_allowed: int
    uniform: list[float]
    text: TextStream | None
    n_made: int = 0
    last: int = 0
    row: int = -1

    @property
    def capacity(self) -> int:
        """Tokens that the cache must hold; the token that ends a row is never read back."""
        return len(self.prompt) + self.n_allowed - 1

    @property
    def n_own_blocks(self) -> int:
        return blocks_of(self.capacity) - len(self.prompt) // BLOCK_TOKENS


class ContinuousBatch:
    """A model that serves up to `max_rows` requests at a time out of one preallocated cache."""

    def __init__(
        self, model: LoopCoder, max_rows: int, row_tokens: int | None = None, cache_tokens: int | None = None
    ) -> None:
        """`row_tokens` bounds prompt and answer together (None: the model's context), `cache_tokens` the cache."""
        self.config = model.config
        limit = model.config.max_position_embeddings
        self.row_tokens = min(row_tokens or limit, limit)
        self.decoder = Decoder(model, self.row_tokens, max_rows, cache_tokens)
        self._device = model.embed_tokens.weight.device
        self._waiting: deque[_Job] = deque()
        self._wanted: Counter[tuple[int, ...]] = Counter()  # waiting requests by prompt
        self._read: dict[tuple[int, ...], Prompt] = {}
        self._running: dict[int, _Job] = {}
        self._tickets = 0

    @property
    def n_running(self) -> int:
        """Requests that hold a row."""
        return len(self._running)

    @property
    def n_waiting(self) -> int:
        """Requests that wait for one."""
        return len(self._waiting)

    def submit(self, request: Request) -> int:
        """Queue a request; returns the ticket that its pieces carry.

        Raises UserError for an empty prompt, ids outside the vocabulary, a prompt that fills the context, a request
        larger than the whole cache, stop texts without a tokenizer.
        """
        settings, prompt = request.settings, tuple(request.prompt)
        check_request(self.config, prompt, settings, request.tokenizer)
        n_allowed = min(settings.max_new_tokens, self.config.max_position_embeddings - len(prompt))
        text = None
        if request.tokenizer is not None:
            text = TextStream(request.tokenizer, settings.stop_ids, settings.stop_texts)
        uniform = _uniform(request.stream, n_allowed) if settings.temperature > 0 else []
        self._tickets += 1
        job = _Job(self._tickets, prompt, settings, n_allowed, uniform, text)
        if job.capacity > self.row_tokens or blocks_of(job.capacity) + 1 > self.decoder.cache.n_blocks:
            raise UserError(
                f"prompt of {len(prompt)} tokens and answer of {n_allowed} exceed the cache; "
                "ask for fewer tokens or reserve a larger cache"
            )
        self._waiting.append(job)
        self._wanted[prompt] += 1
        return job.ticket

    def cancel(self, ticket: int) -> None:
        """Forget a request; what it held is free for the next step. Unknown or finished tickets are ignored."""
        if ticket in self._running:
            self._leave(self._running[ticket])
            return
        for job in self._waiting:
            if job.ticket == ticket:
                self._waiting.remove(job)
                self._no_longer_waits(job.prompt)
                return

    @torch.no_grad()
    def step(self) -> list[Piece]:
        """Let requests join, then decode one token of each running one. Returns what was made (empty: nothing to do).

        A request that joins makes its first token here, so it may appear twice.
        """
        pieces = self._join()
        jobs = list(self._running.values())
        if jobs:
            ids = torch.tensor([[job.last] for job in jobs], device=self._device)
            logits = self.decoder.step([job.row for job in jobs], ids)[:, 0]
            pieces += self._advance(jobs, logits)
        return pieces

    def _join(self) -> list[Piece]:
        """Give waiting requests rows, in order, while there is room; reads their prompts and makes first tokens."""
        pieces: list[Piece] = []
        while joining := self._next_group():
            unread = list(dict.fromkeys(job.prompt for job in joining if job.prompt not in self._read))
            if unread:
                self._read.update(zip(unread, self.decoder.read(unread), strict=True))
            prompts = [self._read[job.prompt] for job in joining]
            rows = self.decoder.cache.open(prompts, [job.capacity for job in joining])
            for job, row in zip(joining, rows, strict=True):
                job.row = row
                self._running[job.ticket] = job
                self._waiting.popleft()
                self._no_longer_waits(job.prompt)
            pieces += self._advance(joining, torch.stack([prompt.logits for prompt in prompts]))
        return pieces

    def _next_group(self) -> list[_Job]:
        cache = self.decoder.cache
        n_rows, n_blocks = cache.n_free_rows, cache.n_free_blocks
        group: list[_Job] = []
        unread: set[tuple[int, ...]] = set()
        for job in self._waiting:
            new = job.prompt not in self._read and job.prompt not in unread
            need = job.n_own_blocks + (blocks_of(len(job.prompt)) if new else 0)
            if len(group) == n_rows or need > n_blocks:
                break
            if new:
                longest = max(len(job.prompt), *(len(prompt) for prompt in unread)) if unread else 0
                if longest * (len(unread) + 1) > _READ_TOKENS:
                    break
                unread.add(job.prompt)
            n_blocks -= need
            group.append(job)
        return group

    def _no_longer_waits(self, prompt: tuple[int, ...]) -> None:
        self._wanted[prompt] -= 1
        if not self._wanted[prompt]:
            del self._wanted[prompt]
            if prompt in self._read:
                self.decoder.cache.release(self._read.pop(prompt).blocks)

    def _leave(self, job: _Job) -> None:
        del self._running[job.ticket]
        self.decoder.cache.close(job.row)

    def _advance(self, jobs: list[_Job], logits: Tensor) -> list[Piece]:
        """Choose the next token of each job from logits (B, V)."""
        groups: dict[int, list[int]] = {}
        for i, job in enumerate(jobs):
            groups.setdefault(id(job.settings), []).append(i)
        pieces: list[Piece] = []
        for members in groups.values():
            some = [jobs[i] for i in members]
            pieces += self._advance_alike(some, logits if len(groups) == 1 else logits[members])
        return pieces

    def _advance_alike(self, jobs: list[_Job], logits: Tensor) -> list[Piece]:
        settings = jobs[0].settings
        uniform = None
        if settings.temperature > 0:
            numbers = [job.uniform[job.n_made] for job in jobs]
            uniform = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        chosen, plain, sampling = choose(logits, uniform, settings)
        tops: list[tuple[tuple[int, float], ...]] = [()] * len(jobs)
        if settings.top_logprobs:
            best = (logits - log_total(logits)[:, None]).topk(min(settings.top_logprobs, logits.shape[-1]))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            tops = [tuple(zip(ids, values, strict=True)) for ids, values in pairs]
        rows = zip(jobs, chosen.tolist(), plain.tolist(), sampling.tolist(), tops, strict=True)
        return [self._record(*row) for row in rows]

    def _record(
        self, job: _Job, token: int, logprob: float, sampling_logprob: float, top: tuple[tuple[int, float], ...]
    ) -> Piece:
        settings = job.settings
        job.n_made += 1
        job.last = token
        text = job.text.push(token) if job.text else ""
        reason = ""
        if not math.isfinite(logprob):
            reason = "invalid"
        elif token in settings.stop_ids or (job.text and job.text.stopped):
            reason = "stop"
        elif job.n_made == job.n_allowed:
            reason = "length" if job.n_made == settings.max_new_tokens else "context"
        if reason:
            text += job.text.finish() if job.text else ""
            self._leave(job)
        return Piece(job.ticket, token, logprob, sampling_logprob, text, reason, top)


def check_request(
    config: ModelConfig, prompt: Sequence[int], settings: GenerateSettings, tokenizer: Tokenizer | None
) -> None:
    """Raise UserError for what cannot be continued."""
    if not prompt:
        raise UserError("the prompt is empty; give at least one token, such as the beginning-of-text token")
    if len(prompt) >= config.max_position_embeddings:
        raise UserError(
            f"the prompt has {len(prompt)} tokens, which leaves no room in the context of "
            f"{config.max_position_embeddings} (max_position_embeddings); shorten it"
        )
    for name, ids in (("the prompt holds", prompt), ("stop_ids holds", settings.stop_ids)):
        wrong = next((token for token in ids if not 0 <= token < config.vocab_size), None)
        if wrong is not None:
            raise UserError(f"{name} id {wrong}, outside 0..{config.vocab_size - 1}; use the model's tokenizer")
    if settings.stop_texts and tokenizer is None:
        raise UserError("stop_texts needs a tokenizer to find them in; give one, or use stop_ids")


def _uniform(stream: tuple[int, int], n: int) -> list[float]:
    """Return n numbers in [0, 1): a function of the stream alone."""
    seed, index = stream
    generator = torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9) % 2**63)
    return torch.rand(n, dtype=torch.float64, generator=generator).tolist()
