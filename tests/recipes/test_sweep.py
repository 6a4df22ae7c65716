from __future__ import annotations

import contextlib
import csv
from pathlib import Path

import pytest
import torch
from make_golden_curve import make_tokenizer, make_tokens

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, begin, input_record, seal, work_key
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool, in_this_process
from codeflow.execute.shards import RAY_ADDRESS, pool_on
from codeflow.model.flops import count_parameters
from codeflow.recipes import sweep
from codeflow.recipes.scaling import scaling
from codeflow.recipes.sweep import Size, SweepConfig
from codeflow.scaling.runs import languages_of, mixtures, read_runs
from codeflow.scaling.synergy import synergies

TINY = SweepConfig(
    languages=("general", "code"),
    sizes=(Size(hidden=16, layers=1), Size(hidden=32, layers=1)),
    tokens=(128, 256),
    pair_sizes=(0,),
    batch_rows=2,
    validation_rows=4,
    workers=1,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sets of 64-token rows and their tokenizer."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in ("tokenizer", "tokens"):
        begin(folder / name, name, Config(), {}, "")
    tokenizer = make_tokenizer(folder / "tokenizer")
    make_tokens(folder / "tokens", tokenizer, n_rows=24, context_tokens=64, sets=("general", "code"))
    for name in ("tokenizer", "tokens"):
        seal(folder / name, Counts())
    return {"tokens": folder / "tokens", "tokenizer": folder / "tokenizer"}


def run(config: SweepConfig, inputs: dict[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Path:
    torch.set_num_threads(1)
    records = {name: input_record(path) for name, path in inputs.items()}
    begin(output, "runs", config, records, work_key("runs", config, records))
    sweep.run(config, inputs, output, pool)
    return output / "runs.csv"


def test_a_grid_becomes_a_table_with_lineage(inputs: dict[str, Path], tmp_path: Path) -> None:
    table = run(TINY, inputs, tmp_path / "sweep")
    measurements = read_runs(table)
    assert languages_of(measurements) == ("code", "general")
    assert len({m.run for m in measurements}) == 2 * 2 * 2 + 2  # alone in every cell, one pair in two
    assert len(mixtures(measurements)) == 10
    assert {(p.target, p.auxiliary) for p in synergies(measurements).pairs} == {
        ("code", "general"),
        ("general", "code"),
    }
    header = table.read_text().splitlines()[0].split(",")
    assert {"config_sha256", "tokens_fingerprint", "tokenizer_fingerprint", "seed", "training_flops"} <= set(header)
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()) == []


def test_finished_runs_are_not_trained_again(inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = TINY.model_copy(update={"pairs": False, "together": False, "tokens": (128,)})
    trained: list[str] = []
    real = sweep.train_cell

    def counting(cell: sweep.Cell):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(cell.name)
        return real(cell)

    monkeypatch.setattr(sweep, "train_cell", counting)
    with pytest.raises(KeyboardInterrupt):
        run(small, inputs, tmp_path / "sweep")
    first = list(trained)
    trained.clear()
    table = run(small, inputs, tmp_path / "sweep")
    assert not set(first) & set(trained)
    assert len(read_runs(table)) == 4


class Elsewhere:
    """A pool that begins at the end, and loses the word of one job after it is done."""

    def __init__(self) -> None:
        self.n_jobs = 0

    def outcomes(self, work, jobs, small=False):
        self.n_jobs = max(self.n_jobs, len(jobs))
        for number, (job, outcome) in enumerate(in_this_process(work, jobs[::-1])):
            yield job, ConnectionError("the node is gone") if number == 1 else outcome

    @contextlib.contextmanager
    def kept(self):
        yield self


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the rows without the one column that says how long a run took."""
    with table.open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def test_the_rows_do_not_depend_on_who_runs_the_jobs(inputs: dict[str, Path], tmp_path: Path) -> None:
    small = TINY.model_copy(update={"tokens": (128,)})
    elsewhere = Elsewhere()
    table = run(small, inputs, tmp_path / "there", elsewhere)
    assert elsewhere.n_jobs == 5
    assert rows_of(table) == rows_of(run(small, inputs, tmp_path / "here"))


@pytest.mark.slow
def test_the_rows_of_a_ray_cluster_are_those_of_this_machine(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv(RAY_ADDRESS, raising=False)
    small = TINY.model_copy(update={"tokens": (128,)})
    with pool_on("ray") as pool:
        assert pool != THIS_MACHINE
        table = run(small, inputs, tmp_path / "there", pool)
    assert rows_of(table) == rows_of(run(small, inputs, tmp_path / "here"))


def test_a_language_without_tokens_is_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no set 'Cobol'"):
        run(TINY.model_copy(update={"languages": ("general", "Cobol")}), inputs, tmp_path / "sweep")


def test_the_recipe_is_wired_and_small() -> None:
    chain = scaling().chain()
    made: set[str] = set()
    for stage in chain:
        assert set(stage.inputs.values()) <= made
        made.add(stage.name)
    kinds = [stage.kind for stage in chain]
    assert kinds[kinds.index("runs") :] == [
        "runs",
        "scaling_law",
        "mixture_plan",
        "checkpoint",
        "checkpoint",
        "report",
    ]
    sizes = [count_parameters(size.model(1024, 256)).total for size in scaling().sweep.sizes]
    assert sizes[0] < 40_000
    assert sizes[-1] < 800_000
