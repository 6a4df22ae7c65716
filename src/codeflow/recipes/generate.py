"""Continuing text with a checkpoint: plain prompts, files, a hole between two texts, one chat message.

The work of `codeflow generate`: finds the model in an artifact or a published directory, renders the prompt in the
format that the model was trained on, and writes the text as its tokens come. One sequence at a time; for many at once
there is `codeflow.model.generate`.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import BEGIN
from codeflow.core.progress import say
from codeflow.core.types import Segment
from codeflow.tokens.special import (
    END_OF_TEXT,
    FIM_MIDDLE,
    FIM_PREFIX,
    FIM_SUFFIX,
    IM_END,
    SPECIAL_IDS,
    SPECIAL_TOKENS,
)

if TYPE_CHECKING:
    from codeflow.model.generate import GenerateSettings
    from codeflow.model.looped import LoopCoder
    from codeflow.tokens.tokenizer import Tokenizer

MODEL_CONFIG = "config.json"
_SOURCES = ("prompt", "file", "fim", "chat")
_ALWAYS_STOP = (END_OF_TEXT, IM_END)


class GenerateRequest(Config):
    """What to continue, and how. Exactly one of `prompt`, `file`, `fim` and `chat` is given."""

    prompt: str | None = None
    file: Path | None = None  # UTF-8 text to continue
    fim: tuple[str, str] | None = None  # prefix and suffix of the hole to fill
    chat: str | None = None  # the user's message
    system: str = ""  # message before the user's
    thinking: bool = False  # let the assistant think first
    max_new_tokens: PositiveInt = 128
    temperature: NonNegativeFloat = 0.0  # 0 is greedy
    top_k: NonNegativeInt = 0
    top_p: float = 1.0
    seed: NonNegativeInt = 0
    samples: PositiveInt = 1
    stop: tuple[str, ...] = ()  # special tokens to stop at, besides the end of text and of a turn

    @model_validator(mode="after")
    def _one_source(self) -> GenerateRequest:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of prompt, file, fim and chat, not {' and '.join(given) or 'none'}")
        if self.chat is None and (self.system or self.thinking):
            raise ValueError("system and thinking belong to chat; give chat a message, or leave them out")
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples={self.samples} would all be equal at temperature 0; set a temperature such as 0.8"
            )
        return self


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """One sample. `stop_reason` is "stop", "length" (max_new_tokens) or "context" (the model's context is full)."""

    text: str  # without the token that ended it
    ids: tuple[int, ...]  # with it
    stop_reason: str


def generate_text(
    checkpoint: Path, request: GenerateRequest, write: Callable[[str], None] | None = None
) -> list[GeneratedText]:
    """Continue a prompt `request.samples` times, passing every piece of text to `write` as it comes.

    `checkpoint` is a checkpoint artifact or a Hugging Face directory with tokenizer.json. Between several samples a
    line is written. Equal checkpoint and request give equal text on one machine. Raises UserError for a folder that is
    no checkpoint, an empty prompt or one that fills the context, an unreadable file, an unknown stop token.
    """
    from codeflow.model.generate import GenerateSettings

    stop_ids = tuple(sorted({SPECIAL_IDS[name] for name in _ALWAYS_STOP} | {_stop_id(name) for name in request.stop}))
    fields = request.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p", "seed"})
    settings = validate(GenerateSettings, {**fields, "stop_ids": stop_ids})
    parts = prompt_parts(request)
    folder = find_model(checkpoint)
    model, tokenizer = _load(folder)
    prompt = _render(parts, tokenizer, model.config.max_position_embeddings)
    write = write or _nowhere
    found: list[GeneratedText] = []
    for number in range(request.samples):
        if request.samples > 1:
            write(f"--- sample {number + 1} of {request.samples} ---\n")
        found.append(_one(model, tokenizer, prompt, settings, number, write))
        if not found[-1].text.endswith("\n"):
            write("\n")
    if any(one.stop_reason == "context" for one in found):
        say(f"stopped: the context of {model.config.max_position_embeddings} tokens is full")
    return found


def _nowhere(_: str) -> None:
    pass


def _stop_id(name: str) -> int:
    if name not in SPECIAL_IDS:
        raise UserError(f"stop token '{name}' is no special token{suggest(name, SPECIAL_TOKENS)}")
    return SPECIAL_IDS[name]


def prompt_parts(request: GenerateRequest) -> tuple[Segment, ...]:
    """Return the prompt as segments. Raises UserError when it is empty or its file cannot be read as text."""
    if request.fim is not None:
        prefix, suffix = request.fim
        _require(prefix + suffix, "fim has an empty prefix and an empty suffix; give text on one side of the hole")
        parts = (
            Segment("special", FIM_PREFIX),
            Segment("text", prefix),
            Segment("special", FIM_SUFFIX),
            Segment("text", suffix),
            Segment("special", FIM_MIDDLE),
        )
        return tuple(part for part in parts if part.text)
    if request.chat is not None:
        from codeflow.tokens.chat import Message, prompt_segments

        _require(request.chat.strip(), "the chat message is empty; write what the assistant should answer")
        system = [Message("system", request.system)] if request.system else []
        return prompt_segments([*system, Message("user", request.chat)], request.thinking)
    if request.file is not None:
        text = _read(request.file)
        _require(text, f"{request.file} is empty; give a file with text to continue")
        return (Segment("text", text),)
    text = request.prompt or ""
    _require(text, "the prompt is empty; give text to continue")
    return (Segment("text", text),)


def _require(text: str, complaint: str) -> None:
    if not text:
        raise UserError(complaint)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")  # line ends stay as they are
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); give a text file") from None


