"""From a checkpoint to an artifact of scores, through a real model, real judges and the command line."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codeflow.cli import app
from codeflow.core.errors import UserError
from codeflow.core.manifest import check_files
from codeflow.core.records import read_shards, write_records
from codeflow.core.types import Document, Score
from codeflow.eval import catalogue
from codeflow.eval.answers import LocalAnswerer
from codeflow.eval.benchmark_run import BenchmarkRunConfig, Finished
from codeflow.eval.benchmarks_artifact import contaminated, differences, make, read
from codeflow.eval.records import Generated
from tests.eval.conftest import document

PROMPT = (
    "def add_up(first, second, third):\n"
    '    """Return the sum of the three given numbers, whatever their signs are, without rounding them."""\n'
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small files in the official formats."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "humaneval").mkdir()
    row = {
        "task_id": "HumanEval/0",
        "prompt": PROMPT,
        "entry_point": "add_up",
        "canonical_solution": "    return first + second + third\n",
    }
    row["test"] = "def check(candidate):\n    assert candidate(1, 2, 3) == 6\n"
    with gzip.open(folder / "humaneval/HumanEval.jsonl.gz", "wt") as file:
        file.write(json.dumps(row) + "\n")
    (folder / "cruxeval").mkdir()
    crux = [
        {"id": f"sample_{n}", "code": "def f(x):\n    return x + 1", "input": str(n), "output": str(n + 1)}
        for n in range(3)
    ]
    (folder / "cruxeval/cruxeval.jsonl").write_text("".join(json.dumps(one) + "\n" for one in crux))
    return folder


@pytest.fixture(scope="module")
def models(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two published models."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("first", "second"):
        shutil.copytree(world[name] / "model", folder / name)
        shutil.copy(world["tokenizer"] / "tokenizer.json", folder / name)
    return folder


def test_names() -> None:
    assert [one.name for one in catalogue.find(["cruxeval", "bfcl", "cruxeval_output"])] == [
        *("cruxeval_output", "cruxeval_input", "bfcl")
    ]
    assert {one.name for one in catalogue.find(catalogue.NAMES)} == set(catalogue.NAMES)
    with pytest.raises(UserError, match="did you mean 'humaneval'"):
        catalogue.find(["humanevl"])


def test_published_temperatures() -> None:
    found = {one.name: (one.sampling.temperature, one.sampling.top_p) for one in catalogue.find(catalogue.NAMES)}
    assert found["humaneval_plus"] == found["cruxeval_output"] == (0.0, 1.0)
    assert found["livecodebench"] == (0.6, 0.95)
    assert (found["mercury"], found["bird"], found["bfcl"]) == ((0.2, 0.85), (0.2, 0.95), (0.01, 0.85))


def test_an_artifact_from_the_command_line(files: Path, models: Path, tmp_path: Path, sandbox: None) -> None:
    def run(model: str, *more: str) -> str:
        settings = [f"benchmarks={files}", "style=text", "max_new_tokens=8", "bootstrap_resamples=20"]
        on = ["--on", "humaneval,cruxeval_output", "-o", str(tmp_path / model), *more]
        done = CliRunner().invoke(app, ["evaluate", str(models / model), *settings, *on], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    run("first")
    output = tmp_path / "first"
    assert check_files(output, deep=True).kind == "scores"
    scores = list(read_shards(output, "scores", Score))
    assert {one["metric"] for one in json.loads((output / "scores.json").read_text())} == {one.metric for one in scores}
    assert {(one.benchmark, one.n) for one in scores if one.metric == "pass@1"} == {
        ("humaneval", 1),
        ("cruxeval_output", 3),
    }
    generations = list(read_shards(output, "generations", Generated))
    assert len(generations) == 4
    assert all(one.backend for one in generations if one.benchmark == "humaneval")
    said = json.loads((output / "provenance.json").read_text())
    assert said["benchmarks"]["humaneval"]["gold_failures"] == []
    before = {path: path.read_bytes() for path in output.rglob("*.parquet")}
    run("first")
    assert {path: path.read_bytes() for path in output.rglob("*.parquet")} == before
    assert "pass@1: " in run("second", "--against", str(output))


def test_a_finished_run_is_read_without_its_model(files: Path, models: Path, tmp_path: Path) -> None:
    config = BenchmarkRunConfig(
        on=("cruxeval_output",),
        benchmarks=str(files),
        style="text",
        max_new_tokens=8,
        prove=False,
        temperature=1.0,
        samples=2,
    )
    for name in ("first", "second"):
        make(config, LocalAnswerer(models / name, name, "float32"), tmp_path / name)
    (finished,) = read(tmp_path / "first", str(files), 1)
    assert len(finished.answers) == 6
    assert set(differences(tmp_path / "first", tmp_path / "second", config)) == {"cruxeval_output"}
    (tmp_path / "first/generations/cruxeval_output.jsonl").unlink()
    with pytest.raises(UserError, match="lacks 6 answers"):
        read(tmp_path / "first", str(files), 1)
    with pytest.raises(UserError, match="no evaluation"):
        read(files, None, 1)
    with pytest.raises(UserError, match="is not empty"):
        make(config, LocalAnswerer(models / "first", "first"), files)


def test_a_missing_file_is_said_before_anything_is_asked(files: Path, models: Path, tmp_path: Path) -> None:
    config = BenchmarkRunConfig(on=("cruxeval_output", "mbpp"), benchmarks=str(files), style="text", prove=False)
    with pytest.raises(UserError, match="mbpp"):
        make(config, LocalAnswerer(models / "first", "first"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_problems_in_training_documents_are_named(files: Path, tmp_path: Path) -> None:
    (benchmark,) = catalogue.find(["humaneval"])
    problems = benchmark.load([files / "humaneval/HumanEval.jsonl.gz"])
    finished = Finished(benchmark, "text", benchmark.sampling, 1, tuple(problems), {}, {}, (), "")
    clean = document(
        "def unrelated():\n    return 'nothing that anybody asked for in any benchmark at all'\n", "Python"
    )
    dirty = document(f"# copied\n{problems[0].text}\nand some more text after it\n", "Python")
    write_records(tmp_path / "clean/documents-00000.parquet", [clean], Document)
    write_records(tmp_path / "dirty/documents-00000.parquet", [clean, dirty], Document)
    assert contaminated(tmp_path / "clean", [finished]) == {"humaneval": []}
    assert contaminated(tmp_path / "dirty", [finished]) == {"humaneval": [problems[0].id]}
    with pytest.raises(UserError, match="holds no documents"):
        contaminated(tmp_path, [finished])


def test_the_stage_is_called_as_ever() -> None:
    done = CliRunner().invoke(app, ["evaluate", "x", "--fields"])
    assert "documents_per_domain" in done.output
    done = CliRunner().invoke(app, ["evaluate", "x", "--against", "y"])
    assert isinstance(done.exception, UserError)
