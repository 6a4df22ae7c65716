from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from codeflow.sandbox import control_groups
from codeflow.sandbox.control_groups import RLIMITS, VERSION_1, VERSION_2, Group, Place, _sweep, _works, groups, places
from codeflow.sandbox.local import BACKENDS, open_sandbox, probe
from codeflow.sandbox.policy import Limits
from codeflow.sandbox.result import Result, Status

MOUNTS_1 = """
30 24 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / /sys/fs/cgroup/pids rw,relatime shared:1 - cgroup cgroup rw,pids
"""
MOUNTS_2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
TOP = Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("own", "mounts", "expected"),
    [
        ("9:pids:/\n4:memory:/job/7\n1:cpu,cpuacct:/\n", MOUNTS_1, [Place(VERSION_1, TOP / "memory/job/7")]),
        (
            "0::/user.slice/app.slice/run.scope\n",
            MOUNTS_2,
            [
                Place(VERSION_2, TOP / "user.slice/app.slice/run.scope"),
                Place(VERSION_2, TOP / "user.slice/app.slice"),
            ],
        ),
        ("0::/\n", MOUNTS_2, [Place(VERSION_2, TOP)]),  # in a container: nothing above the mount
        (
            "4:memory:/docker/ab/x\n",
            MOUNTS_1.replace("/ /sys", "/docker/ab /sys"),
            [Place(VERSION_1, TOP / "memory/x")],
        ),
        ("9:pids:/\n", MOUNTS_1, []),  # no memory
        ("", "", []),
        ("nonsense\n::\n", "nonsense - \n - cgroup2\n", []),
    ],
)
def test_places_follow_the_own_group(own, mounts, expected):
    assert places(own, mounts) == expected


def _tree(top: Path) -> Place:
    """Return a place that looks like version 2 to those who read and write files, and is none."""
    (top / "cgroup.subtree_control").write_text("cpu memory pids\n")
    return Place(VERSION_2, top)


def test_a_folder_that_is_no_hierarchy_does_not_work(tmp_path):
    assert not _works(_tree(tmp_path))  # cgroup.procs does not come with the folder
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    assert not _works(Place(VERSION_2, tmp_path))
    assert not _works(Place(VERSION_1, tmp_path / "nowhere"))


def test_limits_and_kills_of_version_2(tmp_path, monkeypatch):
    made = os.mkdir

    def mkdir(path) -> None:
        made(path)
        for name in ("cgroup.procs", "memory.events"):
            (Path(path) / name).write_text("")

    monkeypatch.setattr(control_groups.os, "mkdir", mkdir)
    group = Group(_tree(tmp_path))
    folder = group.folder
    assert folder.parent == tmp_path
    group.limit(1 << 20, 7)
    assert ((folder / "memory.max").read_text(), (folder / "pids.max").read_text()) == (str(1 << 20), "7")
    assert group.kills() == 0
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert group.kills() == 2
    group.forget()


def test_only_groups_of_the_dead_are_swept(tmp_path):
    dead = subprocess.Popen(["/bin/true"])
    dead.wait()
    for name in (f"codeflow-{dead.pid}-0", f"codeflow-{os.getpid()}-0", "codeflow-x-0", "other"):
        (tmp_path / name).mkdir()
    _sweep(Place(VERSION_2, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"codeflow-x-0", f"codeflow-{os.getpid()}-0", "other"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_say_who_limited_them(backend, monkeypatch):
    if not probe(backend).backend:
        pytest.skip(probe(backend).problem)

    def run() -> Result:
        async def one() -> Result:
            async with open_sandbox(backend=backend) as sandbox:
                code = "print(open('/proc/self/cgroup').read())"
                return await sandbox.exec([*sandbox.python, "-c", code], limits=Limits(wall_seconds=20))

        return asyncio.run(one())

    made = groups() if backend != "bubblewrap" else None
    first = run()
    assert first.status is Status.OK, first
    assert first.limited_by == (made.place.version if made else RLIMITS)
    if made:
        assert b"codeflow-" in first.stdout  # the program itself was in the group
    monkeypatch.setattr(control_groups, "groups", lambda: None)
    second = run()
    assert (second.status, second.limited_by) == (Status.OK, RLIMITS)
    assert b"codeflow-" not in second.stdout


def test_a_group_that_cannot_be_limited_is_a_fault(monkeypatch):
    if groups() is None or not probe("fork server").backend:
        pytest.skip("no control group, or no fork server here")

    def refuse(self, memory_bytes, processes):
        raise OSError("no more")

    async def one() -> Result:
        async with open_sandbox(backend="fork server") as sandbox:
            return await sandbox.exec([*sandbox.python, "-c", "print(1)"])

    with monkeypatch.context() as patch:
        patch.setattr(Group, "limit", refuse)
        result = asyncio.run(one())
    assert result.status is Status.INFRASTRUCTURE
    assert "no more" in result.detail
    assert asyncio.run(one()).stdout == b"1\n"


def test_no_group_is_left_at_the_end():
    if groups() is None:
        pytest.skip("no control group can be made here")
    code = (
        "import asyncio, os\nfrom codeflow.sandbox.control_groups import groups\n"
        "from codeflow.sandbox.local import open_sandbox\n"
        "async def main():\n    async with open_sandbox() as s: await s.exec([*s.python, '-c', 'pass'])\n"
        "asyncio.run(main())\nfolder = groups().place.folder\n"
        "print(*[folder / n for n in os.listdir(folder) if n.startswith(f'codeflow-{os.getpid()}-')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    paths = done.stdout.split()
    assert paths
    assert not any(os.path.exists(path) for path in paths)
