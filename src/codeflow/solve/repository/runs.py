"""Running a repository's tests in the sandbox: a fresh copy of its tree, some files in place of its own, pytest.

Each run is an execution of its own without network: the tree, its metadata and the packages are mounted read-only, the
copy lies in memory. The standard library comes before the repository's modules and pytest is loaded before them, so
neither can be replaced by a file of that name. Canaries as in `hidden_tests.py` lie in a file of their own beside the
first test file.
"""

from __future__ import annotations

import json
import marshal
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from codeflow.sandbox.local import open_sandbox, probe
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.solve.hidden_tests import FAILING_CANARIES, PYTEST_CANARIES
from codeflow.solve.repository.tree import Exported

Changes = Mapping[str, bytes | None]  # contents by path; None: the file is not there
BASE, PACKAGES, METADATA = "/repository", "/packages", "/metadata"
ROOTS = ("/work/src", "/work", METADATA)
DRIVER = Path(__file__).with_name("runs_driver.py").read_text(encoding="utf-8")
_ATTEMPTS = 3
_OUTPUT_BYTES = 16 * MIB
_STARVED_SHARE, _PATIENCE = 0.5, 4.0


@dataclass(frozen=True, slots=True)
class Place:
    """What a repository's programs run in: its exported tree and the folder of its packages."""

    tree: Exported
    packages: Path

    def policy(self, seed: int = 0) -> Policy:
        """Return the sandbox's policy; `seed` is Python's hash seed.

        Python is not told where the repository's modules lie: the driver would look among them for modules of its own.
        """
        mounts = ((self.tree.files, BASE), (self.packages, PACKAGES), (self.tree.metadata, METADATA))
        environment = dict(Policy().environment) | {"PYTHONHASHSEED": str(seed)}
        return Policy(
            environment=tuple(environment.items()),
            readable=tuple((str(source.resolve()), inside) for source, inside in mounts),
        )


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcomes by test id ("passed", "failed", "skipped"), and what is wrong with the run itself, or ""."""

    outcomes: Mapping[str, str]
    problem: str
    fault: str  # "", "model" or "infrastructure"
    result: Result


def limits_of(wall_seconds: float) -> Limits:
    """Return the limits of one run of tests, or of one command of an agent."""
    return Limits(
        wall_seconds=wall_seconds,
        cpu_seconds=max(1.0, wall_seconds),
        memory_bytes=4096 * MIB,
        processes=64,
        output_bytes=_OUTPUT_BYTES,
        disk_bytes=1024 * MIB,
    )


def backend() -> str:
    """Return the back end for repositories: a bubblewrap for each execution, since a fork server would be kept for
    every tree; "" leaves the choice to the sandbox where there is none."""
    return "bubblewrap" if probe("bubblewrap").backend else ""


async def run_tests(place: Place, files: Changes, tests: Sequence[str], wall_seconds: float, seed: int = 0) -> TestRun:
    """Run the test files `tests` on the tree with `files` in place of its own.

    Infrastructure faults are tried again; so, once and with more time, is a run that had no processor.
    """
    canaries = {letter: secrets.token_hex(6) for letter in "abcdefg"}
    planted = str(PurePosixPath(min(tests)).parent / f"test_{secrets.token_hex(6)}.py") if tests else ""
    job = {
        "base": BASE,
        "packages": PACKAGES,
        "roots": list(ROOTS),
        "deleted": [path for path, content in files.items() if content is None],
        "tests": [*sorted(tests), planted] if tests else [],
    }
    limits, attempt = limits_of(wall_seconds), 1
    while True:
        async with open_sandbox(place.policy(seed), backend()) as sandbox:
            for path, content in files.items():
                if content is not None:
                    await sandbox.write(path, content)
            if planted:
                await sandbox.write(planted, PYTEST_CANARIES.format(name="", **canaries).encode())
            argv = [*sandbox.python, "-c", DRIVER]
            result = await sandbox.exec(argv, stdin=marshal.dumps(job, 4), limits=limits, channel=True)
        starved = result.status is Status.TIME and result.cpu_seconds < limits.wall_seconds * _STARVED_SHARE
        if starved and limits.wall_seconds == wall_seconds:
            limits = limits_of(wall_seconds * _PATIENCE)
            continue
        if result.status is not Status.INFRASTRUCTURE or attempt == _ATTEMPTS:
            return _read(result, canaries if tests else {}, planted)
        attempt += 1


def _read(result: Result, canaries: Mapping[str, str], planted: str) -> TestRun:
    if result.status is Status.INFRASTRUCTURE:
        return TestRun({}, result.detail, "infrastructure", result)
    try:
        lines: list[Any] = [json.loads(line) for line in result.channel.splitlines()]
        pairs = [(str(name), str(outcome)) for name, outcome in lines]
    except (ValueError, TypeError):
        return TestRun({}, "the report is not one", "model", result)
    planted_tests = {f"{planted}::test_{word}": letter for letter, word in canaries.items()}
    found = {planted_tests[name]: outcome for name, outcome in pairs if name in planted_tests}
    outcomes = {name: outcome for name, outcome in pairs if name not in planted_tests}
    problem = ""
    if max(Counter(name for name, _ in pairs).values(), default=0) > 1:
        problem = "tampering: a test was reported twice"
    elif any(found[letter] != ("failed" if letter in FAILING_CANARIES else "passed") for letter in found):
        problem = "tampering: a test that must fail passed, or the other way round"
    elif set(found) != set(canaries):
        said = result.stderr.decode("utf-8", "replace").strip().splitlines() or [""]
        problem = f"the run ended ({result.status}) after {len(outcomes)} tests {said[-1][:200]}".rstrip()
    return TestRun(outcomes, problem, "model" if problem else "", result)