def find_model(checkpoint: Path) -> Path:
    """Return the Hugging Face directory that `checkpoint` is or holds (an artifact's `model/`).

    Raises UserError when there is none, the artifact is unfinished, or it holds several (a release).
    """
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint} is no folder; give a checkpoint such as runs/tiny/train_anneal")
    if (checkpoint / BEGIN).exists():
        raise UserError(f"{checkpoint} is unfinished; run the stage that makes it to its end first")
    for folder in (checkpoint / "model", checkpoint):
        if _is_model(folder):
            return folder
    inside = sorted(path.name for path in checkpoint.iterdir() if path.is_dir() and _is_model(path))
    if inside:
        raise UserError(
            f"{checkpoint} holds several models; name one: {', '.join(str(checkpoint / n) for n in inside)}"
        )
    raise UserError(
        f"{checkpoint} is not a checkpoint (no model/{MODEL_CONFIG}, no {MODEL_CONFIG} of a model); "
        "give a checkpoint artifact or a published directory"
    )


def _is_model(folder: Path) -> bool:
    path = folder / MODEL_CONFIG  # an artifact has a file of that name too, but no model_type in it
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(tree, dict) and "model_type" in tree


def _load(folder: Path) -> tuple[LoopCoder, Tokenizer]:
    import torch

    from codeflow.model.huggingface import load
    from codeflow.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    model = load(folder, torch.float32, "cuda" if torch.cuda.is_available() else "cpu").eval()
    model.config.check_vocabulary(tokenizer.vocab_size)
    return model, tokenizer


def _render(parts: Sequence[Segment], tokenizer: Tokenizer, context_tokens: int) -> list[int]:
    ids = [
        token
        for part in parts
        for token in ([tokenizer.special_id(part.text)] if part.role == "special" else tokenizer.encode(part.text))
    ]
    if len(ids) >= context_tokens:
        raise UserError(
            f"the prompt has {len(ids)} tokens, which leaves no room in the model's context of {context_tokens}; "
            f"shorten it to at most {context_tokens - 1}"
        )
    return ids


def _one(
    model: LoopCoder,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    settings: GenerateSettings,
    number: int,
    write: Callable[[str], None],
) -> GeneratedText:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")  # a character may span tokens
    ids: list[int] = []
    pieces: list[str] = []

    def show(piece: str) -> None:
        if piece:
            pieces.append(piece)
            write(piece)

    for token in stream(model, prompt, settings, number):
        ids.append(token)
        if token >= tokenizer.vocab_size:  # the model has rows to spare
            show(decoder.decode("\ufffd".encode()))
        elif token not in settings.stop_ids:
            show(decoder.decode(tokenizer.decode_bytes([token])))
    show(decoder.decode(b"", final=True))
    if ids[-1] in settings.stop_ids:
        reason = "stop"
    else:
        reason = "length" if len(ids) == settings.max_new_tokens else "context"
    return GeneratedText("".join(pieces), tuple(ids), reason)


def stream(model: LoopCoder, prompt: Sequence[int], settings: GenerateSettings, number: int = 0) -> Iterator[int]:
    """Yield the tokens that continue `prompt`, the stop token included; greedy ones equal those of `generate`.

    Random numbers depend on (settings.seed, number) alone. `prompt` leaves room in the model's context.
    """
    import torch

    from codeflow.model.decode import Decoder
    from codeflow.model.generate import sample

    allowed = min(settings.max_new_tokens, model.config.max_position_embeddings - len(prompt))
    decoder = Decoder(model, len(prompt) + allowed)
    draws = torch.Generator().manual_seed((settings.seed * 1_000_003 + number) % 2**63)
    logits = decoder.prefill([prompt])
    for step in range(allowed):
        if settings.temperature > 0:
            uniform = torch.rand(1, dtype=torch.float64, generator=draws).to(logits.device)
            chosen, _ = sample(logits, uniform, settings)
        else:
            chosen = logits.argmax(-1)
        token = int(chosen)
        yield token
        if token in settings.stop_ids:
            return
        if step + 1 < allowed:
            logits = decoder.extend(chosen[:, None])[:, 0]
