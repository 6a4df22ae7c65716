"""Answers of the server in the form of the OpenAI API: whole ones, chunks of a stream, errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from codeflow.model.batching import Piece
from codeflow.tokens.tokenizer import Tokenizer

Kind = Literal["completion", "chat"]
_OBJECTS = {
    ("completion", False): "text_completion",
    ("completion", True): "text_completion",
    ("chat", False): "chat.completion",
    ("chat", True): "chat.completion.chunk",
}


@dataclass(frozen=True)
class Reply:
    """What the parts of one answer share."""

    kind: Kind
    model: str
    tokenizer: Tokenizer
    logprobs: bool
    n_prompt_tokens: int
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the answer of all pieces of each choice."""
        shown = [self._choice(index, pieces, streamed=False) for index, pieces in enumerate(choices)]
        return {**self._head(False), "choices": shown, "usage": self.usage(sum(map(len, choices)))}

    def chunk(self, index: int, piece: Piece, first: bool) -> dict[str, Any]:
        """Return the part of a stream that one piece makes; `first` of its choice names the role."""
        choice = self._choice(index, [piece], streamed=True)
        if self.kind == "chat" and first:
            choice["delta"] = {"role": "assistant", **choice["delta"]}
        return {**self._head(True), "choices": [choice]}

    def usage_chunk(self, n_made: int) -> dict[str, Any]:
        """Return the last part of a stream whose client asked for token counts."""
        return {**self._head(True), "choices": [], "usage": self.usage(n_made)}

    def usage(self, n_made: int) -> dict[str, int]:
        """Return token counts."""
        total = self.n_prompt_tokens + n_made
        return {"prompt_tokens": self.n_prompt_tokens, "completion_tokens": n_made, "total_tokens": total}

    def _head(self, streamed: bool) -> dict[str, Any]:
        prefix = "cmpl" if self.kind == "completion" else "chatcmpl"
        return {
            "id": f"{prefix}-{self.id}",
            "object": _OBJECTS[self.kind, streamed],
            "created": self.created,
            "model": self.model,
        }

    def _choice(self, index: int, pieces: Sequence[Piece], streamed: bool) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        reason = {"": None, "context": "length"}.get(pieces[-1].stop_reason, pieces[-1].stop_reason)
        shared = {"index": index, "finish_reason": reason, "logprobs": None}
        if self.kind == "completion":
            return {**shared, "text": text, "logprobs": self._completion_logprobs(pieces) if self.logprobs else None}
        if self.logprobs:
            shared["logprobs"] = {"content": [self._chat_logprob(piece) for piece in pieces], "refusal": None}
        if streamed:
            return {**shared, "delta": {"content": text}}
        return {**shared, "message": {"role": "assistant", "content": text, "refusal": None}}

    def _word(self, token: int) -> bytes:
        return b"" if token >= self.tokenizer.vocab_size else self.tokenizer.decode_bytes([token])

    def _completion_logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        words = [self._word(piece.id).decode("utf-8", "replace") for piece in pieces]
        offsets = [sum(map(len, words[:i])) for i in range(len(words))]
        tops = [{self._word(token).decode("utf-8", "replace"): value for token, value in piece.top} for piece in pieces]
        return {
            "tokens": words,
            "token_logprobs": [piece.logprob for piece in pieces],
            "top_logprobs": tops if any(tops) else None,
            "text_offset": offsets,
        }

    def _chat_logprob(self, piece: Piece) -> dict[str, Any]:
        return {**self._token(piece.id, piece.logprob), "top_logprobs": [self._token(*pair) for pair in piece.top]}

    def _token(self, token: int, value: float) -> dict[str, Any]:
        word = self._word(token)
        return {"token": word.decode("utf-8", "replace"), "logprob": value, "bytes": list(word)}


def error_body(message: str, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """Return an error as the API words it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
