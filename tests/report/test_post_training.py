"""The report on a run with a fold, mid-training, two rewards and their scores."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from codeflow.core.records import write_records
from codeflow.core.storage import write_text
from codeflow.core.types import Score, Task
from codeflow.report import gather, reinforcement, scoreboard, training
from codeflow.report.gather import read_artifact
from tests.report.conftest import finish, grpo, make_page, phase, rollout, score, start, task
from tests.report.test_page import HOSTILE, write_run

LOSSES = {
    "dense": {"code": 4.0, "general": 5.0},
    "identity": {"code": 4.25, "general": 5.5},
    "average": {"code": 6.0, "general": 7.0},
    "identity, second pass at 0": {"code": 4.0, "general": 5.0},
}


def ends(code: float) -> dict[str, dict[str, float]]:
    return {"validation_before": {"code": 4.0}, "validation_after": {"code": code}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the stages of a small run by name."""
    folder = tmp_path_factory.mktemp("whole")
    found = write_run(folder)
    general, documents = found["train_general"], found["clean"]
    fold = start(folder / "fold", "checkpoint", {"checkpoint": general})
    finish(fold, {"strategy": "identity"}, {"losses": LOSSES})
    loop = phase(folder / "loop_stage1", "loop_stage1", {"parent": fold}, ends(3.5))
    dense = phase(folder / "dense_stage1", "dense_stage1", {"parent": general}, ends(3.75))
    sft = phase(folder / "sft_instruct", "sft_instruct", {"parent": loop})
    more = phase(folder / "sft_more", "sft_more", {"parent": sft})
    tasks = start(folder / "tasks", "tasks", {})
    every = [task(n, family) for n in range(4) for family in ("bits", "text", "lists")]
    write_records(tasks / "tasks-rl-00000.parquet", every, Task)
    finish(tasks)
    answers = [
        [rollout("bits/0", 1, 0, False, HOSTILE), rollout("bits/0", 1, 1, True), rollout("text/1", 1, 0, False)],
        [rollout("lists/2", 2, 0, False), rollout("text/2", 2, 0, True, "better"), rollout("bits/3", 2, 0, True)],
    ]
    rl = grpo(folder / "rl_instruct", sft, tasks, "all_tests", answers)
    control = grpo(folder / "rl_random", sft, tasks, "random", answers)
    scores = start(folder / "scores", "scores", {"sft": sft, "rl": rl, "random": control, "more": more})
    values = {"sft": (0.3, 0.7), "rl": (0.4, 0.7), "random": (0.3, 0.69), "more": (0.2, 0.7)}
    rows = [score(name, f"pass@{k}", v) for name, pair in values.items() for k, v in zip((1, 8), pair, strict=True)]
    write_records(scores / "scores-00000.parquet", rows, Score)
    finish(scores)
    stages = (documents, fold, loop, dense, sft, more, tasks, rl, control, scores)
    return {**found, **{path.name: path for path in stages}}


@pytest.fixture(scope="module")
def artifacts(run: dict[str, Path]) -> dict[str, gather.Artifact]:
    return {name: read_artifact(name, folder) for name, folder in run.items()}


