"""The model under test behind a url: any OpenAI-compatible server (`codeflow serve`, vLLM, SGLang, ...)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.endpoint.completions import Asked, CompletionClient
from codeflow.endpoint.transport import RefusedError, ServerConfig, Transport, UnfitError
from codeflow.eval.answers import TOO_LONG, Answer, Question, seed_of
from codeflow.eval.benchmark import Sampling
from codeflow.tokens.chat import answer_text

_TOO_LONG = re.compile(r"context|too long|maximum.*tokens|max_tokens|room", re.IGNORECASE)
_TOO_LONG_STATUSES = (400, 413, 422)


class EndpointAnswerer:
    """A model behind a url. Its weights cannot be seen: the fingerprint is the url and the model's name."""

    def __init__(self, config: ServerConfig, logprobs: bool = True, transport: Transport | None = None) -> None:
        """Raises UserError when no model is named and the server has several, or does not answer as one."""
        self._client = CompletionClient(transport or Transport(config))
        self._config, self._logprobs = config, logprobs
        self.name = self._client.model

    @property
    def fingerprint(self) -> str:
        """The hash of the url and the model's name."""
        return hashlib.sha256(f"{self._config.url} {self.name}".encode()).hexdigest()

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        """Answer each once; those that do not fit into the model's context are said to be too long.

        Raises UserError where the server refuses, InfrastructureError where it cannot be reached.
        """
        with ThreadPoolExecutor(self._config.parallel) as pool:
            try:
                return list(pool.map(lambda question: self._answer(question, sampling, seed), questions))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _answer(self, question: Question, sampling: Sampling, seed: int) -> Answer:
        if question.hole is not None and not question.messages:
            raise UserError("a hole is filled in the model's own format, which a url does not know; use style=chat")
        asked = Asked(
            messages=tuple(message.as_row() for message in question.messages),
            prompt=question.text,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed_of(seed, question),
            logprobs=self._logprobs,
        )
        try:
            made = self._client.sample(asked)
        except RefusedError as error:
            if error.status in _TOO_LONG_STATUSES and _TOO_LONG.search(error.text):
                return Answer("", TOO_LONG, 0, math.nan)
            raise
        except UnfitError as error:
            raise InfrastructureError(f"{self._config.url}: {error}") from None
        text = answer_text(made.text) if question.messages else made.text
        return Answer(text, made.finish_reason, made.answer_tokens, made.confidence)
