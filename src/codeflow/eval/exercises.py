"""Exercises with test files in six languages, in the layout of Exercism's tracks, and their tests in the sandbox.

Test commands are those of Aider's harness (`pytest`, `cargo test -- --include-ignored`, `go test ./...`,
`npm run test`, CMake with all tests). There is no network inside: an exercise that needs packages which are not there
fails its gold check. Java is left out, whose Gradle wrapper downloads itself.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from codeflow.core.errors import UserError
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.solve.hidden_tests import pytest_packages

LANGUAGES = ("python", "rust", "go", "javascript", "cpp", "java")
SECONDS = 180.0  # the official limit
_LIMITS = Limits(
    wall_seconds=SECONDS,
    cpu_seconds=SECONDS,
    memory_bytes=64 << 30,  # address space: Node and Go reserve far more than they use
    processes=128,
    output_bytes=4 * MIB,
    disk_bytes=1024 * MIB,
)
_NOT_FOR_MODELS = ("CMakeLists.txt", "Cargo.toml")
_CMAKE = "mkdir -p build && cd build && cmake -DEXERCISM_RUN_ALL_TESTS=1 -G 'Unix Makefiles' .. && make"
_PROGRAMS = {"rust": ("cargo",), "go": ("go",), "javascript": ("node", "npm"), "cpp": ("cmake", "make", "c++")}
_TIMES = re.compile(r"\bin \d+\.\d+s\b")
_ATTEMPTS = 3
_STARVED_SHARE, _PATIENCE = 0.5, 4.0  # tests that had no processor run once more, with more time


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise: what it says, the files that a model may change, all files that its tests need, a gold solution."""

    id: str
    language: str
    instructions: str
    solution: Mapping[str, str]
    files: Mapping[str, bytes]
    tests: tuple[str, ...]
    gold: Mapping[str, str]


def read_exercises(folder: Path) -> list[Exercise]:
    """Read all exercises below `folder`/LANGUAGE/exercises/practice. Raises UserError for a folder without any."""
    places = [
        place
        for language in LANGUAGES
        for place in sorted((folder / language / "exercises" / "practice").glob("*"))
        if (place / ".meta" / "config.json").is_file()
    ]
    if not places:
        raise UserError(f"{folder} holds no LANGUAGE/exercises/practice; get the official repository again")
    return [_read(place, place.parents[2].name) for place in places]


def _read(place: Path, language: str) -> Exercise:
    try:
        named = json.loads((place / ".meta" / "config.json").read_text(encoding="utf-8"))["files"]
        tests, examples = tuple(named["test"]), tuple(named.get("example", ()))
        wanted = [path for path in named["solution"] if path not in (*_NOT_FOR_MODELS, *tests)]
        solution = {path: (place / path).read_text(encoding="utf-8") for path in wanted if (place / path).is_file()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{place}: no exercise as it should be ({error!r}); get the official repository again"
        ) from None
    parts = [place / ".docs" / f"{name}.md" for name in ("introduction", "instructions", "instructions.append")]
    files = {
        path.relative_to(place).as_posix(): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.relative_to(place).parts[0] not in (".docs", ".meta")
    }
    texts = {path: (place / path).read_text(encoding="utf-8") for path in examples if (place / path).is_file()}
    return Exercise(
        id=f"{language}/{place.name}",
        language=language,
        instructions="".join(part.read_text(encoding="utf-8") for part in parts if part.is_file()),
        solution=solution,
        files=files,
        tests=tests,
        gold=_gold(solution, texts),
    )


def _gold(solution: Mapping[str, str], examples: Mapping[str, str]) -> dict[str, str]:
    """Return the example of each solution file: that of its name, else the only one with its suffix."""
    found: dict[str, str] = {}
    for path in solution:
        pure = PurePosixPath(path)
        same = [one for one in examples if PurePosixPath(one).name == pure.name]
        same = same or [one for one in examples if PurePosixPath(one).suffix == pure.suffix]
        if len(same) == 1:
            found[path] = examples[same[0]]
    return found


