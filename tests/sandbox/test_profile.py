from __future__ import annotations

import asyncio

import pytest

from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.sandbox.policy import MIB, Limits
from codeflow.sandbox.profile import Profile, profile
from codeflow.sandbox.result import Status

PROGRAM = """\
import sys
import time

def slow(n):
    if n > 100:
        return "never"
    time.sleep(0.05)
    return n * 2

class Unused:
    def method(self):
        return 1

total = 0
for text in sys.stdin:
    total += slow(int(text))
print(total)
"""


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    if not probe(request.param).backend:
        pytest.skip(probe(request.param).problem)
    return request.param


def _profile(source: str, backend: str = "", **arguments) -> Profile:
    async def one() -> Profile:
        async with open_sandbox(backend=backend) as sandbox:
            await sandbox.write("kept.txt", b"mine")
            found = await profile(sandbox, source, **arguments)
            assert (await sandbox.snapshot()).files == (("kept.txt", b"mine"),)
            return found

    return asyncio.run(one())


def test_lines_times_memory_and_order(backend):
    found = _profile(PROGRAM, backend, stdin=b"1\n2\n3\n")
    assert (found.problem, found.plain.status, found.plain.stdout) == ("", Status.OK, b"12\n")
    assert found.plain.wall_seconds >= 0.15
    assert found.plain.peak_memory_bytes is not None
    assert found.executable == (1, 2, 4, 5, 6, 7, 8, 10, 11, 12, 14, 15, 16, 17)
    assert found.missed == (6, 12)
    assert found.coverage == pytest.approx(12 / 14)
    assert {line: found.lines[line].times for line in (4, 7, 8, 14, 15, 16)} == {4: 1, 7: 3, 8: 3, 14: 1, 15: 4, 16: 3}
    assert found.lines[7].microseconds >= 150_000
    assert found.lines[14].microseconds < 50_000
    own = [line for line, name in found.steps if name != "Unused"]
    assert own == [1, 2, 4, 10, 14, *[15, 16, 5, 7, 8] * 3, 15, 17]
    assert (5, "slow") in found.steps
    assert found.complete


def test_only_so_many_steps_are_told_but_all_are_counted():
    found = _profile("n = 0\nwhile n < 5000:\n    n += 1\n", most_steps=10)
    assert (len(found.steps), found.complete) == (10, False)
    assert found.lines[3].times == 5000


@pytest.mark.parametrize(
    ("source", "status", "problem"),
    [
        ("import os\nos._exit(0)", Status.OK, "ended as ok"),
        ("def f(:\n  pass", Status.FAILED, "SyntaxError"),
        ("while True: pass", Status.TIME, "ended as time"),
        ("import os\nos.kill(os.getpid(), 9)", Status.CRASH, "ended as crash"),
        (
            "import os\nfor n in range(3, 50):\n  try: os.write(n, b'{\"lines\": []}')\n  except OSError: pass",
            Status.OK,
            "ended as ok",
        ),
    ],
)
def test_a_program_that_tells_nothing_of_its_lines(source, status, problem):
    found = _profile(source, limits=Limits(wall_seconds=0.4, cpu_seconds=1, memory_bytes=128 * MIB))
    assert found.plain.status is status
    assert problem in found.problem
    assert (found.lines, found.coverage, found.complete) == ({}, 0.0, False)


def test_a_failing_program_still_has_its_lines():
    found = _profile("x = 1\nif x:\n    raise KeyError(x)\nprint(x)\n")
    assert (found.plain.status, found.problem, found.missed) == (Status.FAILED, "", (4,))


def test_threads_count_too():
    source = (
        "import threading\ndef work():\n    return 1\n"
        "for _ in range(3):\n    t = threading.Thread(target=work)\n    t.start()\n    t.join()\n"
    )
    assert _profile(source).lines[3].times == 3
