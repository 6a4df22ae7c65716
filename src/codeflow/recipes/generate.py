"""Continuing text with a checkpoint: plain prompts, files, a hole between two texts, one chat message.

The work of `codeflow generate`: finds the model in an artifact or a published directory, renders the prompt in the
format that the model was trained on, and writes the text as its tokens come. Samples are decoded together; the first is
shown as it comes, the others as each is done before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from codeflow.core.config import Config, apply_overrides, validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import BEGIN
from codeflow.core.progress import say
from codeflow.core.types import Segment
from codeflow.solve.answer import stops
from codeflow.solve.prompt import fim_segments, render_prompt

if TYPE_CHECKING:
    from codeflow.model.batching import Piece
    from codeflow.model.looped import LoopCoder
    from codeflow.model.sampling import GenerateSettings
    from codeflow.tokens.tokenizer import Tokenizer

MODEL_CONFIG = "config.json"
_SOURCES = ("prompt", "file", "fim", "chat")
_MAX_ROWS = 16  # samples decoded at a time


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
    min_p: float = 0.0
    seed: NonNegativeInt = 0  # sample n draws from (seed, n)
    samples: PositiveInt = 1
    stop: tuple[str, ...] = ()  # texts or special tokens to stop at, besides the end of text and of a turn

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

    text: str  # without the token or the text that ended it
    ids: tuple[int, ...]  # with it
    stop_reason: str
    logprobs: tuple[float, ...]  # of each id under the model's plain distribution


def generate_text(
    checkpoint: Path, request: GenerateRequest, write: Callable[[str], None] | None = None
) -> list[GeneratedText]:
    """Continue a prompt `request.samples` times, passing every piece of text to `write` as it comes.

    `checkpoint` is a checkpoint artifact or a Hugging Face directory with tokenizer.json. Between several samples a
    line is written. Equal checkpoint and request give equal text on one machine. Raises UserError for a folder that is
    no checkpoint, an empty prompt or one that fills the context, an unreadable file, a model with broken weights.
    """
    from codeflow.model.sampling import GenerateSettings

    stop_ids, texts = stops(request.stop)
    fields = request.model_dump(include={"max_new_tokens", "temperature", "top_k", "top_p", "min_p"})
    settings = validate(GenerateSettings, {**fields, "stop_ids": stop_ids, "stop_texts": texts})
    parts = prompt_parts(request)
    model, tokenizer = load_checkpoint(find_model(checkpoint))
    prompt = _render(parts, tokenizer, model.config.max_position_embeddings)
    found = _samples(model, tokenizer, prompt, settings, request, write or _nowhere)
    if any(one.stop_reason == "context" for one in found):
        say(f"stopped: the context of {model.config.max_position_embeddings} tokens is full")
    return found


def _nowhere(_: str) -> None:
    pass


def serve_checkpoint(checkpoint: Path, host: str, port: int, name: str | None, settings: Sequence[str]) -> None:
    """Serve a checkpoint under `name` (None: its folder's) until SIGTERM or Ctrl-C; see `solve.serve`.

    Raises UserError for a folder that is no checkpoint, a wrong setting, a taken port, and when starlette and uvicorn
    are missing.
    """
    try:
        from codeflow.solve.serve import ServeConfig, Served, serve
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}; install it with: pip install 'codeflow[serve]'") from None
    config = apply_overrides(ServeConfig(), [f"host={host}", f"port={port}", *settings])
    folder = find_model(checkpoint)
    model, tokenizer = load_checkpoint(folder)
    serve(Served(name or checkpoint.resolve().name, model, tokenizer), config)


def prompt_parts(request: GenerateRequest) -> tuple[Segment, ...]:
    """Return the prompt as segments. Raises UserError when it is empty or its file cannot be read as text."""
    if request.fim is not None:
        prefix, suffix = request.fim
        _require(prefix + suffix, "fim has an empty prefix and an empty suffix; give text on one side of the hole")
        return fim_segments(prefix, suffix)
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


def load_checkpoint(folder: Path) -> tuple[LoopCoder, Tokenizer]:
    """Load model (fp32) and tokenizer of a Hugging Face directory, onto an accelerator where there is one."""
    import torch

    from codeflow.model.huggingface import load
    from codeflow.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    model = load(folder, torch.float32, "cuda" if torch.cuda.is_available() else "cpu").eval()
    model.config.check_vocabulary(tokenizer.vocab_size)
    return model, tokenizer


def _render(parts: Sequence[Segment], tokenizer: Tokenizer, context_tokens: int) -> list[int]:
    ids = render_prompt(parts, tokenizer)
    if len(ids) >= context_tokens:
        raise UserError(
            f"the prompt has {len(ids)} tokens, which leaves no room in the model's context of {context_tokens}; "
            f"shorten it to at most {context_tokens - 1}"
        )
    return ids


def _samples(
    model: LoopCoder,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    settings: GenerateSettings,
    request: GenerateRequest,
    write: Callable[[str], None],
) -> list[GeneratedText]:
    """Decode all samples together and write them one behind the other, each as soon as those before it are done."""
    from codeflow.model.batching import ContinuousBatch, Request

    n_tokens = len(prompt) + settings.max_new_tokens
    batch = ContinuousBatch(model, min(request.samples, _MAX_ROWS), n_tokens)
    tickets = [
        batch.submit(Request(prompt, settings, (request.seed, number), tokenizer)) for number in range(request.samples)
    ]
    pieces: dict[int, list[Piece]] = {ticket: [] for ticket in tickets}
    shown = written = 0  # the sample being written, and how many of its pieces are
    while made := batch.step():
        for piece in made:
            if piece.stop_reason == "invalid":
                raise UserError("the model's logits are not numbers: its weights are broken; give another checkpoint")
            pieces[piece.ticket].append(piece)
        while shown < len(tickets) and (ready := pieces[tickets[shown]][written:]):
            if not written and request.samples > 1:
                write(f"--- sample {shown + 1} of {request.samples} ---\n")
            for piece in ready:
                if piece.text:
                    write(piece.text)
            written += len(ready)
            if not ready[-1].stop_reason:
                break
            if not _joined(pieces[tickets[shown]]).endswith("\n"):
                write("\n")
            shown, written = shown + 1, 0
    return [
        GeneratedText(
            _joined(some),
            tuple(piece.id for piece in some),
            some[-1].stop_reason,
            tuple(piece.logprob for piece in some),
        )
        for some in pieces.values()
    ]


def _joined(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
