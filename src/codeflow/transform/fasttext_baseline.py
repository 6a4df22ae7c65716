"""fastText (Joulin et al. 2016) as the baseline that a quality proxy has to beat; needs the extra `fasttext`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codeflow.core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = "model.bin"
LABEL = "__label__"
_PIECE = re.compile(r"\w+|[^\w\s]|\n[ \t]*")
_SMALLEST = 1e-6  # probabilities are cut here before they become logits


def words(text: str, max_characters: int) -> str:
    """Return a text as one line of words, marks and line breaks with their indentation: what `hashed_ngrams` sees."""
    pieces = _PIECE.findall(text[:max_characters])
    return " ".join(f"<{len(piece) - 1}>" if piece[0] == "\n" else piece for piece in pieces) or "<empty>"


def library() -> Any:
    """Return the module. Raises UserError when it is not installed."""
    try:
        import fasttext  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("the fastText baseline needs its library; pip install 'codeflow[fasttext]'") from None
    return fasttext


class FastTextScorer:
    """A fastText classifier whose labels are grades: `__label__0.4`; the score is the expected grade."""

    def __init__(self, model: Any, max_characters: int) -> None:
        self.model, self._max_characters = model, max_characters

    def logits(self, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the logit of the expected grade per text (N,), and the bytes read (N,)."""
        expected = np.zeros(len(texts))
        for row, text in enumerate(texts):
            line = words(text, self._max_characters) + "\n"
            pairs = self.model.f.predict(line, -1, 0.0, "strict")  # what `predict` calls for one text
            expected[row] = sum(probability * float(label.removeprefix(LABEL)) for probability, label in pairs)
        expected = np.clip(expected, _SMALLEST, 1 - _SMALLEST)
        sizes = [len(text[: self._max_characters].encode("utf-8", "surrogatepass")) for text in texts]
        return np.log(expected / (1 - expected)), np.array(sizes, np.int64)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the model to `folder`; return the parameters that `load` wants."""
        from codeflow.core.storage import atomic_path

        with atomic_path(folder / MODEL) as temporary:
            self.model.save_model(str(temporary))
        return {"max_characters": self._max_characters}


def load(folder: Path, parameters: Mapping[str, Any], n_threads: int | None = None) -> FastTextScorer:
    """Load `model.bin`; it works on one thread."""
    return FastTextScorer(library().load_model(str(folder / MODEL)), int(parameters["max_characters"]))
