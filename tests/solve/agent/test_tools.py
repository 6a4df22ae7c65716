from __future__ import annotations

import asyncio
import json

import pytest

from codeflow.sandbox.local import probe
from codeflow.solve.agent.protocol import explained, read_calls
from codeflow.solve.agent.tools import TOOLS, Answered, ToolLimits, call_tool, cut
from codeflow.solve.repository.tasks import RepositoryTasks
from codeflow.solve.repository.workspace import Workspace
from codeflow.tokens.chat import ToolCall
from tests.solve.agent.scripted import call

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


@pytest.fixture
def workspace(mined) -> Workspace:
    tasks = RepositoryTasks(mined[0], mined[1])
    return Workspace(tasks.place(tasks.tasks[0]))


def answered(workspace: Workspace, name: str, **arguments) -> Answered:
    limits = ToolLimits(command_seconds=20, output_characters=2000)
    return asyncio.run(call_tool(ToolCall(name, json.dumps(arguments)), workspace, limits))


def test_each_tool_does_what_it_says(workspace):
    assert answered(workspace, "view", path=".").text.splitlines() == ["README.md", "pyproject.toml", "src/", "tests/"]
    assert (
        answered(workspace, "view", path="src/calc/core.py").text == "     1\tdef add(a, b):\n     2\t    return a + b"
    )
    assert answered(workspace, "view", path="src/calc/core.py", first=2).text.startswith("     2\t")
    found = answered(workspace, "search", pattern="return [ab]")
    assert found.text == "./src/calc/core.py:2:    return a + b\n"
    assert answered(workspace, "search", pattern="nowhere", path="src").text == "no line matches"
    edit = {"path": "src/calc/core.py", "old": "a + b", "new": "b + a"}
    assert answered(workspace, "edit", **edit).exit_code == 0
    assert workspace.changes == {"src/calc/core.py": b"def add(a, b):\n    return b + a\n"}
    assert answered(workspace, "edit", path="src/calc/new.py", old="", new="z = 1\n").text == "src/calc/new.py is made"
    ran = answered(workspace, "bash", command="python3 -c 'import calc.new; print(calc.new.z)'; exit 3")
    assert (ran.text, ran.exit_code) == ("1\n[exit code 3]", 3)
    tested = answered(workspace, "run_tests", paths="tests/test_core.py")
    assert "1 passed" in tested.text
    assert tested.exit_code == 0
    assert answered(workspace, "submit").submitted


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("rm", {}, "no tool 'rm'; there are: bash, view"),
        ("bash", {}, "bash needs 'command'"),
        ("bash", {"command": 3}, "'command' must be of type string"),
        ("bash", {"command": "a\0b"}, "NUL"),
        ("view", {"path": "x", "line": 1}, "view has no argument 'line'; it takes: path, first, last"),
        ("view", {"path": "x", "first": True}, "'first' must be of type integer"),
        ("view", {"path": "../../etc/passwd"}, "no file or folder"),
        ("view", {"path": "gone.py"}, "no file or folder 'gone.py'"),
        ("edit", {"path": "src/calc/core.py", "old": "", "new": "x"}, "exists"),
        ("edit", {"path": "src/calc/core.py", "old": "a", "new": "x"}, "occurs 3 times"),
        ("edit", {"path": "src/calc/core.py", "old": "q", "new": "x"}, "occurs 0 times"),
        ("edit", {"path": "gone.py", "old": "q", "new": "x"}, "no file 'gone.py'"),
        ("edit", {"path": "../x", "old": "", "new": "x"}, "must be relative"),
        ("edit", {"path": "README.md/x", "old": "", "new": "x"}, "README.md is a file"),
        ("search", {"pattern": "("}, "exit code 2"),
    ],
)
def test_what_does_not_fit_is_answered(workspace, name, arguments, words):
    answer = answered(workspace, name, **arguments)
    assert words in answer.text
    assert answer.exit_code
    assert workspace.changes == {}


def test_arguments_that_are_no_object(workspace):
    for text in ("[1]", "{", "[" * 100_000):
        answer = asyncio.run(call_tool(ToolCall("bash", text), workspace, ToolLimits()))
        assert "no JSON object" in answer.text


def test_long_answers_lose_their_middle(workspace):
    answer = answered(workspace, "bash", command="seq 100000")
    assert answer.text.startswith("1\n2\n")
    assert "left out" in answer.text
    assert answer.text.endswith("100000\n")
    assert len(answer.text) < 2100
    assert cut("x" * 10, 10) == "x" * 10


def test_schemas_are_in_the_function_call_format():
    assert [tool["function"]["name"] for tool in TOOLS] == ["bash", "view", "edit", "search", "run_tests", "submit"]
    for tool in TOOLS:
        parameters = tool["function"]["parameters"]
        assert tool["type"] == "function"
        assert set(parameters["required"]) <= set(parameters["properties"])
        assert json.dumps(tool["function"]["name"]) in explained(TOOLS)


@pytest.mark.parametrize(
    ("text", "content", "names", "problem"),
    [
        (f"Look. {call('view', path='.')}", "Look.", ["view"], ""),
        (f"{call('view', path='.')}\n{call('submit')}", "", ["view", "submit"], ""),
        (f"<think>{call('submit')}</think> {call('view', path='.')}", "", ["view"], ""),
        ("Nothing to call.", "Nothing to call.", [], ""),
        ('<tool_call>{"name": "bash"', "", [], "not closed"),
        ("<tool_call>bash ls</tool_call>", "", [], "not JSON"),
        ('<tool_call>["bash"]</tool_call>', "", [], "must be"),
        (f"{call('view', path='.')}<tool_call>[</tool_call>", "", ["view"], "not JSON"),
        (f"{call('submit')}<|im_end|>", "", ["submit"], ""),
    ],
)
def test_calls_in_text(text, content, names, problem):
    said, calls, found = read_calls(text)
    assert (said, [one.name for one in calls]) == (content, names)
    assert problem in found
    assert bool(problem) == bool(found)
