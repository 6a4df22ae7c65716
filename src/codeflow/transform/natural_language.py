"""Which natural language a page is in: py3langid, a naive Bayes model over byte n-grams that comes with its package.

It knows 140 languages and one class for text that is in none. It is asked about the prose only, and about samples
from its beginning, middle and end, since its time grows with the text.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np

from codeflow.core.errors import UserError
from codeflow.core.languages import domain_of
from codeflow.core.types import Document
from codeflow.transform.operator import Drop, Operator, with_tags
from codeflow.transform.web_text import prose_of

_NO_LANGUAGE = "zxx"  # ISO 639: no linguistic content
_N_PIECES = 3


class IdentifyLanguage(Operator):
    """Drop pages that are in no language, in an uncertain one, or in one that is not wanted.

    Leaves the tag `natural_language_<ISO 639 code>` with the model's confidence. Documents that are not prose pass.
    """

    name: ClassVar[str] = "natural_language"
    languages: tuple[str, ...] = ()  # ISO 639-1 codes, such as en; empty: all
    min_confidence: float = 0.5  # ours: text in a language scores above, signs and names score below (docs/sources.md)
    sample_characters: int = 1_500  # more hardly changes the verdict

    def __call__(self, document: Document) -> Document | Drop:
        """Return the document with its language, or the reason to drop it."""
        if domain_of(document.language) != "general":
            return document
        code, confidence = identified(prose_of(document.text).text, self.sample_characters)
        if code == _NO_LANGUAGE:
            return Drop("no_language", f"{confidence:.2f}")
        if confidence < self.min_confidence:
            return Drop("language_unsure", f"{code} {confidence:.2f}")
        if self.languages and code not in self.languages:
            return Drop("other_language", f"{code} {confidence:.2f}")
        return with_tags(document, {f"natural_language_{code}": round(confidence, 4)})


def identified(text: str, sample_characters: int = 1_500) -> tuple[str, float]:
    """Return (ISO 639 code, confidence 0..1) of a text's language. Raises UserError without the package."""
    words = " ".join(text.split())
    if len(words) > sample_characters:
        piece = sample_characters // _N_PIECES
        step = (len(words) - piece) // (_N_PIECES - 1)
        words = " ".join(words[place : place + piece] for place in range(0, step * _N_PIECES, step))
    if not words:
        return _NO_LANGUAGE, 1.0
    code, confidence = _identifier().classify(words)
    return code, float(confidence)


@functools.cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError:
        raise UserError("identifying languages needs py3langid; pip install 'codeflow[web]'") from None
    return _compiled(LanguageIdentifier).from_model_file(MODEL_FILE, norm_probs=True)


def _compiled(base: type[Any]) -> type[Any]:
    """Return the package's class with its loop over bytes compiled; scores, and their last bits, stay the same."""

    from codeflow.transform.prose_scan import visits

    class CompiledIdentifier(base):
        """Counts features on the package's automaton, in the order in which they first come, as the package does.

        Weights are float32 once and for all (57 MB): as float16, half the time goes into converting them.
        """

        def __init__(self, weights: Any, *arguments: Any, **named: Any) -> None:
            super().__init__(np.asarray(weights, np.float32), *arguments, **named)
            self._moves = np.asarray(self.tk_nextmove)
            self._rows = np.asarray(self._rowbase, np.int64)
            self._features = np.asarray(self.tk_output, np.int64)

        def _raw_score(self, text: bytes) -> Any:
            places, counts = visits(np.frombuffer(text, np.uint8), self._moves, self._rows, self._features)
            if not len(places):
                return super()._raw_score(text)
            return self._sparse_score(dict(zip(places.tolist(), counts.tolist(), strict=True)), self.nb_ptc)

    return CompiledIdentifier
