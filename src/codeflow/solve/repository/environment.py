"""The packages that a repository's tests need, in a read-only folder that nothing of the repository can touch.

Wheels only (`pip install --only-binary :all: --target`), from whatever index pip is configured for: a wheel is
unpacked, never run, and the repository itself is not installed but read from its copy. What pip chose is the lock;
environments are cached by the hash of their lock and the interpreter, requirements by theirs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.config import canonical_json
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.storage import make_folder, sha256_text, write_text
from codeflow.sandbox.bubblewrap import find_python
from codeflow.solve.repository.project import normal

_PIP_SECONDS = 900
_WORLD = re.compile(
    r"No matching distribution|ResolutionImpossible|Could not find a version|requires a different Python"
)


@dataclass(frozen=True, slots=True)
class Environment:
    """A folder of packages with the lines NAME==VERSION that it was made of."""

    folder: Path
    lock: tuple[str, ...]


class NoEnvironmentError(Exception):
    """The index has no set of wheels for these requirements; the message says for which."""


def prepare(requirements: Sequence[str], cache: Path, without: str = "", locked: bool = False) -> Environment:
    """Return the environment of `requirements`, made where it is not there yet.

    The distribution `without` (the repository's own name) is taken out: its copy is what is tested. With `locked`
    exactly the given lines are installed, whatever they require themselves. Raises NoEnvironmentError when the index
    cannot give it, UserError without pip, InfrastructureError when pip fails for another reason.
    """
    asked = sha256_text(canonical_json([sorted(requirements), normal(without), locked, _interpreter()]))
    known = cache / "locks" / f"{asked}.json"
    if known.exists():
        kept = json.loads(known.read_text(encoding="utf-8"))
        folder = cache / "environments" / kept["environment"]
        if folder.is_dir():
            return Environment(folder, tuple(kept["lock"]))
    parent = make_folder(cache / "environments")
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as place:
        target = Path(place) / "packages"
        target.mkdir()
        lock = _install(requirements, target, Path(place), locked)
        lock = _take_out(without, target, lock)
        target.chmod(0o755)
        name = sha256_text(canonical_json([lock, _interpreter()]))[:24]
        folder = parent / name
        if not folder.is_dir():
            try:
                os.replace(target, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    write_text(known, json.dumps({"environment": name, "lock": lock}))
    return Environment(folder, tuple(lock))


def _interpreter() -> str:
    return f"{sysconfig.get_platform()} {sys.implementation.cache_tag}"


def _install(requirements: Sequence[str], target: Path, place: Path, locked: bool) -> list[str]:
    if os.path.realpath(sys.executable) != find_python()[0]:
        raise UserError(
            "the sandbox runs another Python than this one, so packages would not fit; use one with a plain prefix"
        )
    wanted, report = place / "requirements.txt", place / "report.json"
    wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
    line = [sys.executable, "-I", "-m", "pip", "install", "--only-binary", ":all:", "--target", str(target)]
    line += ["--no-input", "--disable-pip-version-check", "--quiet", "--report", str(report), "-r", str(wanted)]
    line += ["--no-deps"] if locked else []
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PIP_REQUIRE_VIRTUALENV")
    }
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=_PIP_SECONDS,
            check=False,
            umask=0o022,
            cwd=place,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"pip gave no answer within {_PIP_SECONDS} s") from None
    if done.returncode:
        said = [
            line for line in done.stderr.splitlines() if line.startswith("ERROR")
        ] or done.stderr.strip().splitlines()
        last = said[-1] if said else f"exit code {done.returncode}"
        if "No module named pip" in done.stderr:
            raise UserError("environments of repositories are made by pip, which is not installed; python -m ensurepip")
        if _WORLD.search(done.stderr):
            raise NoEnvironmentError(last[:200])
        raise InfrastructureError(f"pip failed: {last[:200]}")
    tree = json.loads(report.read_text(encoding="utf-8"))
    return sorted(f"{normal(one['metadata']['name'])}=={one['metadata']['version']}" for one in tree["install"])


def _take_out(name: str, target: Path, lock: list[str]) -> list[str]:
    """Remove one distribution's files from an environment; return the lock without it."""
    kept = [line for line in lock if line.partition("==")[0] != normal(name)]
    if not name or len(kept) == len(lock):
        return lock
    for info in target.glob("*.dist-info"):
        if normal(info.name.removesuffix(".dist-info").rpartition("-")[0]) != normal(name):
            continue
        for row in (info / "RECORD").read_text(encoding="utf-8").splitlines():
            path = (target / row.partition(",")[0]).resolve()
            if path.is_relative_to(target.resolve()) and path.is_file():
                path.unlink()
        shutil.rmtree(info, ignore_errors=True)
    return kept
