"""What a phase reads is written down: changes are replayed, later phases go on behind earlier ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import InputRecord, Manifest, begin
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import World, world
from codeflow.tokens.loader import LoaderPlan
from codeflow.tokens.mixture import Blend, WeightChange
from codeflow.tokens.plan_file import read_plan_file
from codeflow.train import pretrain
from codeflow.train.config import TrainConfig
from codeflow.train.row_plan import PLAN, REQUEST, RowPlan, request_change, token_folders
from codeflow.train.rows import training_rows
from tests.ranks import run_ranks

from .test_pretrain import Stopped, contents, phase_config, stop_at, train

ONLY_CODE: dict[str, float | Blend] = {"code": 1.0}


@pytest.fixture
def here() -> Iterator[World]:
    with world(MeshConfig()) as alone:
        yield alone


def started(config: TrainConfig, inputs: dict[str, Path], output: Path) -> None:
    """Begin a phase as the command line does, with the paths of its inputs."""
    records = {name: InputRecord(kind=name, path=str(path), fingerprint="") for name, path in inputs.items()}
    begin(output, "checkpoint", config, records, "key")


def asking_at(monkeypatch: pytest.MonkeyPatch, folder: Path, asked: dict[int, dict[str, float | Blend]]) -> None:
    """Have someone ask the phase in `folder` for weights during some of its training steps."""
    original, calls = pretrain.train_step, iter(range(1, 1_000_000))

    def step(*arguments: Any) -> Any:
        weights = asked.get(next(calls))
        if weights:
            request_change(folder, weights)
        return original(*arguments)

    monkeypatch.setattr(pretrain, "train_step", step)


def sets_of_steps(plan: LoaderPlan, config: TrainConfig, inputs: dict[str, Path]) -> list[set[str]]:
    rows = pretrain.TrainingRows(plan, inputs["tokens"], config.validation_rows)
    return [{name for name, _ in rows.rows(step)} for step in range(config.steps)]


@pytest.mark.parametrize("every", [2, 50], ids=["from a checkpoint behind it", "from the start"])
def test_a_resumed_run_replays_a_live_change(
    every: int, golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = phase_config(golden, mixture={"general": 1.0}, checkpoint_every_steps=every)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        with monkeypatch.context() as patch:
            if folder == broken:
                stop_at(patch, 6)
            asking_at(patch, folder, {3: ONLY_CODE})
            started(config, inputs, folder)
            if folder == whole:
                undisturbed = pretrain.run(config, inputs, folder)
            else:
                with pytest.raises(Stopped):
                    pretrain.run(config, inputs, folder)
    resumed = pretrain.run(config, inputs, broken)
    assert contents(broken) == contents(whole)
    assert (broken / PLAN).read_bytes() == (whole / PLAN).read_bytes()
    assert resumed == undisturbed
    assert resumed.metrics["weight_changes"] == [{"step": 3, "weights": ONLY_CODE}]
    assert sets_of_steps(read_plan_file(whole / PLAN), config, inputs) == [{"general"}] * 3 + [{"code"}] * 4
    assert set(resumed.metrics["validation_after"]) == {"general", "code"}


def test_a_request_is_taken_once_though_a_kill_came_before_it_was_cleared(
    inputs: dict[str, Path], tmp_path: Path, here: World
) -> None:
    plan = LoaderPlan(weights={"general": 1.0}, batch_rows=4, context_tokens=64)
    first = RowPlan(tmp_path, plan, inputs["tokens"], 4, here)
    (tmp_path / REQUEST).write_text(json.dumps({"weights": ONLY_CODE}))
    first.take_request(3)
    assert not (tmp_path / REQUEST).exists()
    before = (tmp_path / PLAN).read_bytes()
    (tmp_path / REQUEST).write_text(json.dumps({"weights": ONLY_CODE}))  # as a kill would leave it
    again = RowPlan(tmp_path, plan, inputs["tokens"], 4, here)
    again.take_request(1)
    assert (tmp_path / PLAN).read_bytes() == before
    assert again.changes == (WeightChange(step=3, weights=ONLY_CODE),)


def test_a_phase_that_goes_on_comes_to_the_decisions_it_has_recorded(
    inputs: dict[str, Path], tmp_path: Path, here: World
) -> None:
    plan = LoaderPlan(weights={"general": 1.0}, batch_rows=4, context_tokens=64, seed=5)
    live = RowPlan(tmp_path, plan, inputs["tokens"], 4, here)
    assert live.change(2, ONLY_CODE)
    assert live.change(6, {"general": 0.5, "code": 0.5})
    read = [live.rows.rows(step) for step in range(9)]
    resumed = RowPlan(tmp_path, plan, inputs["tokens"], 4, here)
    assert not resumed.change(2, {"general": 0.1, "code": 0.9})  # what was recorded stands
    assert not resumed.change(4, ONLY_CODE)
    assert [resumed.rows.rows(step) for step in range(9)] == read
    assert resumed.change(7, ONLY_CODE)
    assert [resumed.rows.rows(step) for step in range(7)] == read[:7]
    with pytest.raises(UserError, match="'cod' has weight but is in none"):
        resumed.change(8, {"cod": 1.0})
    with pytest.raises(UserError, match="holds another plan than the configuration's"):
        RowPlan(tmp_path, plan.model_copy(update={"seed": 6}), inputs["tokens"], 4, here)


def _change_and_read(folder: Path, tokens: Path) -> None:
    with world(MeshConfig()) as here:
        plan = LoaderPlan(weights={"general": 1.0}, batch_rows=4, context_tokens=64)
        row_plan = RowPlan(folder, plan, tokens, 4, here)
        assert row_plan.change(2, ONLY_CODE)
        if here.is_first:
            (folder / REQUEST).write_text(json.dumps({"weights": {"general": 1.0}}))
        here.barrier()
        row_plan.take_request(5)
        parts = [row_plan.rows.batch(step, here.reader, here.n_readers).sets for step in range(7)]
        (folder / f"read_by_{here.rank}.json").write_text(json.dumps(parts))


@pytest.mark.slow
def test_two_processes_change_at_the_same_step(inputs: dict[str, Path], tmp_path: Path) -> None:
    run_ranks(2, tmp_path, _change_and_read, tmp_path, inputs["tokens"])
    general, code = ["general", "general"], ["code", "code"]
    for rank in range(2):
        read = json.loads((tmp_path / f"read_by_{rank}.json").read_text())
        assert read == [general] * 2 + [code] * 3 + [general] * 2
    assert [change.step for change in read_plan_file(tmp_path / PLAN).changes] == [2, 5]


def test_what_cannot_be_taken_is_said_and_training_goes_on(
    golden: ModuleType,
    inputs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, output = phase_config(golden, steps=3), tmp_path / "out"
    original = pretrain.train_step

    def step(*arguments: Any) -> Any:
        (output / REQUEST).write_text("{")
        return original(*arguments)

    monkeypatch.setattr(pretrain, "train_step", step)
    started(config, inputs, output)
    manifest = pretrain.run(config, inputs, output)
    assert "weight_changes" not in manifest.metrics
    assert capsys.readouterr().err.count("the weights asked for were not taken") == 2
    with pytest.raises(UserError, match="no phase in training"):
        request_change(output, ONLY_CODE)


def test_a_request_that_does_not_fit_is_refused_at_once(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path, here: World
) -> None:
    output = tmp_path / "out"
    started(phase_config(golden), inputs, output)
    with pytest.raises(UserError, match="no phase in training"):
        request_change(output, ONLY_CODE)
    RowPlan(output, LoaderPlan(weights={"general": 1.0}, context_tokens=64), inputs["tokens"], 4, here)
    with pytest.raises(UserError, match="did you mean 'code'"):
        request_change(output, {"cod": 1.0})
    with pytest.raises(UserError, match="no set has a positive weight"):
        request_change(output, {"code": 0.0})
    assert not (output / REQUEST).exists()
    request_change(output, {"both": Blend(weight=1, of={"general": 1.0, "code": 1.0})})
    assert (output / REQUEST).exists()


def rows_read(output: Path, config: TrainConfig, tokens: Any) -> list[tuple[str, int]]:
    rows = pretrain.TrainingRows(read_plan_file(output / PLAN), tokens, config.validation_rows)
    return [row for step in range(config.steps) for row in rows.rows(step)]


def second_phase(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update={"phase": "later", "model": None, **changes})


def test_phases_go_on_behind_the_rows_of_their_parents(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    first = phase_config(golden, steps=4, mixture={"general": 0.5, "code": 0.5})
    train(first, inputs, tmp_path / "first")
    second = second_phase(first, steps=3, mixture=ONLY_CODE, once=("code",))
    train(second, {**inputs, "parent": tmp_path / "first"}, tmp_path / "second")
    third = second_phase(first, steps=2, mixture={"general": 0.5, "code": 0.5})
    train(third, {**inputs, "parent": tmp_path / "second"}, tmp_path / "third")
    read = [
        rows_read(tmp_path / name, config, inputs["tokens"])
        for name, config in (("first", first), ("second", second), ("third", third))
    ]
    assert [len(rows) for rows in read] == [16, 12, 8]
    assert len({row for rows in read for row in rows}) == 36  # none twice
    anew = second.model_copy(update={"go_on": False})
    train(anew, {**inputs, "parent": tmp_path / "first"}, tmp_path / "anew")
    assert set(rows_read(tmp_path / "anew", anew, inputs["tokens"])) & set(read[0])
    longer = second.model_copy(update={"steps": 40})
    with pytest.raises(UserError, match="set 'code' must be seen once, but its 44 rows end at step 9"):
        train(longer, {**inputs, "parent": tmp_path / "first"}, tmp_path / "longer")


def test_another_order_starts_anew_and_says_so_unless_rows_must_be_fresh(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    first = phase_config(golden, steps=2)
    train(first, inputs, tmp_path / "first")
    with_parent = {**inputs, "parent": tmp_path / "first"}
    second = second_phase(first, mixture=ONLY_CODE, seed=1)
    manifest = train(second, with_parent, tmp_path / "second")
    (remark,) = manifest.metrics["remarks"]
    assert remark.startswith("starting anew: code; an earlier phase read the same tokens in another order")
    for change in ({"seed": 1}, {"seed": 0, "validation_rows": 5}):
        with pytest.raises(UserError, match="'code' must be seen once, but an earlier phase read a set 'code'"):
            train(second.model_copy(update={**change, "once": ("code",)}), with_parent, tmp_path / "fresh")


def test_fresh_rows_of_another_artifact_have_its_name_before_them(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """As in mid-training: the second phase reads its own tokens, and rows of the first one's that are still unread."""
    tokenizer = pretrain.Tokenizer.load(inputs["tokenizer"])
    golden.make_tokens(tmp_path / "long", tokenizer, 24, 128, ("general", "code", "other"))
    model = golden.tiny_model().model_copy(update={"max_position_embeddings": 128})
    first = phase_config(golden, steps=3, mixture=ONLY_CODE, model=model)
    train(first, inputs, tmp_path / "first")
    mixture = {"phase": Blend(weight=0.5, of={"code": 1.0}), "fresh": Blend(weight=0.5, of={"short/code": 1.0})}
    second = second_phase(first, steps=7, mixture=mixture, once=("short/code",))
    wired = {**inputs, "tokens": tmp_path / "long", "tokens_short": inputs["tokens"], "parent": tmp_path / "first"}
    manifest: Manifest = train(second, wired, tmp_path / "second")
    assert set(manifest.metrics["sets"]) == {"code", "short/code"}
    old = {number for _, number in rows_read(tmp_path / "first", first, inputs["tokens"])}
    read = rows_read(tmp_path / "second", second, token_folders(wired))
    fresh = [number for name, number in read if name == "short/code"]
    assert len(fresh) == len(set(fresh)) == manifest.metrics["sets"]["short/code"]["rows"] > 24
    assert not set(fresh) & old
    order = training_rows(inputs["tokens"], ONLY_CODE, 1, first.validation_rows, 0)
    assert fresh == [
        order.rows(step)[0][1] for step in range(12, 12 + len(fresh))
    ]  # the order that the set has by itself


def test_optional_sets_are_left_out_of_groups_and_of_changes(
    golden: ModuleType, inputs: dict[str, Path], tmp_path: Path
) -> None:
    mixture = {"a": Blend(weight=0.5, of={"code": 0.5, "x": 0.5}), "b": Blend(weight=0.5, of={"y": 1.0})}
    changes = (WeightChange(step=2, weights={"general": 1.0, "x": 4.0}),)
    config = phase_config(golden, steps=4, mixture=mixture, changes=changes, optional_sets=("x", "y"))
    manifest = train(config, inputs, tmp_path / "out")
    assert sets_of_steps(read_plan_file(tmp_path / "out" / PLAN), config, inputs) == [{"code"}] * 2 + [{"general"}] * 2
    assert [remark.split("'")[1] for remark in manifest.metrics["remarks"]] == ["x", "y"]
    none = config.model_copy(update={"mixture": {"x": 1.0}})
    with pytest.raises(UserError, match="mixture names optional sets only"):
        train(none, inputs, tmp_path / "none")
    shutil.rmtree(tmp_path / "none")
