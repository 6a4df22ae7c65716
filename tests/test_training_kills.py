"""A small sample of the campaign that kills a training phase; `make campaign NAME=training_kills` is the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns.training_kills import run


def test_a_phase_killed_at_a_kill_point_goes_on(tmp_path: Path) -> None:
    outcomes, n_points = run(1, 0, 0, 0, tmp_path)
    assert n_points > 30
    assert [(o.kills, o.finished, o.unequal, o.failed) for o in outcomes] == [(1, 1, 0, 0)]


@pytest.mark.slow
def test_a_phase_of_which_ranks_are_killed_goes_on(tmp_path: Path) -> None:
    outcomes, _ = run(3, 2, 2, 1, tmp_path)
    assert [o.kills for o in outcomes] == [3, 2, 2]
    assert sum(o.unequal + o.failed for o in outcomes) == 0
