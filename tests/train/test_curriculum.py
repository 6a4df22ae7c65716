"""Three phases by difficulty: samples into levels, weights that move from easy to hard, and a phase that does so."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import ModuleType

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.metrics import read_metrics
from codeflow.core.records import read_shards, write_records
from codeflow.core.types import Sample, Segment
from codeflow.tokens.mixture import flatten
from codeflow.train.curriculum import CurriculumConfig, LevelsConfig, level_sets, run, three_phases

from .test_pretrain import phase_config, train


def _samples(folder: Path, name: str, difficulties: list[float], n_files: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    samples = [Sample(f"{name}/{i:03d}", (Segment("text", f"{i}"),), (), name, d) for i, d in enumerate(difficulties)]
    for number in range(n_files):
        write_records(folder / f"{name}-{number:05d}.parquet", samples[number::n_files], Sample)
    return folder


def _levels(folder: Path, samples: Path, **fields: object) -> Manifest:
    config = validate(LevelsConfig, fields)
    begin(folder, "samples", config, {}, "k")
    return run(config, {"samples": samples}, folder)


def test_samples_are_split_in_thirds(tmp_path: Path) -> None:
    difficulties = [float(i * 7 % 20) for i in range(20)] + [5.0] * 10
    source = _samples(tmp_path / "in", "reasoning", difficulties)
    _samples(source, "other", [1.0])
    manifest = _levels(tmp_path / "out", source, sets=["reasoning"])
    parts = [list(read_shards(tmp_path / "out", name, Sample)) for name in level_sets("reasoning")]
    assert [len(part) for part in parts] == [10, 10, 10]
    assert sorted(s.id for part in parts for s in part) == [f"reasoning/{i:03d}" for i in range(30)]
    for easier, harder in itertools.pairwise(parts):
        assert max((s.difficulty, s.id) for s in easier) < min((s.difficulty, s.id) for s in harder)
    assert manifest.counts.kept == 30
    again = _levels(tmp_path / "again", _samples(tmp_path / "in2", "reasoning", difficulties, 3), sets=["reasoning"])
    assert again.metrics["sets"] == manifest.metrics["sets"]


def test_levels_that_do_not_exist(tmp_path: Path) -> None:
    source = _samples(tmp_path / "in", "plain", [0.0] * 9)
    with pytest.raises(UserError, match="9 samples of set 'plain' are all equally difficult"):
        _levels(tmp_path / "out", source)
    with pytest.raises(UserError, match="no set 'plan'"):
        _levels(tmp_path / "out2", source, sets=["plan"])


def test_weights_move_to_the_hard_and_the_set_keeps_its_share() -> None:
    mixture, changes = three_phases(CurriculumConfig(set="reasoning"), {"reasoning": 3.0, "code": 1.0}, 90)
    assert [change.step for change in changes] == [30, 60]
    parts = [flatten(weights) for weights in (mixture, changes[0].weights, changes[1].weights)]
    for part in parts:
        assert part["code"] == pytest.approx(0.25)
        assert min(part[name] for name in level_sets("reasoning")) > 0
    assert [max(level_sets("reasoning"), key=part.__getitem__) for part in parts] == list(level_sets("reasoning"))


@pytest.mark.parametrize(
    ("fields", "steps", "message"),
    [
        ({"set": "reason"}, 90, "'reason' is no set of the mixture; did you mean 'reasoning'"),
        ({"set": "reasoning"}, 2, "2 steps have no three parts"),
        ({"set": "reasoning", "borders": (0.7, 0.3)}, 90, "borders"),
        ({"set": "reasoning", "shares": ((1, 0, 0), (0, 1, 0), (0, 0, 1))}, 90, "weights above 0"),
    ],
)
def test_refusals(fields: dict[str, object], steps: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        three_phases(validate(CurriculumConfig, fields), {"reasoning": 1.0}, steps)


def test_a_phase_reads_ever_harder_rows(golden: ModuleType, tmp_path: Path) -> None:
    tokenizer = golden.make_tokenizer(tmp_path / "tokenizer")
    inputs = {"tokens": tmp_path / "tokens", "tokenizer": tmp_path / "tokenizer"}
    golden.make_tokens(
        tmp_path / "tokens", tokenizer, n_rows=48, context_tokens=64, sets=("general", *level_sets("code"))
    )
    config = phase_config(
        golden, steps=9, mixture={"general": 1.0, "code": 3.0}, curriculum=CurriculumConfig(set="code")
    )
    manifest = train(config, inputs, tmp_path / "out")
    rows = {row["step"]: row.get("mixture") for row in read_metrics(tmp_path / "out" / "metrics.jsonl")}
    assert [step for step, mixture in rows.items() if mixture] == [0, 4, 7]
    assert rows[0]["code_easy"] == pytest.approx(0.75 * 0.7)
    assert rows[7]["code_hard"] == pytest.approx(0.75 * 0.6)
    assert set(manifest.metrics["sets"]) == {"general", *level_sets("code")}
