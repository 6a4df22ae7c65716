"""The shape of per-document work: `Document -> Document | Drop`.

An operator is its own configuration: a frozen class whose fields are its parameters, with `__call__`. It never raises
for any text, says why it drops, and leaves what it measured or repaired in the document's tags.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from codeflow.core.config import Config
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document


@dataclass(frozen=True, slots=True)
class Drop:
    """The verdict that a document goes. `reason` is one of a few words that are counted; `detail` is for the audit."""

    reason: str
    detail: str = ""


class Operator(Config):
    """Base of all per-document operators. `enabled` switches one off without changing the chain."""

    name: ClassVar[str]
    noted: ClassVar[tuple[str, ...]] = ()  # prefixes of tags that the stage sums into its counts' notes
    enabled: bool = True

    @abstractmethod
    def __call__(self, document: Document) -> Document | Drop:
        """Return the document, changed or measured, or the reason to drop it."""


def with_text(document: Document, text: str) -> Document:
    """Return `document` with another text, and the id that follows from it."""
    if text == document.text:
        return document
    return dataclasses.replace(document, text=text, id=sha256_text(text))


def with_tags(document: Document, tags: Mapping[str, float]) -> Document:
    """Return `document` with measurements added to its tags."""
    return dataclasses.replace(document, tags={**document.tags, **tags}) if tags else document
