"""A scripted model works on mined tasks: episodes kept, gone on from, faults done again, scores with intervals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from codeflow.cli import app
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import check_files
from codeflow.core.records import read_shards
from codeflow.core.storage import write_text
from codeflow.core.types import Episode, Score
from codeflow.eval.repository_tasks import SolveConfig, Solver, run
from codeflow.model.config import ModelConfig
from codeflow.model.huggingface import ExportSettings, save
from codeflow.model.looped import LoopCoder
from codeflow.report.inspect_log import export
from codeflow.sandbox.local import probe
from codeflow.solve.agent.loop import AgentConfig
from codeflow.solve.agent.samplers import Context, Said
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository import mine
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train
from tests.endpoint.fake_server import fake_server
from tests.solve.agent.scripted import Scripted, call
from tests.solve.repository.histories import calc, make_tasks, packages

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")

SCALE = "\n\n\ndef scale(values, factor):\n    return [value * factor for value in values]"
RIGHT = call("edit", path="src/calc/core.py", old="    return a + b", new=f"    return a + b{SCALE}")
AGENT = AgentConfig(command_seconds=20, at_once=1, max_idle_turns=1)


class Plays(Scripted):
    """Begins its script anew with each episode; `fails` says in which of them the server is gone."""

    def __init__(self, scripts: list[list[str]], fails: tuple[int, ...] = ()) -> None:
        super().__init__([])
        self.scripts, self.fails, self.n_begun = scripts, fails, 0

    async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
        if not any(message.role == "assistant" for message in context.messages):
            self.n_begun += 1
            self.lines = list(self.scripts[(self.n_begun - 1) % len(self.scripts)])
            if self.n_begun - 1 in self.fails:
                raise InfrastructureError("the server is gone")
        return await super().sample(context, max_tokens, seed)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RepositoryTasks]:
    """The one task of the small repository."""
    place = tmp_path_factory.mktemp("mined")
    calc(place / "calc")
    made = environments.Environment(packages(place / "cache" / "environments" / "fixed"), ("pytest==0",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments, "prepare", lambda *_, **__: made)
        make_tasks(mine.MineConfig(repository=str(place / "calc"), cache=str(place / "cache")), place / "tasks")
        yield RepositoryTasks(place / "tasks", str(place / "cache"))


def by_metric(scores: list[Score]) -> dict[str, Score]:
    return {one.metric: one for one in scores}


def test_episodes_are_kept_and_scored(tasks, tmp_path):
    model = Plays([[RIGHT, call("submit")], ["I give up."]])
    config = SolveConfig(samples=2, agent=AGENT)
    manifest, scores = run(config, tasks, Solver(model, "1"), tmp_path / "out")
    found = by_metric(scores)
    assert (found["pass@1"].value, found["pass@2"].value, found["pass^2"].value) == (0.5, 1.0, 0.0)
    assert (found["reward"].value, found["submitted"].value, found["turns"].value) == (0.5, 0.5, 1.5)
    assert found["pass@1"].settings["samples"] == "2"
    assert manifest.inputs["tasks"].path
    check_files(tmp_path / "out", deep=True)
    episodes = list(read_shards(tmp_path / "out", "episodes", Episode))
    assert [(one.sample, one.stop_reason, one.verdict.passed) for one in episodes] == [
        (0, "submitted", True),
        (1, "no call", False),
    ]
    assert "def scale" in episodes[0].patch
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["stop_reasons"] == {
        "no call": 1,
        "submitted": 1,
    }
    assert len(export(tmp_path / "out", tmp_path / "logs")) == 1
    silent = Plays([])  # it would fail if it were asked
    assert run(config, tasks, Solver(silent, "1"), tmp_path / "out")[1] == scores
    more = Plays([[RIGHT, call("submit")]])
    _, scores = run(config.model_copy(update={"samples": 3}), tasks, Solver(more, "1"), tmp_path / "out")
    assert more.n_begun == 1
    assert by_metric(scores)["pass@1"].value == pytest.approx(2 / 3)
    other = Plays([["No."]])
    _, scores = run(config, tasks, Solver(other, "2"), tmp_path / "out")
    assert other.n_begun == 2, "another model's episodes are not ours"
    assert by_metric(scores)["pass@1"].value == 0.0


def test_faults_are_counted_left_out_and_done_again(tasks, tmp_path):
    model = Plays([[RIGHT, call("submit")]], fails=(1,))
    config = SolveConfig(samples=2, agent=AGENT)
    manifest, scores = run(config, tasks, Solver(model, "1"), tmp_path / "out")
    assert manifest.counts.notes["infrastructure faults"] == 1
    found = by_metric(scores)
    assert (found["pass@1"].value, found["pass@1"].n_faults) == (1.0, 1)
    assert "pass@2" not in found
    again = Plays([["No."]])
    manifest, scores = run(config, tasks, Solver(again, "1"), tmp_path / "out")
    assert again.n_begun == 1
    assert manifest.counts.notes["infrastructure faults"] == 0
    assert by_metric(scores)["pass@1"].value == 0.5


def test_a_run_that_is_stopped_goes_on(tasks, tmp_path):
    class Stopped(Plays):
        async def sample(self, context: Context, max_tokens: int, seed: int) -> Said:
            if self.n_begun == 1 and not self.lines:
                raise UserError("no packages")
            return await super().sample(context, max_tokens, seed)

    config = SolveConfig(samples=2, agent=AGENT)
    with pytest.raises(UserError, match="no packages"):
        run(config, tasks, Solver(Stopped([[RIGHT, call("submit")]]), "1"), tmp_path / "out")
    assert len(list((tmp_path / "out" / "episodes").glob("*.parquet"))) == 1
    model = Plays([["No."]])
    _, scores = run(config, tasks, Solver(model, "1"), tmp_path / "out")
    assert model.n_begun == 1
    assert by_metric(scores)["pass@1"].value == 0.5


def test_a_folder_with_something_else_is_left_alone(tasks, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(SolveConfig(agent=AGENT), tasks, Solver(Plays([["No."]]), "1"), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_command_with_a_model_behind_a_url(tasks, tmp_path):
    """From the command line to the scores, with a server that answers as a script does."""

    def reply(body, before):
        n = sum(message["role"] == "assistant" for message in body["messages"])
        return 200, [RIGHT, call("submit")][n]

    with fake_server(reply) as server:
        arguments = ["solve", str(tasks.folder), "--model", server.url, "-o", str(tmp_path / "out"), "server.model=m"]
        fields = [f"cache={tasks.cache}", "agent.command_seconds=20", "server_tools=false"]
        made = CliRunner().invoke(app, [*arguments, *fields])
    assert made.exit_code == 0, made.output
    [episode] = read_shards(tmp_path / "out", "episodes", Episode)
    assert (episode.checkpoint, episode.verdict.passed) == ("m", True)
    assert by_metric(list(read_shards(tmp_path / "out", "scores", Score)))["pass@1"].value == 1.0


def test_the_command_with_a_checkpoint(tasks, tmp_path):
    """A model of random weights talks nonsense, which is no call."""
    text = train(["def add(a, b):\n    return a + b\n"] * 3, TokenizerConfig(vocab_size=300))
    shape = ModelConfig(
        vocab_size=Tokenizer(text).vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    save(LoopCoder(shape, 3), tmp_path / "random", ExportSettings(bos_token_id=1, eos_token_ids=(2, 4), pad_token_id=0))
    write_text(tmp_path / "random" / "tokenizer.json", text)
    fields = ["agent.answer_tokens=20", "agent.summary_tokens=20", "agent.max_idle_turns=2", f"cache={tasks.cache}"]
    arguments = ["solve", str(tasks.folder), "--model", str(tmp_path / "random"), "-o", str(tmp_path / "out")]
    made = CliRunner().invoke(app, [*arguments, *fields])
    assert made.exit_code == 0, made.output
    [episode] = read_shards(tmp_path / "out", "episodes", Episode)
    assert (episode.checkpoint, episode.stop_reason) == ("random", "no call")
    assert all(turn.ids for turn in episode.turns)
