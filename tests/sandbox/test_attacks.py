from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import codeflow
from codeflow.sandbox.attacks import ATTACKS
from codeflow.sandbox.containment import Outcome, run_attacks, table
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result, Status

_ON_TIME = ("endless loop", "loop that ignores signals", "sleep")  # they run into the wall limit
_SLOW = (*_ON_TIME, "kill the parents", "memory bomb", "files without end")
_needs_sandbox = pytest.mark.skipif(not probe().backend, reason=probe().problem or "a sandbox works")


@pytest.fixture(params=BACKENDS)
def backend(request) -> str:
    name = request.param.partition(" 3")[0]
    if not probe(name).backend:
        pytest.skip(probe(name).problem)
    return request.param


def test_there_are_enough_attacks_with_names_of_their_own():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40


def test_quick_attacks_are_contained(backend):
    names = tuple(attack.name for attack in ATTACKS if attack.name not in _SLOW)
    outcomes = asyncio.run(run_attacks(lambda: open_sandbox(backend=backend), names))
    assert len(outcomes) == len(ATTACKS) - len(_SLOW)
    assert [(o.name, o.problem) for o in outcomes if o.problem] == []


@pytest.mark.slow
def test_attacks_on_time_are_contained(backend):
    outcomes = asyncio.run(run_attacks(lambda: open_sandbox(backend=backend), _SLOW))
    assert [(o.name, o.problem) for o in outcomes if o.problem] == []
    assert [o.status for o in outcomes if o.name in _ON_TIME] == [Status.TIME] * len(_ON_TIME)


def test_landlock_shows_that_a_file_exists():
    """What the documentation says of it: a name can be asked for, nothing more."""
    if not probe("landlock").backend:
        pytest.skip(probe("landlock").problem)
    (attack,) = [attack for attack in ATTACKS if attack.known_open]
    (outcome,) = asyncio.run(run_attacks(lambda: open_sandbox(backend="landlock"), (attack.name,)))
    assert not outcome.problem
    assert next(table([outcome])).endswith("NOT CONTAINED, as documented for this back end") is outcome.known


def test_the_table_shows_no_control_characters():
    lines = list(table([Outcome("a", Status.OK, 0.1, ""), Outcome("b", Status.OK, 0.1, "ESCAPED \x1b[2J")]))
    assert lines[0].endswith("contained")
    assert lines[1].endswith("ESCAPED ?[2J")
    assert lines[2] == "1 of 2 attacks contained"


@_needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("backend", [*BACKENDS, "landlock 3"], indirect=True)
def test_all_attacks_are_contained_for_an_ordinary_user(tmp_path, backend):
    """The suite is run by `nobody`, with the system's interpreter, on a copy that nobody can read."""
    runuser, python = shutil.which("runuser"), shutil.which("python3", path="/usr/bin")
    if os.geteuid() != 0 or not runuser or not python:
        pytest.skip("needs root, runuser and /usr/bin/python3 to become an ordinary user")
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip(f"{python} is older than 3.11")
    source, copy = Path(codeflow.__file__).parent, tmp_path / "copy/codeflow"
    for name in ("__init__.py", "core/__init__.py", "core/errors.py"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, copy / name)
    shutil.copytree(source / "sandbox", copy / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [runuser, "-u", "nobody", "--", python, "-m", "codeflow.sandbox.containment", *_arguments(backend)],
        cwd=tmp_path / "copy",
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "copy"), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    name = backend.partition(" 3")[0]  # Landlock as an older kernel has it, where the filter holds signals back
    n_known = sum(name in attack.known_open for attack in ATTACKS)
    assert f"{len(ATTACKS) - n_known} of {len(ATTACKS)} attacks contained\n{name}, as user 65534" in done.stdout


def _arguments(backend: str) -> list[str]:
    return ["landlock", "3"] if backend == "landlock 3" else [backend]


class _Bare:
    """No isolation at all: shows that the harmless ones of the attacks notice when they get through."""

    python = ("/usr/bin/env", "python3")

    async def exec(self, argv, stdin=b"", limits=None, channel=False, keep_files=False) -> Result:
        done = subprocess.run(argv, capture_output=True, check=False, timeout=20)
        return Result(Status.OK, done.returncode, 0.1, 0.1, None, done.stdout, done.stderr, b"", False, "bare")

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None


@pytest.mark.parametrize(
    "name", ["network", "abstract socket of the host", "host files", "environment and other processes"]
)
def test_attacks_notice_when_they_get_through(name):
    (outcome,) = asyncio.run(run_attacks(_Bare, (name,)))  # type: ignore[arg-type]
    assert outcome.problem.startswith("ESCAPED")


@pytest.mark.parametrize("status", [Status.INFRASTRUCTURE, Status.TIME])
def test_an_attack_that_ends_otherwise_is_not_contained(status, monkeypatch):
    class Sandbox(_Bare):
        async def exec(self, argv, stdin=b"", limits: Limits | None = None, channel=False, keep_files=False) -> Result:
            return Result(status, None, 0.1, 0.1, None, b"", b"", b"", False, "fake", "detail")

    (outcome,) = asyncio.run(run_attacks(Sandbox, ("network",)))  # type: ignore[arg-type]
    assert "detail" in outcome.problem


@pytest.mark.parametrize(
    ("cpu_seconds", "said", "n_tries", "problem"),
    [
        (0.1, b"", 2, ""),  # it had no processor: once more, with more time
        (9.0, b"", 1, "ended as time"),  # it had, and used it
        (0.1, b"ESCAPED", 1, "ESCAPED"),
    ],
)
def test_an_attack_that_had_no_processor_is_made_once_more(cpu_seconds, said, n_tries, problem):
    walls = []

    class Sandbox(_Bare):
        async def exec(self, argv, stdin=b"", limits: Limits | None = None, channel=False, keep_files=False) -> Result:
            assert limits is not None
            walls.append(limits.wall_seconds)
            if len(walls) == 2:
                return Result(Status.OK, 0, 5.0, 0.1, None, b"", b"", b"", False, "fake")
            return Result(Status.TIME, None, 10.0, cpu_seconds, None, said, b"", b"", False, "fake")

    (outcome,) = asyncio.run(run_attacks(Sandbox, ("network",)))  # type: ignore[arg-type]
    assert len(walls) == n_tries
    assert outcome.problem.startswith(problem)
    assert bool(outcome.problem) is bool(problem)
    assert walls[-1] == walls[0] * (4 if n_tries == 2 else 1)
