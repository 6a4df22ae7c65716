"""Weights change while a run goes on; the plan on disk remembers, and a resumed run replays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codeflow.core.errors import UserError
from codeflow.tokens.loader import Loader, LoaderPlan
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.plan_file import append_change, read_plan_file, write_plan_file

from .conftest import Packed, plain

PLAN = LoaderPlan(weights={"code": 0.75, "general": 0.25}, batch_rows=4, context_tokens=32)


@pytest.fixture(scope="module")
def folder(packed: Packed) -> Path:
    sets = {name: [[plain(n, f"{name} {n}", name) for n in range(40)]] for name in ("code", "general")}
    return packed(sets, PackConfig(context_tokens=32, cut_slack_tokens=4))[0]  # type: ignore[return-value]


def test_a_resumed_run_replays_the_changes_of_a_live_one(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan_file(path, PLAN)
    live = []
    loader = Loader(PLAN, folder)
    for step in range(12):
        if step in (3, 7):
            weights = {"general": 1.0} if step == 3 else {"code": 0.5, "general": 0.5}
            loader = Loader(append_change(path, step + 1, weights, step, (folder,)), folder)
        live.append(loader.batch(step))
    assert {name for batch in live[:4] for name in batch.sets} == {"code", "general"}
    assert all(set(live[step].sets) == {"general"} for step in range(4, 8))
    resumed = Loader(read_plan_file(path), folder)
    for step in (11, 0, 4, 7, 8):
        assert np.array_equal(resumed.batch(step).ids, live[step].ids)


def test_what_was_read_cannot_change(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_plan_file(path, PLAN)
    append_change(path, 9, {"code": 1.0}, 5, (folder,))
    before = path.read_bytes()
    with pytest.raises(UserError, match="step 4: it is read already; choose 5 or later"):
        append_change(path, 4, {"code": 1.0}, 5, (folder,))
    with pytest.raises(UserError, match="change at step 9 already"):
        append_change(path, 9, {"general": 1.0}, 5, (folder,))
    with pytest.raises(UserError, match="'cod' has weight but is in none"):
        append_change(path, 20, {"cod": 1.0}, 5, (folder,))
    with pytest.raises(UserError, match="holds another plan"):
        write_plan_file(path, PLAN)
    assert path.read_bytes() == before


def test_missing_and_damaged_plans_are_user_errors(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(UserError, match="no loader plan"):
        read_plan_file(path)
    path.write_text('{"weights": ')
    with pytest.raises(UserError, match="is damaged"):
        read_plan_file(path)
    path.write_text('{"weights": {"code": 1.0}, "batch_row": 4}')
    with pytest.raises(UserError, match="batch_row"):
        read_plan_file(path)
