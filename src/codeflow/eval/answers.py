"""Who answers a benchmark's questions: a model in this process, or anything else that has `answer`."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from codeflow.eval.benchmark import Sampling
from codeflow.eval.holes import Hole, fitting_prompt
from codeflow.tokens.chat import Message, answer_text, prompt_segments
from codeflow.tokens.special import END_OF_TEXT_ID, IM_END_ID

if TYPE_CHECKING:
    from codeflow.core.types import Segment
    from codeflow.model.looped import LoopCoder
    from codeflow.tokens.tokenizer import Tokenizer

TOO_LONG = "prompt too long"
_STOP_IDS = (IM_END_ID, END_OF_TEXT_ID)


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation to continue, or a text where there are no messages, or a hole to fill where there is one.

    `name` and `sample` seed its randomness.
    """

    name: str
    sample: int
    messages: tuple[Message, ...]
    text: str
    hole: Hole | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `confidence` is the geometric mean of the tokens' probabilities, NaN where it is not known."""

    text: str
    stop_reason: str
    n_tokens: int
    confidence: float


class Answerer(Protocol):
    """A model under test."""

    @property
    def name(self) -> str:
        """What scores show."""
        ...

    @property
    def fingerprint(self) -> str:
        """A text that changes when the model does."""
        ...

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        """Return one answer to each question. Raises InfrastructureError when the model cannot be reached."""
        ...


class LocalAnswerer:
    """A model in this process."""

    def __init__(
        self,
        folder: Path,
        name: str,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        batch: int = 32,
        thinking: bool = False,
    ) -> None:
        self.folder, self.name, self.dtype, self.batch, self.thinking = folder, name, dtype, batch, thinking

    @property
    def fingerprint(self) -> str:
        """The hash of the weights, the tokenizer and how they are run."""
        return self._hashed

    @functools.cached_property
    def _hashed(self) -> str:
        digest = hashlib.sha256(f"{self.dtype} {self.thinking}".encode())
        for path in sorted((*self.folder.glob("*.safetensors"), *self.folder.glob("*.json"))):
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @functools.cached_property
    def _loaded(self) -> tuple[LoopCoder, Tokenizer]:
        import torch

        from codeflow.model.huggingface import load
        from codeflow.tokens.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(self.folder)
        model = load(self.folder, getattr(torch, self.dtype), "cuda" if torch.cuda.is_available() else "cpu").eval()
        model.config.check_vocabulary(tokenizer.vocab_size)
        return model, tokenizer

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        """Answer each once.

        A text that is too long loses its beginning, a hole its context; a conversation is refused.
        """
        from codeflow.model.generate import GenerateSettings, generate

        model, tokenizer = self._loaded
        room = model.config.max_position_embeddings - sampling.max_new_tokens
        prompts = [self._prompt(question, tokenizer, room) for question in questions]
        asked = [number for number, prompt in enumerate(prompts) if prompt]
        settings = GenerateSettings(
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop_ids=_STOP_IDS,
            max_batch=self.batch,
        )
        seeds = [seed_of(seed, questions[number]) for number in asked]
        made = generate(model, [prompts[number] for number in asked], settings, seeds) if asked else []
        answers = [Answer("", TOO_LONG, 0, math.nan)] * len(questions)
        for number, one in zip(asked, made, strict=True):
            ids = one.ids[:-1] if one.stop_reason == "stop" else one.ids
            text = tokenizer.decode(ids)
            if questions[number].messages:
                text = answer_text("<think>" + text if self.thinking else text)
            mean = sum(one.logprobs) / len(one.logprobs) if one.logprobs else math.nan
            answers[number] = Answer(text, one.stop_reason, len(one.ids), math.exp(mean))
        return answers

    def _prompt(self, question: Question, tokenizer: Tokenizer, room: int) -> list[int]:
        encode = functools.partial(_encoded, tokenizer)
        if question.hole is not None:
            return list(fitting_prompt(question.hole, encode, room))
        if not question.messages:
            return tokenizer.encode(question.text)[-room:] if room > 0 else []
        ids = encode(prompt_segments(question.messages, self.thinking))
        return ids if len(ids) <= room else []


def _encoded(tokenizer: Tokenizer, segments: Sequence[Segment]) -> list[int]:
    ids: list[int] = []
    for segment in segments:
        special = segment.role == "special"
        ids += [tokenizer.special_id(segment.text)] if special else tokenizer.encode(segment.text)
    return ids


def seed_of(seed: int, question: Question) -> int:
    """Return the seed of one answer, a function of the run's seed, the question's name and the sample."""
    digest = hashlib.sha256(f"{seed}/{question.name}/{question.sample}".encode()).digest()
    return int.from_bytes(digest[:7], "little")