@dataclass(frozen=True, slots=True)
class _Runner:
    argv: tuple[str, ...]
    readable: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def missing(language: str, modules: Path) -> str:
    """Say what is missing to run a language's tests here, or "". `modules`: a node_modules folder for JavaScript."""
    if language == "java":
        return "Gradle downloads itself, and there is no network in the sandbox"
    for program in _PROGRAMS.get(language, ()):
        if not (_cargo_root() if program == "cargo" else shutil.which(program, path="/usr/local/bin:/usr/bin")):
            return f"no {program} here"
    if language == "javascript" and not modules.is_dir():
        return f"no folder {modules} with the packages of the exercises"
    return ""


@functools.cache
def _cargo_root() -> str:
    if not shutil.which("rustc") or not shutil.which("cargo"):
        return ""
    line = ["rustc", "--print", "sysroot"]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def _runner(language: str, python: tuple[str, ...], modules: Path) -> _Runner:
    if language == "python":
        line = (python[0], "-m", "pytest", "-p", "no:cacheprovider")
        return _Runner(line, pytest_packages(), (("PYTHONPATH", "/packages"),))
    if language == "rust":
        root = _cargo_root()
        outside = () if root.startswith("/usr") else ((root, root),)
        paths = (("PATH", f"{root}/bin:/usr/bin:/bin"), ("CARGO_HOME", "/tmp/cargo"), ("CARGO_NET_OFFLINE", "true"))
        return _Runner((f"{root}/bin/cargo", "test", "--", "--include-ignored"), outside, paths)
    if language == "go":
        paths = (("GOCACHE", "/tmp/go"), ("GOPATH", "/tmp/path"), ("GOFLAGS", "-mod=mod"), ("GOPROXY", "off"))
        return _Runner(("go", "test", "./..."), (), paths)
    if language == "javascript":
        line = ("/bin/sh", "-c", "ln -s /npm/node_modules node_modules && npm run test")
        return _Runner(line, ((str(modules.resolve()), "/npm/node_modules"),))
    return _Runner(("/bin/sh", "-c", _CMAKE))


async def run_tests(exercise: Exercise, solution: Mapping[str, str], modules: Path) -> Result:
    """Run an exercise's own tests on solution files. Infrastructure faults are tried again.

    `result.stdout` holds what there is to read, without times.
    """
    files = {**exercise.files, **{path: text.encode("utf-8", "replace") for path, text in solution.items()}}
    for path in exercise.tests:
        if path in exercise.files:
            files[path] = exercise.files[path]
        if path in files and exercise.language == "javascript":
            files[path] = re.sub(rb"\bxtest\(", b"test(", files[path])
    async with open_sandbox() as probe:
        python = probe.python
    runner = _runner(exercise.language, python, modules)
    plain = Policy()
    environment = tuple({**dict(plain.environment), **dict(runner.environment)}.items())
    limits = _LIMITS
    name, attempt = exercise.id.rpartition("/")[2], 1  # CMake files take the names of sources from the folder's
    while True:
        async with open_sandbox(replace(plain, environment=environment, readable=runner.readable)) as sandbox:
            for path, content in files.items():
                await sandbox.write(f"{name}/{path}", content)
            line = ("/bin/sh", "-c", 'cd "$0" && exec "$@"', name, *runner.argv)
            result = await sandbox.exec(line, limits=limits)
        starved = result.status is Status.TIME and result.cpu_seconds < limits.wall_seconds * _STARVED_SHARE
        if starved and limits is _LIMITS:
            limits = replace(_LIMITS, wall_seconds=SECONDS * _PATIENCE)
            continue
        if result.status is not Status.INFRASTRUCTURE or attempt == _ATTEMPTS:
            said = (result.stdout + result.stderr).decode("utf-8", "replace")
            return replace(result, stdout=_TIMES.sub("", said).encode())
        attempt += 1
