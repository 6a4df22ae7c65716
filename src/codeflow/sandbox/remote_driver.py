"""Runs in a container elsewhere, with Python 3.8 or newer: one execution. Never imported by the parent.

The job is JSON in base64, in the file of the first argument, which is removed at once, or on standard input. The answer
is one line: its token, a blank, JSON in base64. The container is the isolation; here are limits, time, and an end to
all processes of the execution.
"""
# pyright: basic

import base64
import contextlib
import ctypes
import io
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

SUBREAPER, DUMPABLE = 36, 4
CHUNK = 1 << 16
END_SECONDS = 5.0


def decoded(text):
    """Return bytes that came as base64."""
    return base64.b64decode(text.encode("ascii"))


def encoded(data):
    """Return bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def put(folder, files):
    """Write the files of a job."""
    for path, text in files:
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(decoded(text))
        os.chmod(target, 0o777)


def restrict(limits):
    """Set the limits of the program, in its process."""
    cpu = limits["cpu_seconds"]
    for number, soft, hard in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits["address_bytes"], limits["address_bytes"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"], limits["disk_bytes"]),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(number, (soft, hard))


def descendants():
    """Return all processes below this one."""
    children = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            continue
        children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_all():
    """Kill and reap every descendant."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in descendants():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def watch(process, readers, job):
    """Read the pipes until the program ends or must; return what they gave and why it was ended."""
    limits, output = job["limits"], dict.fromkeys(readers.values(), b"")
    poll, budget = select.poll(), limits["output_bytes"]
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    deadline, reason, left = time.monotonic() + limits["wall_seconds"], "", len(readers)
    ended = None
    while left and not reason:
        now = time.monotonic()
        if ended is None and process.poll() is not None:
            ended, deadline = now, min(deadline, now + 0.2)  # something else may hold the pipes
        if now >= deadline:
            reason = "" if ended is not None else "time"
            break
        for descriptor, _ in poll.poll(20):
            data = os.read(descriptor, CHUNK)
            if not data:
                poll.unregister(descriptor)
                left -= 1
                continue
            kept = data[: max(budget, 0)]
            budget -= len(data)
            output[readers[descriptor]] += kept
            reason = reason or ("output" if len(kept) < len(data) else "")
    while not reason and process.poll() is None:
        if time.monotonic() >= deadline:
            reason = "time"
        time.sleep(0.005)
    return output, reason


def pack(folder, limit):
    """Return the regular files of a folder as a tar archive, b"" when they are more than `limit` bytes."""
    held = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=held, mode="w") as tar:
        for top, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(top, name)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                total += os.path.getsize(path)
                if total > limit:
                    return b""
                tar.add(path, os.path.relpath(path, folder), recursive=False)
    return held.getvalue()


def execute(job, folder):
    """Run the program; return its answer."""
    work, temporary = os.path.join(folder, "work"), os.path.join(folder, "tmp")
    os.mkdir(work)
    os.mkdir(temporary)
    put(work, job["files"])
    with open(os.path.join(folder, "stdin"), "wb") as file:
        file.write(decoded(job["stdin"]))
    stdin = os.open(os.path.join(folder, "stdin"), os.O_RDONLY)
    places = {"/work": work, "/tmp": temporary}
    environment = {str(name): str(places.get(value, value)) for name, value in job["environment"]}
    pipes = {name: os.pipe() for name in ["out", "err"] + ["channel"] * job["channel"]}
    if job["channel"]:
        environment[job["channel_variable"]] = str(pipes["channel"][1])
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            job["argv"],
            stdin=stdin,
            stdout=pipes["out"][1],
            stderr=pipes["err"][1],
            pass_fds=[pipes["channel"][1]] if job["channel"] else [],
            env=environment,
            cwd=work,
            start_new_session=True,
            preexec_fn=lambda: restrict(job["limits"]),
        )
    except OSError as error:
        return {"code": 127, "err": encoded(f"{job['argv'][0]}: {error.strerror}\n".encode())}
    for _, writer in pipes.values():
        os.close(writer)
    output, reason = watch(process, {reader: name for name, (reader, _) in pipes.items()}, job)
    wall = time.monotonic() - started
    code = process.returncode
    end_all()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer: dict = {name: encoded(data) for name, data in output.items()}
    answer.update(reason=reason, code=code, wall=wall, cpu=usage.ru_utime + usage.ru_stime, peak=usage.ru_maxrss * 1024)
    if job["keep"] and not reason:
        answer["kept"] = encoded(pack(work, job["limits"]["disk_bytes"]))
    return answer


def main():
    """Do one job."""
    if len(sys.argv) > 1:
        with open(sys.argv[1], "rb") as file:
            data = file.read()
        os.unlink(sys.argv[1])
    else:
        data = sys.stdin.buffer.read()
    job = json.loads(base64.b64decode(data))
    libc = ctypes.CDLL(None)
    libc.prctl(SUBREAPER, 1, 0, 0, 0)
    libc.prctl(DUMPABLE, 0, 0, 0, 0)  # the program has the same user, and must not find the token here
    folder = tempfile.mkdtemp(prefix="codeflow-")
    try:
        answer = execute(job, folder)
    except Exception as error:
        answer = {"fault": f"{type(error).__name__}: {error}"}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(f"{job['token']} {encoded(json.dumps(answer).encode())}\n")
    sys.stdout.flush()


main()
