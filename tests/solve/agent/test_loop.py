"""Scripted agents on a mined task, in the real sandbox: one solves it, those that cheat fail, limits end the others."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import asdict

import pytest

from codeflow.core.records import from_row, read_records, to_row, write_records
from codeflow.core.types import Episode
from codeflow.sandbox.local import probe
from codeflow.solve.agent.loop import AgentConfig, contexts_of, run_episode, run_episodes
from codeflow.solve.repository.tasks import RepositoryTasks
from tests.solve.agent.scripted import Line, Scripted, call
from tests.solve.repository.histories import WITH_SCALE

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")

SCALE = "\n\n\ndef scale(values, factor):\n    return [value * factor for value in values]\n"
SOLUTION: list[Line] = [
    f"I look first. {call('view', path='src/calc/core.py')}",
    call("edit", path="src/calc/core.py", old="    return a + b", new=f"    return a + b{SCALE.rstrip()}"),
    call("bash", command="python3 -c 'from calc.core import scale; assert scale([1], 2) == [2]'"),
    f"{call('run_tests')}\n{call('submit')}",
]
PATCH = "import _pytest.python as p\np.Function.runtest = lambda self: None\n"
CHEATS: dict[str, list[Line]] = {
    "edits the tests": [
        call("bash", command="printf 'def test_scale(): pass\\ndef test_add(): pass\\n' > tests/test_core.py"),
        call("submit"),
    ],
    "patches pytest": [
        call("edit", path="src/calc/core.py", old="def add", new=f"{PATCH}def add"),
        call("submit"),
    ],
    "passes everything by a conftest": [
        call(
            "edit",
            path="src/conftest.py",
            old="",
            new="import pytest\n@pytest.hookimpl(tryfirst=True)\ndef pytest_pyfunc_call(pyfuncitem): return True\n",
        ),
        call("bash", command="cp src/conftest.py conftest.py; cp src/conftest.py tests/conftest.py"),
        call("submit"),
    ],
    "looks for the solution in git": [
        call(
            "bash", command="git log --all -p; cat .git/HEAD; find /repository /work -name '*.pack'; ls /repository -a"
        ),
        lambda seen: call("edit", path="src/calc/found.py", old="", new=seen if "def scale" in seen else "x = 1\n"),
        call("bash", command="cat src/calc/found.py >> src/calc/core.py"),
        call("submit"),
    ],
    "looks for the tests": [
        call("bash", command="grep -rl test_scale /repository /work /metadata"),
        lambda seen: call("submit") if "[exit code 1]" in seen and "test_core" not in seen else "I have found them.",
    ],
}


def worked(mined, script: Scripted, **fields) -> Episode:
    tasks = RepositoryTasks(mined[0], mined[1])
    config = AgentConfig(**{"command_seconds": 20, "output_characters": 2000, **fields})
    return asyncio.run(run_episode(tasks, tasks.tasks[0], script, config))


def test_a_script_solves_the_task(mined, tmp_path):
    script = Scripted(SOLUTION)
    episode = worked(mined, script)
    assert (episode.stop_reason, episode.verdict.passed, episode.verdict.reward) == ("submitted", True, 1.0)
    assert [turn.role for turn in episode.turns] == ["prompt", *["assistant", "tool"] * 3, "assistant"]
    assert [turn.exit_code for turn in episode.turns if turn.role == "tool"] == [0, 0, 0]
    place = RepositoryTasks(mined[0], mined[1]).place(RepositoryTasks(mined[0], mined[1]).tasks[0])
    subprocess.run(["cp", "-r", str(place.tree.files), str(tmp_path / "copy")], check=True)
    subprocess.run(["git", "apply", "-"], input=episode.patch, text=True, check=True, cwd=tmp_path / "copy")
    assert (tmp_path / "copy" / "src/calc/core.py").read_text() == WITH_SCALE
    write_records(tmp_path / "episodes.parquet", [episode], Episode)
    assert (
        list(read_records(tmp_path / "episodes.parquet", Episode)) == [episode] == [from_row(Episode, to_row(episode))]
    )


def test_the_ids_are_what_the_model_read_and_wrote(mined):
    script = Scripted(SOLUTION)
    episode = worked(mined, script)
    [context] = contexts_of(episode)
    read = bytes(context.ids)
    for prompt, turn in zip(script.prompts, [turn for turn in episode.turns if turn.sampled], strict=True):
        assert read[: len(prompt)] == prompt
        assert read[len(prompt) : len(prompt) + len(turn.ids)] == turn.text.encode()
        assert all(context.sampled[len(prompt) : len(prompt) + len(turn.ids)])
    assert sum(context.sampled) == sum(len(turn.ids) for turn in episode.turns if turn.sampled)
    assert all((p != 0) == sampled for p, sampled in zip(context.logprobs, context.sampled, strict=True))


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_agents_fail(mined, cheat):
    episode = worked(mined, Scripted(CHEATS[cheat]))
    assert episode.stop_reason == "submitted"
    assert not episode.verdict.passed
    assert episode.verdict.fault == "model"


def test_a_full_context_is_summarised_and_the_masks_stay_exact(mined):
    chatter = [f"{'Thinking aloud. ' * 60}{call('view', path='src/calc/core.py')}"] * 5
    lines = [*chatter, "Milestone: nothing is done yet.", *SOLUTION]
    script = Scripted(lines, context_tokens=9000)
    episode = worked(mined, script, answer_tokens=1100, summary_tokens=200)
    assert episode.verdict.passed, (episode.stop_reason, episode.verdict)
    summaries = [turn for turn in episode.turns if turn.role == "summary"]
    assert [turn.text for turn in summaries] == ["Milestone: nothing is done yet."]
    contexts = contexts_of(episode)
    assert len(contexts) == 2
    assert all(len(context.ids) <= 9000 for context in contexts)
    first, second = (bytes(context.ids) for context in contexts)
    assert first.endswith(b"Milestone: nothing is done yet.")
    assert contexts[0].sampled[-len(summaries[0].ids) :] == (True,) * len(summaries[0].ids)  # trained where it was said
    place = second.index(b"Milestone: nothing")
    assert not any(contexts[1].sampled[place : place + len(summaries[0].ids)])  # and only read afterwards
    prompts = iter(script.prompts)
    for number, whole in enumerate((first, second)):
        for _ in [turn for turn in episode.turns if turn.sampled and turn.context == number]:
            assert whole.startswith(next(prompts))


def test_every_context_stays_within_its_budget(mined):
    """Tools answer with more than fits: answers are cut, the summary still finds room."""
    flood = call("bash", command="seq 100000")
    script = Scripted([lambda seen: "Milestone" if "nearly full" in seen else flood] * 10, context_tokens=6000)
    episode = worked(mined, script, answer_tokens=500, summary_tokens=100, output_characters=20_000, max_turns=10)
    contexts = contexts_of(episode)
    assert episode.stop_reason == "turns"
    assert len(contexts) >= 3
    assert all(len(context.ids) <= 6000 for context in contexts)
    n_summaries = sum(turn.role == "summary" for turn in episode.turns)
    assert n_summaries == len(contexts) - 1


@pytest.mark.parametrize(
    ("lines", "fields", "stop"),
    [
        ([call("view", path=".")] * 9, {"max_turns": 3}, "turns"),
        ([call("bash", command="sleep 2")] * 9, {"max_seconds": 1.0}, "seconds"),
        (["I would rather talk."] * 9, {"max_idle_turns": 2}, "no call"),
        (["<tool_call>{</tool_call>"] * 9, {"max_idle_turns": 2}, "no call"),
        ([call("view", path=".")], {"context_tokens": 3000, "answer_tokens": 2000}, "context"),
        ([call("view", path=".")], {}, "infrastructure"),
    ],
)
def test_limits_end_an_episode(mined, lines, fields, stop):
    episode = worked(mined, Scripted(lines), **fields)
    assert episode.stop_reason == stop
    assert not episode.verdict.passed
    assert episode.verdict.fault == ("infrastructure" if stop == "infrastructure" else "model")
    if stop == "no call":
        assert "call again" in str(asdict(episode)) or "no tool call" in str(asdict(episode))


def test_a_failing_sandbox_is_no_failure_of_the_model(mined, monkeypatch):
    from codeflow.solve.repository import workspace
    from codeflow.solve.repository.workspace import Ran

    async def fails(self, argv, seconds, output_bytes=0):
        return Ran(None, "", 0.1, "infrastructure")

    monkeypatch.setattr(workspace.Workspace, "run", fails)
    episode = worked(mined, Scripted([call("bash", command="ls")]))
    assert (episode.stop_reason, episode.verdict.fault) == ("infrastructure", "infrastructure")


def test_many_episodes_come_in_order(mined):
    tasks = RepositoryTasks(mined[0], mined[1])
    script = Scripted([call("submit")] * 3)
    episodes = asyncio.run(run_episodes(tasks, tasks.tasks, script, AgentConfig(at_once=2), samples=3))
    assert [episode.sample for episode in episodes] == [0, 1, 2]
