from __future__ import annotations

import pytest

from codeflow.core.types import Task
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import Limits
from codeflow.solve.verify import python_calls_data
from codeflow.solve.verify_many import Attempt, verify_many

needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")
LIMITS = Limits(wall_seconds=3, cpu_seconds=1)
GOOD = "def f(x):\n    return x + 1\n"


def task(name: str) -> Task:
    return Task(name, "test", "", "python_calls", python_calls_data("f", [(1,), (5,)], [2, 6]), "")


def judged(*answers: str) -> list:
    return verify_many([Attempt(task(str(i)), a) for i, a in enumerate(answers)], LIMITS, 2)


@needs_sandbox
def test_verdicts_come_in_order_and_equal_answers_agree():
    bad = "def f(x):\n    return x\n"
    half = "def f(x):\n    return 2\n"
    attempts = [Attempt(task("a"), a) for a in (GOOD, bad, GOOD, half, "def f(", "", bad)]
    verdicts = verify_many(attempts, LIMITS, 2)
    assert [v.reward for v in verdicts] == [1, 0, 1, 0.5, 0, 0, 0]
    assert [v.passed for v in verdicts] == [True, False, True, False, False, False, False]
    assert verdicts[0] == verdicts[2]
    assert "SyntaxError" in verdicts[4].reason
    assert {v.fault for v in verdicts} == {"", "model"}


HOSTILE = {
    "ends its parent": "import os, signal\ndef f(x):\n    os.kill(os.getppid(), signal.SIGKILL)\n    return 0\n",
    "ends all": "import os, signal\ndef f(x):\n    os.kill(-1, signal.SIGKILL)\n    return 0\n",
    "crash": "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    "endless": "def f(x):\n    while True: pass\n",
    "flood": "def f(x):\n    return 'a' * 10**7\n",
    "memory": "def f(x):\n    return bytearray(2**31)\n",
    "forged report": "import os\nfor fd in range(3, 64):\n"
    '    try: os.write(fd, b\'["candidate",2,"exit",""]\\n["candidate",0,"exit",""]\\n\')\n'
    "    except OSError: pass\ndef f(x):\n    return 0\n",
    "parent's descriptors": "import os\ndef f(x):\n    for fd in range(64):\n        try:\n"
    '            os.write(os.open(f\'/proc/{os.getppid()}/fd/{fd}\', os.O_WRONLY), b\'["candidate",2,"exit",""]\\n\')\n'
    "        except OSError: pass\n    return 0\n",
    "parent's memory": "import os\ndef f(x):\n    open(f'/proc/{os.getppid()}/mem', 'r+b').read()\n    return x + 1\n",
    "left running": "import os, time\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n"
    "        while True: open('/work/alive', 'w').close()\n    os._exit(0)\ndef f(x):\n    return 0\n",
    "left files": "import os\nos.makedirs('/work/a/b'); open('/work/a/b/c', 'w').close(); os.chmod('/work/a', 0)\n"
    "open('/tmp/t', 'w').close()\ndef f(x):\n    return 0\n",
}
CLEAN = "import os\ndef f(x):\n    return x + 1 + len(os.listdir('/work')) + len(os.listdir('/tmp'))\n"


@needs_sandbox
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_candidate_earns_nothing_and_harms_no_other(name):
    before, hostile, after, last = judged(GOOD, HOSTILE[name], CLEAN, "def f(x):\n    return 0\n")
    assert before.reward == after.reward == 1, (before, after)
    assert last.reward == 0
    assert hostile.reward == 0
    assert not hostile.passed
    assert hostile.fault == "model"
    if name == "endless":
        assert "time" in hostile.reason


@needs_sandbox
def test_values_given_by_the_visible_examples_earn_nothing():
    """Hidden calls differ from the visible ones, so an answer that looks its values up has none to look up."""
    data = python_calls_data("f", [(n,) for n in range(10, 30)], [n * n for n in range(10, 30)])
    hidden = Task("t", "test", "f(2) == 4, f(3) == 9", "python_calls", data, "")
    looked_up = "def f(x):\n    return {2: 4, 3: 9}.get(x)\n"
    verdict, honest = verify_many([Attempt(hidden, looked_up), Attempt(hidden, "f = lambda x: x * x")], LIMITS, 1)
    assert (verdict.reward, verdict.passed) == (0, False)
    assert honest.passed
