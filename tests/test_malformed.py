"""A small seeded sample of the campaign of malformed inputs; `make campaign NAME=malformed` is the whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from campaigns import malformed
from campaigns._malformed_inputs import VERBS_OF


def test_malformed_inputs_end_in_counts_or_clear_errors(tmp_path: Path) -> None:
    outcomes = malformed.campaign(2 * len(VERBS_OF), 7, 1, tmp_path)
    assert outcomes.keys() == VERBS_OF.keys()
    assert malformed.n_bad(outcomes) == 0, outcomes
    assert {said for found in outcomes.values() for said in found} >= {"finished, something counted", "clear error"}


def test_an_exception_nobody_thought_of_is_told_from_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(malformed, "VERBS_OF", {"JSON lines": "files"})
    monkeypatch.setattr("codeflow.corpus.files._documents", lambda *_: 1 // 0, raising=True)
    outcomes = malformed.campaign(1, 7, 1, tmp_path)
    assert malformed.n_bad(outcomes) == 1
    assert next(iter(outcomes["JSON lines"])).startswith("other error: files: 1 of 1 shards failed")


def test_mutations_are_seeded_and_damage() -> None:
    data = bytes(range(256)) * 4
    damaged = [malformed.mutate(data, b"other", random.Random(seed)) for seed in range(50)]
    assert damaged == [malformed.mutate(data, b"other", random.Random(seed)) for seed in range(50)]
    assert sum(one != data for one in damaged) > 45
    assert malformed.mutate(b"", b"", random.Random(1)) is not None
