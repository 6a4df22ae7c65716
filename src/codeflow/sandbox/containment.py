"""Runs the attacks against a back end and judges, from outside, whether each was contained.

A judgement rests on the status, on what the attack prints when something worked that must not, on the time that the
parent measured, and on looking for processes left on the host.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from codeflow.sandbox.attacks import (
    ATTACKS,
    CHECKOUT,
    FILE,
    LIMITS,
    MARK,
    PORT,
    PROCESS,
    SECRET,
    SOCKET,
    Attack,
)
from codeflow.sandbox.local import probe, sandbox_of
from codeflow.sandbox.policy import Limits, Policy
from codeflow.sandbox.result import Result, Status
from codeflow.sandbox.sandbox import Sandbox

_VARIABLE = "CODEFLOW_SECRET"
_SLACK_SECONDS = 2.0
_PATIENCE = 4.0  # an attack that the clock stopped on a busy machine is made once more, with more time


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attack. `problem` is "" when it was contained, or `known` not to be by this back end."""

    name: str
    status: Status
    seconds: float
    problem: str
    known: bool = False


class Target:
    """A file, a socket and a process of the user who runs the attacks; use as a context manager."""

    def __enter__(self) -> Target:
        self._folder = tempfile.TemporaryDirectory(prefix="codeflow-target-")
        self.file, self.socket_path = f"{self._folder.name}/file", f"{self._folder.name}/socket"
        Path(self.file).write_text("precious", encoding="ascii")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.socket_path)
        self.process = subprocess.Popen(["/usr/bin/sleep", "600"], env={}, start_new_session=True)
        self._before = self._seen()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._socket.close()
        self._folder.cleanup()

    def _seen(self) -> object:
        try:
            status, pid = os.stat(self.file), self.process.pid
            text = Path(self.file).read_text(encoding="ascii")
            file = (text, status.st_mode, status.st_uid, status.st_nlink, status.st_mtime, os.listxattr(self.file))
            priority = os.getpriority(os.PRIO_PROCESS, pid), os.sched_getscheduler(pid), os.sched_getaffinity(pid)
            return file, priority, resource.prlimit(pid, resource.RLIMIT_CPU), self.process.poll()
        except OSError as error:
            return str(error)

    def problem(self) -> str:
        """Return what has become of it, "" where nothing has."""
        seen = self._seen()
        return "" if seen == self._before else f"changed what is not its own: {seen}"


async def run_attacks(opened: Callable[[], Sandbox], names: tuple[str, ...] = (), at_once: int = 3) -> list[Outcome]:
    """Run all attacks, or those named, some at once; outcomes come in the order of the table."""
    chosen = [attack for attack in ATTACKS if not names or attack.name in names]
    gate = asyncio.Semaphore(at_once)
    before, secret = os.environ.get(_VARIABLE), secrets.token_hex(8)
    os.environ[_VARIABLE] = secret  # what the environments of the host's processes must not tell

    async def one(attack: Attack, target: Target) -> Outcome:
        async with gate:
            outcome, late = await _run(attack, opened, secret, target, LIMITS)
            if late:
                patient = replace(LIMITS, wall_seconds=LIMITS.wall_seconds * _PATIENCE)
                outcome, _ = await _run(attack, opened, secret, target, patient)
            return outcome

    try:
        with Target() as target:
            return await asyncio.gather(*[one(attack, target) for attack in chosen])
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


async def _run(
    attack: Attack, opened: Callable[[], Sandbox], secret: str, target: Target, limits: Limits
) -> tuple[Outcome, bool]:
    """Return what became of an attack, and whether it is only that time ran out before it was done."""
    mark = f"cf-{secrets.token_hex(8)}"
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        abstract.bind(f"\0{mark}")
        abstract.listen()
        known = {
            PORT: str(listener.getsockname()[1]),
            MARK: mark,
            SECRET: secret,
            CHECKOUT: str(Path(__file__).parents[3]),
            FILE: target.file,
            PROCESS: str(target.process.pid),
            SOCKET: target.socket_path,
        }
        if attack.then:
            abstract.close()  # the attack takes the name itself
        async with opened() as sandbox:
            result = await sandbox.exec([*sandbox.python, "-c", _filled(attack.program, known)], limits=limits)
            problem = _problem(attack, result, mark, limits) or target.problem()
            late = _is_late(attack, result, limits)
            if attack.then and not problem:
                after = await sandbox.exec([*sandbox.python, "-c", _filled(attack.then, known)], limits=limits)
                then = Attack(attack.name, attack.then)
                problem, late = _problem(then, after, mark, limits), _is_late(then, after, limits)
    known = bool(problem) and result.backend in attack.known_open
    outcome = Outcome(attack.name, result.status, result.wall_seconds, "" if known else problem, known)
    return outcome, late and not target.problem() and not _left_behind(mark)


def _is_late(attack: Attack, result: Result, limits: Limits) -> bool:
    """Say whether an execution that let nothing out ended by the clock, having had too little of the processor."""
    timed_out = result.status is Status.TIME or (result.status is Status.INFRASTRUCTURE and "in time" in result.detail)
    slow = result.wall_seconds > limits.wall_seconds + _SLACK_SECONDS
    starved = result.cpu_seconds < result.wall_seconds / 2
    said = result.stdout + result.stderr
    return b"ESCAPED" not in said and starved and (slow or (timed_out and result.status not in attack.ends))


def _filled(program: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        program = program.replace(name, value)
    return program


def _problem(attack: Attack, result: Result, mark: str, limits: Limits) -> str:
    said = (result.stdout + result.stderr).decode("utf-8", "replace")
    if "ESCAPED" in said:
        return said[said.index("ESCAPED") :].partition("\n")[0][:200]
    if result.status not in attack.ends:
        return f"ended as {result.status}, not {' or '.join(attack.ends)}: {result.detail or said[-200:]}"
    if len(result.stdout) + len(result.stderr) > limits.output_bytes:
        return "more output than allowed"
    if not attack.at_least_seconds <= result.wall_seconds <= limits.wall_seconds + _SLACK_SECONDS:
        return f"took {result.wall_seconds:.1f} s"
    return _left_behind(mark)


def _left_behind(mark: str) -> str:
    left = [pid for pid in _processes() if _command(pid).startswith(mark)]
    return f"left process {left[0]} behind" if left else ""


def _processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield one line per outcome and a last one that counts. What attacks say is shown without control characters."""
    for item in outcomes:
        said = "".join(letter if letter.isprintable() else "?" for letter in item.problem)
        said = said or ("NOT CONTAINED, as documented for this back end" if item.known else "contained")
        yield f"{item.name:<46} {item.status:<10} {item.seconds:6.2f} s  {said}"
    n_contained = sum(not item.problem and not item.known for item in outcomes)
    yield f"{n_contained} of {len(outcomes)} attacks contained"


def main() -> int:
    """Run the attacks against a back end, or that chosen here; needs nothing but the standard library.

    A second argument is the version of Landlock to use, at most the kernel's.
    """
    found = probe(sys.argv[1] if len(sys.argv) > 1 else "")
    if found.host is None:
        print(found.problem)
        return 1
    host = replace(found.host, landlock=int(sys.argv[2])) if len(sys.argv) > 2 else found.host
    outcomes = asyncio.run(run_attacks(lambda: sandbox_of(found.backend, Policy(), host)))
    print(*table(outcomes), f"{found.backend}, as user {os.geteuid()}", sep="\n")
    return 1 if any(item.problem for item in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
