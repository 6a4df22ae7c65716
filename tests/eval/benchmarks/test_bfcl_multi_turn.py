"""BFCL's conversations: with stand-ins for the simulators, and (slow) with the official ones, where pip has them."""

from __future__ import annotations

import ast
import json
import math
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from codeflow.core.errors import InfrastructureError, UserError
from codeflow.eval.answers import Answer, Question
from codeflow.eval.benchmark import Attempt, Sampling
from codeflow.eval.benchmark_run import BenchmarkRunConfig, run_benchmark
from codeflow.eval.benchmark_scores import score
from codeflow.eval.benchmarks import bfcl_multi_turn
from codeflow.eval.benchmarks.bfcl_multi_turn import BENCHMARK, MOST_STEPS, WHEELS, calls_of
from codeflow.sandbox.local import probe
from codeflow.solve.repository import environment as environments
from codeflow.solve.repository.environment import Environment

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")
UTILS = """\
from bfcl_eval.counter import Counter
instances = {}


def execute_multi_turn_func_call(calls, config, classes, model, entry_id, long_context=False, is_evaL_run=False):
    made = instances.setdefault(model, Counter(config["MathAPI"]["start"]))
    known = {"add": made.add, "double": made.double}
    return [str(eval(call, known)) for call in calls], {"MathAPI": made}
"""
CHECKER = """\
from bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils import execute_multi_turn_func_call as run


def multi_turn_checker(turns, truth, entry, category, model):
    for number, calls in enumerate(truth):
        for step in turns[number]:
            mine = run(step, entry["initial_config"], [], model, entry["id"])[1]
        if calls and not turns[number]:
            return {"valid": False, "error_type": "multi_turn:empty_turn_model_response"}
        theirs = run(calls, entry["initial_config"], [], model + "_truth", entry["id"])[1]
        if calls and mine["MathAPI"].n != theirs["MathAPI"].n:
            return {"valid": False, "error_type": "multi_turn:instance_state_mismatch"}
    return {"valid": True}
"""
COUNTER = """\
class Counter:
    def __init__(self, n): self.n = n
    def add(self, by):
        self.n += by
        return self.n
    def double(self):
        self.n *= 2
        return self.n
"""
ENTRY = {
    "id": "multi_turn_miss_func_0",
    "question": [[{"role": "user", "content": "Add two."}], [{"role": "user", "content": "Double it."}], []],
    "initial_config": {"MathAPI": {"start": 1}},
    "involved_classes": ["MathAPI"],
    "missed_function": {"2": ["double"]},
    "excluded_function": ["secret"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Official files of one conversation, and stand-ins for the packages."""
    packages = tmp_path / "packages" / "bfcl_eval"
    texts = {"eval_checker/multi_turn_eval/multi_turn_utils.py": UTILS, "counter.py": COUNTER, "__init__.py": ""}
    texts["eval_checker/multi_turn_eval/multi_turn_checker.py"] = CHECKER
    data = tmp_path / "bfcl"
    files: dict[Path, str] = {packages / name: text for name, text in texts.items()}
    files[data / "BFCL_v4_multi_turn_miss_func.json"] = json.dumps(ENTRY)
    truth = {"id": ENTRY["id"], "ground_truth": [["add(by=2)"], [], ["double()"]]}
    files[data / "possible_answer" / "BFCL_v4_multi_turn_miss_func.json"] = json.dumps(truth)
    functions = [{"name": name, "description": name, "parameters": {}} for name in ("add", "double", "secret")]
    files[data / "multi_turn_func_doc" / "math_api.json"] = "\n".join(map(json.dumps, functions))
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(0o755)
    made = Environment(tmp_path / "packages", WHEELS)
    monkeypatch.setattr(environments, "prepare", lambda *_, **__: made)
    return tmp_path


class Talker:
    """A model that says its lines one after the other."""

    name, fingerprint = "talker", "1"

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines, self.seen = list(lines), list[str]()

    def answer(self, questions: Sequence[Question], sampling: Sampling, seed: int) -> list[Answer]:
        [question] = questions
        self.seen.append(question.messages[-1].content)
        if not self.lines:
            raise InfrastructureError("nothing to say")
        return [Answer(self.lines.pop(0), "stop", 1, math.nan)]


def talked(folder: Path, lines: Sequence[str], out: str = "out"):
    model = Talker(lines)
    config = BenchmarkRunConfig(on=("bfcl_multi_turn",), benchmarks=str(folder), bootstrap_resamples=10)
    finished = run_benchmark(BENCHMARK, model, config, folder / out)
    return model, finished, {(one.metric, one.subset): one.value for one in score(finished, "talker", 10, 0)}


@needs_sandbox
def test_a_conversation_goes_through_its_turns(folder):
    lines = ["[add(by=2)]", "That is 3.", "I cannot double.", "[double()]", "It is 6."]
    model, finished, values = talked(folder, lines)
    assert model.seen[0] == "Add two."
    assert json.loads(model.seen[1].partition("\n")[2]) == [{"call": "add(by=2)", "result": "3"}]
    assert model.seen[2] == "Double it."
    assert '"double"' in model.seen[3]
    assert '"result": "6"' in model.seen[4].replace('\\"', '"')
    assert values == {("accuracy", ""): 1.0, ("accuracy", "multi_turn_miss_func"): 1.0}
    system = finished.problems[0].messages[0].content
    assert '"add"' in system
    assert '"double"' not in system
    assert '"secret"' not in system


@needs_sandbox
def test_a_stopped_conversation_goes_on_where_it_was(folder):
    lines = ["[add(by=2)]", "That is 3.", "No.", "[double()]", "It is 6."]
    with pytest.raises(InfrastructureError):
        talked(folder, lines[:3])
    model, _, values = talked(folder, lines[3:])
    assert len(model.seen) == 2
    assert values["accuracy", ""] == 1.0


@needs_sandbox
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["[add(by=3)]", "Done.", "No.", "[double()]", "Done."], "multi_turn:instance_state_mismatch"),
        (["Done.", "No.", "No."], "multi_turn:empty_turn_model_response"),
        (["[add(by=0)]"] * (MOST_STEPS + 1), "multi_turn:force_terminated"),
    ],
)
def test_wrong_conversations(folder, lines, reason):
    model, finished, values = talked(folder, lines)
    assert values["accuracy", ""] == 0.0
    assert not model.lines
    assert [one.reason for one in finished.judgements.values() if one.fault == "model"] == [reason]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[add(by=2), double()]", ("add(by=2)", "double()")),
        ("[f(x='a\\'b', y=[1, {'k': None}])]", ("f(x=\"a'b\", y=[1, {'k': None}])",)),
        ("Certainly, it is done.", ()),
        ("[]", ()),
        ("[__import__('os').system('id')]", ("system()",)),
        ("[f(x=__import__('os'))]", None),
    ],
)
def test_only_calls_with_plain_values_are_run(text, calls):
    found = calls_of(text)
    if calls is not None:
        assert found == calls
    for call in found:
        tree = ast.parse(call, mode="eval").body
        assert isinstance(tree, ast.Call)
        assert isinstance(tree.func, ast.Name)
        assert all(ast.literal_eval(item.value) is not ... for item in tree.keywords)


def test_missing_files_and_wheels_are_named(folder, monkeypatch):
    with pytest.raises(UserError, match="BFCL_v4_multi_turn"):
        BENCHMARK.load([folder])

    def absent(*_, **__):
        raise environments.NoEnvironmentError("No matching distribution found for bfcl-eval")

    monkeypatch.setattr(environments, "prepare", absent)
    [problem] = BENCHMARK.load([folder / "bfcl"])
    with pytest.raises(UserError, match="bfcl-eval=="):
        BENCHMARK.judge([Attempt(problem, ("[add(by=2)]",))], 1)


@pytest.mark.slow
@needs_sandbox
def test_ground_truths_pass_by_the_official_simulators(tmp_path):
    try:
        packages = environments.prepare(WHEELS, bfcl_multi_turn.cache_folder(""), locked=True).folder
    except (environments.NoEnvironmentError, UserError, InfrastructureError) as error:
        pytest.skip(f"no wheel: {error}")
    data = shutil.copytree(packages / "bfcl_eval" / "data", tmp_path / "bfcl")
    problems = BENCHMARK.load([data])
    assert len(problems) == 800
    attempts: list[Attempt] = []
    for problem in random.Random(0).sample(problems, 12):
        truth = problem.data["ground_truth"]
        if not any(ast.parse(call, mode="eval").body.args for turn in truth for call in turn):  # type: ignore[attr-defined]
            outputs = [line for turn in truth for line in ([f"[{', '.join(turn)}]"] if turn else []) + ["Done."]]
            attempts.append(Attempt(problem, tuple(outputs)))
    assert len(attempts) >= 8
    assert [one.reason for one in BENCHMARK.judge(attempts, 2)] == ["passed"] * len(attempts)
