"""Held-out rows are never trained on, and processes share them without loss or repetition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codeflow.train.rows import n_held_out, training_rows


@pytest.mark.parametrize(("n_rows", "wanted", "expected"), [(48, 5, 5), (48, 0, 0), (16, 8, 4), (3, 8, 0), (0, 8, 0)])
def test_a_set_gives_up_a_quarter_at_most(n_rows: int, wanted: int, expected: int) -> None:
    assert n_held_out(n_rows, wanted) == expected


def test_held_out_rows_are_never_sampled_and_all_others_are(inputs: dict[str, Path]) -> None:
    rows = training_rows(inputs["tokens"], {"general": 1.0, "code": 2.0}, 4, 5, seed=3)
    seen: dict[str, set[int]] = {"general": set(), "code": set()}
    for step in range(60):
        for name, number in rows.rows(step):
            seen[name].add(number)
    assert seen == {"general": set(range(43)), "code": set(range(43))}
    held_out = rows.held_out("code", 0, 1)
    assert held_out is not None
    whole = np.fromfile(inputs["tokens"] / "code-00000.ids.bin", np.uint32).reshape(48, 64)
    assert np.array_equal(held_out.ids, whole[43:])


@pytest.mark.parametrize("n_ranks", [2, 3, 7])
def test_shares_are_equally_large_and_join_to_the_whole(n_ranks: int, inputs: dict[str, Path]) -> None:
    rows = training_rows(inputs["tokens"], {"general": 1.0}, 4, 5, seed=0)
    whole = rows.held_out("general", 0, 1)
    shares = [rows.held_out("general", rank, n_ranks) for rank in range(n_ranks)]
    assert whole is not None
    sizes = {len(share.ids) for share in shares if share is not None}
    assert len(sizes) == 1
    assert len([s for s in shares if s is not None]) == n_ranks
    ids = np.concatenate([s.ids for s in shares if s is not None])
    weights = np.concatenate([s.weights for s in shares if s is not None])
    assert np.array_equal(ids[:5], whole.ids)
    assert np.array_equal(weights[:5], whole.weights)
    assert not weights[5:].any()
