"""Programs in many languages: compiled once per source, run on many inputs, in a sandbox.

A language is there when its programs are found on this machine; else `toolchain` says what to install. Interpreters and
virtual machines that reserve address space far beyond what they use (Node, Java, Go, Mono) are given that space on top
of `Limits.memory_bytes`, and are told the limit by their own option where they have one.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from codeflow.core.errors import UserError, suggest
from codeflow.sandbox.local import open_sandbox
from codeflow.sandbox.policy import MIB, Limits, Policy
from codeflow.sandbox.result import Result, Status

_GIB = 1 << 30
_COMPILE_LIMITS = Limits(
    wall_seconds=60,
    cpu_seconds=60,
    memory_bytes=8 * _GIB,
    processes=64,
    output_bytes=MIB,
    disk_bytes=512 * MIB,
)
_STARVED_SHARE, _PATIENCE = 0.5, 4.0  # a compiler that had no processor runs once more, with more time
_MOST_KEPT_BYTES = 256 * MIB  # of compiled programs in this process


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How a language is compiled and run. `{main}` in a command is the program's path, `{heap}` the limit in MiB."""

    language: str
    source: str  # the file that the program is written to
    run: tuple[str, ...]
    compile: tuple[str, ...] = ()
    install: str = ""
    reserved_bytes: int = 0  # address space that it takes without using it
    processes: int = 0  # threads of its own
    readable: Callable[[], tuple[tuple[str, str], ...]] = tuple
    environment: tuple[tuple[str, str], ...] = ()


def _java_settings() -> tuple[tuple[str, str], ...]:
    return tuple((path, path) for path in sorted(glob.glob("/etc/java-*")))


def _mono_settings() -> tuple[tuple[str, str], ...]:
    return (("/etc/mono", "/etc/mono"),) if os.path.isdir("/etc/mono") else ()


@functools.cache
def _rust_root() -> str:
    """Return the folder of the Rust that is installed, behind rustup's proxies; "" when there is none."""
    if not shutil.which("rustc"):
        return ""
    line = ["rustc", "--print", "sysroot"]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60).stdout.strip()


def _rust_readable() -> tuple[tuple[str, str], ...]:
    root = _rust_root()
    return ((root, root),) if root and not root.startswith("/usr") else ()


