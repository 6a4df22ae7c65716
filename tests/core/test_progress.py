from __future__ import annotations

import pytest

from codeflow.core import progress
from codeflow.core.progress import Bar, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3599, "59 min 59 s"),
        (7_380, "2 h 3 min"),
    ],
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rest_is_estimated_from_what_this_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with Bar("sign", 100, "shards") as bar:
        bar.already(60)
        assert bar.seconds_left is None
        now[0] = 120.0
        bar.advance(10, "read 5")
        assert bar.seconds_left == 60.0
        now[0] = 121.0
        bar.advance()
    assert said == ["  sign: 70/100 shards, 1 min 0 s left, read 5"]


def test_an_unknown_total_has_no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    with Bar("tokenizer", None, "documents") as bar:
        now[0] = 20.0
        bar.advance(3)
    assert said == ["  tokenizer: 3 documents"]
