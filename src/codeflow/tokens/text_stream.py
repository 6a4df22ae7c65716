"""Text out of tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codeflow.tokens.tokenizer import Tokenizer


class TextStream:
    """The text of one sequence. `stopped` turns true when a stop string has come; the text ends before it.

    A character or a stop string may span tokens: what could still become a part of either is held back.
    """

    def __init__(self, tokenizer: Tokenizer, hidden_ids: Collection[int] = (), stop_texts: Sequence[str] = ()) -> None:
        """`hidden_ids` (end of text, end of turn) give no text."""
        self._tokenizer, self._hidden, self._stops = tokenizer, frozenset(hidden_ids), tuple(stop_texts)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is certain now. An id without a word gives U+FFFD."""
        if token in self._hidden:
            return ""
        if token >= self._tokenizer.vocab_size:  # the model has rows to spare
            return self._add(self._decoder.decode("\ufffd".encode()))
        return self._add(self._decoder.decode(self._tokenizer.decode_bytes([token])))

    def finish(self) -> str:
        """Return what was held back, after the last token."""
        rest = self._add(self._decoder.decode(b"", final=True))
        if not self.stopped:
            rest, self._held = rest + self._held, ""
        return rest

    def _add(self, piece: str) -> str:
        if self.stopped:
            return ""
        text = self._held + piece
        places = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self.stopped, self._held = True, ""
            return text[: min(places)[0]]
        n_held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, stop: str) -> int:
    """Return how long an end of `text` is the beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