@pytest.fixture(scope="module")
def pages(run: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_page(tmp_path_factory.mktemp("page"), run)


def texts(part: str) -> str:
    """Return what a reader sees of a part of the page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", part)).split())


def section(page: str, name: str) -> str:
    return page.split(f'<h2 id="{name}">')[1].split("<h2 ")[0]


def test_every_part_of_the_second_half_is_there_and_cites_its_artifacts(pages: tuple[str, str]) -> None:
    page, _ = pages
    for name in ("training", "fold", "headroom", "reinforcement", "scores", "lineage"):
        assert f'href="#{name}"' in page
    for name in ("training", "fold", "headroom", "reinforcement", "scores"):
        assert '<p class="sources">from' in section(page, name)
    assert "<script" not in page
    assert "\x1b" not in section(page, "reinforcement")


def test_phases_are_panels_with_the_fold_between(pages: tuple[str, str]) -> None:
    chart = section(pages[0], "training").split("<svg")[1]
    seen = [text for text in re.findall(r"<text[^>]*>([^<]+)</text>", chart) if not re.match(r"[\d.−]", text)]
    places = [seen.index(name) for name in ("general", "mid-training 1")]
    assert places == sorted(places)
    assert {"fold", "training", "dense control, training", "held out: code"} <= set(seen)
    assert "sft_instruct" not in seen
    assert "sft_instruct" in section(pages[0], "training").split("<svg")[2]


def test_fold_tells_the_jump_and_the_recovery(artifacts: dict[str, gather.Artifact]) -> None:
    found = training.folding(artifacts)
    assert found["jump"] == {"code": 0.25, "general": 0.5}
    assert found["jump_at_0"] == {"code": 0.0, "general": 0.0}
    names = [name for name, _, _ in found["parts"][0][1]]
    assert names == ["dense, before", "identity, second pass at 0", "identity (used)", "average"]
    assert found["recovery"] == [("mid-training 1", "code", 3.5, 3.75)]


def test_headroom_compares_intervals_with_the_start(artifacts: dict[str, gather.Artifact]) -> None:
    found = reinforcement.headroom(artifacts)
    beside = {row["name"]: row["beside"] for row in found["rows"]}
    assert beside["rl_instruct"] == {"pass@1": "higher, intervals apart", "pass@8": "intervals overlap"}
    assert beside["rl_random"]["pass@1"] == "intervals overlap"
    assert beside["sft_more"]["pass@1"] == "lower, intervals apart"
    assert [row["role"] for row in found["rows"]] == ["start", "further SFT", "GRPO", "GRPO, random reward (control)"]
    assert "pass@1 0.300 [0.290, 0.310], pass@8 0.700 [0.690, 0.710]" in found["words"][0]
    assert "misses 0.400" in found["words"][0]
    assert "rl_instruct (GRPO) in 40 s: pass@1 0.300 [0.290, 0.310] → 0.400 [0.390, 0.410]" in found["words"][2]


def test_rollouts_pair_kinds_of_task_and_are_not_chosen_by_outcome(artifacts: dict[str, gather.Artifact]) -> None:
    found = reinforcement.reinforcement(artifacts)["rollouts"][0]
    told = [[(one["kind"], one["step"], one["passed"]) for one in pair] for pair in found["pairs"]]
    assert told[0] == [("bits, level 2", 1, False), ("bits, level 2", 2, True)]
    assert told[1] == [("text, level 2", 1, False), ("text, level 2", 2, True)]
    assert found["pairs"][0][1]["prompt"] == "prompt 3"
    assert found["pairs"][0][0]["verdict"] == "failed, 0 of 5 tests: wrong"


def test_hostile_answers_are_text(pages: tuple[str, str]) -> None:
    part = section(pages[0], "reinforcement")
    assert "&lt;script&gt;alert" in part
    assert "\\x1b[31mred" in part


def test_the_control_is_drawn_beside_its_twin(artifacts: dict[str, gather.Artifact]) -> None:
    (path,) = reinforcement.reinforcement(artifacts)["paths"]
    assert ">rl_instruct<" in path["chart"]
    assert ">rl_random<" in path["chart"]
    assert path["chart"].count("stroke-dasharray: 6.6") >= 1


def test_the_board_has_the_chain_in_order_and_compressors_last(artifacts: dict[str, gather.Artifact]) -> None:
    found = scoreboard.board(artifacts)
    assert [row["name"] for row in found["rows"]] == [
        *("train_general", "sft_instruct", "sft_more", "rl_instruct", "rl_random", "gzip"),
    ]
    heads = [(head["benchmark"], head["metric"]) for head in found["columns"]]
    assert heads[0] == ("held-out text", "bits per byte")
    assert found["rows"][0]["cells"][heads.index(("micro-tasks (chat)", "pass@1"))] is None


def test_published_results_are_labelled_and_whole(pages: tuple[str, str]) -> None:
    part = texts(section(pages[0], "scores").split('id="published"')[1])
    assert "Not measured here" in part
    assert "cannot be compared" in part
    for group in scoreboard.published()["groups"]:
        for name, values in group["rows"]:
            assert len(values) == len(group["models"])
            assert all(0 <= value <= 100 for value in values), name
    assert "HumanEval 96.3 97.6" in part


def test_summary_is_short_and_has_before_and_after(pages: tuple[str, str]) -> None:
    lines = pages[1].splitlines()
    assert len(lines) <= 12
    assert "rl_instruct, pass@1: 0.300 [0.290, 0.310] → 0.400 [0.390, 0.410]" in lines
    assert "dense to loop (identity), jump of held-out loss: code +0.250, general +0.500" in lines


def test_comparison_is_shown_as_measured(run: dict[str, Path], tmp_path: Path) -> None:
    def estimate(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 40}

    arm = {"value": estimate(0.4), "difference": estimate(0.1), "apart": True}
    row = {"path": "seed 0", "k": 1, "start": estimate(0.3), "arms": {"GRPO": arm}}
    comparison = start(tmp_path / "comparison", "comparison", {})
    write_text(comparison / "comparison.json", json.dumps({"ks": [1], "rows": [row], "seconds": {}}))
    inputs = {**run, "comparison": finish(comparison)}
    part = section(make_page(tmp_path, inputs)[0], "comparison")
    assert "seed 0 0.300 0.290–0.310 0.400 0.390–0.410 +0.100 +0.090 to +0.110" in texts(part)
    assert "<b>0.400" in part