_NODE_SPACE, _JVM_SPACE = 64 * _GIB, 16 * _GIB
_TABLE = (
    Toolchain("Python", "main.py", ("{python}", "main.py")),
    Toolchain(
        "JavaScript",
        "main.js",
        ("node", "--max-old-space-size={heap}", "main.js"),
        install="nodejs (apt-get install nodejs)",
        reserved_bytes=_NODE_SPACE,
        processes=16,
    ),
    Toolchain(
        "TypeScript",
        "main.ts",
        ("node", "--max-old-space-size={heap}", "main.js"),
        ("tsc", "--target", "es2022", "--module", "commonjs", "--skipLibCheck", "main.ts"),
        "the TypeScript compiler below /usr (npm install --global typescript)",
        _NODE_SPACE,
        16,
    ),
    Toolchain(
        "Java",
        "Main.java",
        ("java", "-Xmx{heap}m", "-Xss16m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "Main"),
        ("javac", "-J-Xmx512m", "-encoding", "UTF-8", "Main.java"),
        "a JDK (apt-get install default-jdk-headless)",
        _JVM_SPACE,
        32,
        _java_settings,
    ),
    Toolchain("C", "main.c", ("./main",), ("gcc", "-O2", "-std=gnu17", "-o", "main", "main.c", "-lm"), "gcc"),
    Toolchain("C++", "main.cpp", ("./main",), ("g++", "-O2", "-std=gnu++20", "-o", "main", "main.cpp"), "g++"),
    Toolchain(
        "Go",
        "main.go",
        ("./main",),
        ("go", "build", "-o", "main", "main.go"),
        "Go (apt-get install golang-go)",
        4 * _GIB,
        16,
        environment=(("GOCACHE", "/tmp/go"), ("GOPATH", "/tmp/path"), ("CGO_ENABLED", "0"), ("GO111MODULE", "off")),
    ),
    Toolchain(
        "Rust",
        "main.rs",
        ("./main",),
        ("rustc", "-O", "--edition", "2021", "-o", "main", "main.rs"),
        "Rust (apt-get install rustc, or rustup.rs)",
        readable=_rust_readable,
    ),
    Toolchain("Shell", "main.sh", ("bash", "main.sh"), install="bash"),
    Toolchain("SQL", "main.sql", ("sqlite3", "-batch", ":memory:", ".read main.sql"), install="sqlite3"),
    Toolchain(
        "C#",
        "main.cs",
        ("mono", "main.exe"),
        ("mcs", "-out:main.exe", "main.cs"),
        "Mono (apt-get install mono-mcs mono-runtime)",
        4 * _GIB,
        16,
        _mono_settings,
    ),
    Toolchain("PHP", "main.php", ("php", "-n", "main.php"), install="PHP (apt-get install php-cli)"),
    Toolchain("Ruby", "main.rb", ("ruby", "main.rb"), install="Ruby (apt-get install ruby)", reserved_bytes=_GIB),
)
LANGUAGES = tuple(item.language for item in _TABLE)


def toolchain(language: str) -> Toolchain:
    """Return the toolchain of a language. Raises UserError that says what to install when it is not there."""
    for item in _TABLE:
        if item.language == language:
            missing = [name for name in _programs(item) if not _find(name)]
            if missing:
                raise UserError(f"{language} programs cannot run: no {missing[0]} here; install {item.install}")
            return item
    raise UserError(f"no toolchain for '{language}'{suggest(language, LANGUAGES)}")


def _programs(item: Toolchain) -> list[str]:
    names = [line[0] for line in (item.compile, item.run) if line]
    return [name for name in names if not name.startswith(("./", "{"))]


def _find(name: str) -> str:
    """Return the path of a program as it is seen inside: below /usr, or in the Rust that is made readable."""
    if name == "rustc" and (root := _rust_root()):
        return f"{root}/bin/rustc"
    return shutil.which(name, path="/usr/local/bin:/usr/bin:/bin") or ""


class Compiled:
    """A program ready to run, any number of times; `failed` is the compiler's result when it refused the program."""

    def __init__(self, item: Toolchain, files: tuple[tuple[str, bytes], ...], failed: Result | None = None) -> None:
        self.toolchain, self.files, self.failed = item, files, failed

    async def run(
        self, inputs: Sequence[bytes], limits: Limits | None = None, arguments: Sequence[str] = ()
    ) -> list[Result]:
        """Run it on each input, one after the other, in one sandbox; each in an execution of its own.

        Where it did not compile, the compiler's result comes once for each input.
        """
        if self.failed is not None:
            return [self.failed] * len(inputs)
        item, limits = self.toolchain, limits or Limits()
        wider = replace(
            limits,
            reserved_bytes=limits.reserved_bytes + item.reserved_bytes,
            processes=limits.processes + item.processes,
            disk_bytes=limits.disk_bytes + 2 * sum(len(data) for _, data in self.files),
        )
        async with open_sandbox(_policy(item)) as sandbox:
            for path, data in self.files:
                await sandbox.write(path, data)
            line = _filled(item.run, limits, sandbox.python)
            return [await sandbox.exec([*line, *arguments], stdin=text, limits=wider) for text in inputs]


def _policy(item: Toolchain) -> Policy:
    plain = Policy()
    return replace(plain, environment=(*plain.environment, *item.environment), readable=item.readable())


def _filled(line: Sequence[str], limits: Limits, python: tuple[str, ...]) -> list[str]:
    known = {"{heap}": str(max(limits.memory_bytes // MIB, 16))}
    parts: list[str] = []
    for part in line:
        for name, value in known.items():
            part = part.replace(name, value)
        parts += python if part == "{python}" else [part]
    if not parts[0].startswith(("./", "/")):
        parts[0] = _find(parts[0])
    return parts


_kept: OrderedDict[str, Compiled] = OrderedDict()


async def compiled(language: str, source: str) -> Compiled:
    """Compile a program, or return what an equal one came to in this process.

    Raises UserError without a toolchain for the language; InfrastructureError without a sandbox. A compiler that could
    not run for reasons of the surroundings is asked anew next time.
    """
    item = toolchain(language)
    data = source.encode("utf-8", "surrogateescape")
    key = hashlib.sha256(f"{item}\0".encode() + data).hexdigest()
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    found = await _compile(item, data) if item.compile else Compiled(item, ((item.source, data),))
    if found.failed is None or found.failed.status is not Status.INFRASTRUCTURE:
        _kept[key] = found
        while sum(len(part) for entry in _kept.values() for _, part in entry.files) > _MOST_KEPT_BYTES:
            _kept.popitem(last=False)
    return found


async def _compile(item: Toolchain, data: bytes) -> Compiled:
    async with open_sandbox(_policy(item)) as sandbox:
        await sandbox.write(item.source, data)
        line = _filled(item.compile, _COMPILE_LIMITS, sandbox.python)
        limits = replace(_COMPILE_LIMITS, reserved_bytes=item.reserved_bytes)
        result = await sandbox.exec(line, limits=limits, keep_files=True)
        if result.status is Status.TIME and result.cpu_seconds < limits.wall_seconds * _STARVED_SHARE:
            limits = replace(limits, wall_seconds=limits.wall_seconds * _PATIENCE)
            result = await sandbox.exec(line, limits=limits, keep_files=True)
        if result.status is not Status.OK:
            status = result.status if result.status is Status.INFRASTRUCTURE else Status.COMPILE_ERROR
            return Compiled(item, (), replace(result, status=status))
        return Compiled(item, (await sandbox.snapshot()).files)


async def run_program(
    language: str, source: str, inputs: Sequence[bytes] = (b"",), limits: Limits | None = None
) -> list[Result]:
    """Compile a program and run it on each input; see `compiled` and `Compiled.run`."""
    return await (await compiled(language, source)).run(inputs, limits)
