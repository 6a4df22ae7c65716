from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import begin
from codeflow.core.records import read_shards
from codeflow.core.types import Score
from codeflow.eval import evaluate, programs
from codeflow.eval.evaluate import EvaluateConfig, run
from codeflow.eval.evaluate import world as world_of
from codeflow.eval.records import Generated
from codeflow.sandbox.bubblewrap import INSTALL
from codeflow.sandbox.local import probe

CONFIG = EvaluateConfig(
    context_tokens=128,
    bootstrap_resamples=50,
    fim_cases_per_level=2,
    fim_max_middle_characters=20,
    fim_context_characters=200,
    task_samples=2,
    pass_ks=(1, 2),
    fim_max_new_tokens=8,
    max_new_tokens=6,
    dtype="float32",
)


@pytest.fixture(autouse=True)
def _no_official_files(monkeypatch):
    monkeypatch.delenv("CODEFLOW_BENCHMARKS", raising=False)
    monkeypatch.setattr(evaluate, "workers", lambda: 1)


def _evaluate(world: dict[str, Path], output: Path, config: EvaluateConfig = CONFIG) -> tuple[list[Score], dict]:
    begin(output, "scores", config, {}, "k")
    manifest = run(config, world, output)
    return list(read_shards(output, "scores", Score)), manifest.metrics


@pytest.fixture(scope="module")
def evaluated(world, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CODEFLOW_BENCHMARKS", raising=False)
        patch.setattr(evaluate, "workers", lambda: 1)
        output = tmp_path_factory.mktemp("evaluated") / "scores"
        return output, *_evaluate(world, output)


def test_scores_of_every_part_and_checkpoint(evaluated):
    output, scores, metrics = evaluated
    assert {s.checkpoint for s in scores} == {"gzip", "xz", "first", "second"}
    whole = {(s.benchmark, s.metric) for s in scores if s.checkpoint == "second" and not s.subset}
    expected = {("heldout", "bits_per_byte"), ("fim", "exact_match"), ("fim", "edit_similarity")}
    if not programs.sandbox_problem():
        expected |= {("micro_tasks", "pass@1"), ("micro_tasks", "pass@2")}
        assert metrics["backend"] == [probe().backend]
        assert not any(s.benchmark == "micro_tasks" and s.checkpoint == "first" for s in scores)
    assert whole == expected
    assert all(s.low <= s.value <= s.high for s in scores)
    assert any("CODEFLOW_BENCHMARKS is not set" in remark for remark in metrics["remarks"])
    rows = list(read_shards(output, "generations", Generated))
    assert {row.checkpoint for row in rows} == {"first", "second"}
    assert {row.benchmark for row in rows} >= {"fim"}
    assert all(len(row.prompt_sha256) == 64 for row in rows)


def test_same_bytes_again_and_after_a_kill(evaluated, world, tmp_path, monkeypatch):
    """A part that is done is not made again; the result does not show the interruption."""
    output, _, _ = evaluated
    begin(tmp_path / "scores", "scores", CONFIG, {}, "k")
    honest, made = evaluate._fim_part, []

    def dies(job, documents, tokenizer):
        if job.checkpoint == "second":
            raise KeyboardInterrupt
        return honest(job, documents, tokenizer)

    monkeypatch.setattr(evaluate, "_fim_part", dies)
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, world, tmp_path / "scores")

    def counts(job, documents, tokenizer):
        made.append(job.checkpoint)
        return honest(job, documents, tokenizer)

    monkeypatch.setattr(evaluate, "_fim_part", counts)
    run(CONFIG, world, tmp_path / "scores")
    assert made == ["second"]
    names = sorted(p.name for p in output.iterdir())
    assert names == sorted(p.name for p in (tmp_path / "scores").iterdir())
    for name in names:
        assert (output / name).read_bytes() == (tmp_path / "scores" / name).read_bytes(), name


@pytest.mark.slow
def test_same_bytes_from_several_processes(evaluated, world, tmp_path, monkeypatch):
    output, _, _ = evaluated
    monkeypatch.setattr(evaluate, "workers", lambda: 2)
    _evaluate(world, tmp_path / "scores")
    for path in output.iterdir():
        assert path.read_bytes() == (tmp_path / "scores" / path.name).read_bytes(), path.name


def test_without_a_sandbox_programs_are_skipped_and_said(world, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "sandbox_problem", lambda: INSTALL)
    scores, metrics = _evaluate({k: v for k, v in world.items() if k != "second"}, tmp_path / "scores")
    assert {s.benchmark for s in scores} == {"heldout", "fim"}
    assert any("apt-get install bubblewrap" in remark for remark in metrics["remarks"])
    assert world_of(CONFIG).endswith("sandbox:absent")


def test_gold_answers_that_fail_here_take_their_benchmark_out(world, tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "sandbox_problem", lambda: "")
    monkeypatch.setattr(programs, "prove", lambda tasks, limits, at_once: [tasks[0].task.id])
    scores, metrics = _evaluate({k: v for k, v in world.items() if k != "second"}, tmp_path / "scores")
    assert "micro_tasks" not in {s.benchmark for s in scores}
    assert any("gold answers fail here, such as that of micro_tasks/add_tax" in r for r in metrics["remarks"])


def test_bad_input_is_one_line(world, tmp_path):
    begin(tmp_path / "a", "scores", CONFIG, {}, "k")
    with pytest.raises(UserError, match="no checkpoint among its inputs"):
        run(CONFIG, {k: world[k] for k in ("documents", "tokenizer")}, tmp_path / "a")
    empty = tmp_path / "empty"
    shutil.copytree(world["documents"], empty, ignore=shutil.ignore_patterns("heldout-*"))
    with pytest.raises(UserError, match="no held-out documents"):
        run(CONFIG, {**world, "documents": empty}, tmp_path / "a")
    with pytest.raises(ValueError, match="at least one k"):
        EvaluateConfig(pass_ks=())
