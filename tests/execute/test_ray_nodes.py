"""A cluster of two nodes: one is lost under its task, or the driver is killed; the bytes are the local pool's."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from codeflow.core.manifest import Counts
from codeflow.execute.chain import run_chain
from codeflow.execute.local import LocalPool
from codeflow.execute.ray import RayPool, connected
from codeflow.execute.shards import run_shards
from tests.execute.test_ray import chain_of_data, contents, write_sources
from tests.execute.test_shards import SquareJob, jobs, n_done, n_tries, square

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
_PATIENCE_SECONDS = 90


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Any]:
    """A head and a second node, one core each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass(frozen=True)
class Held:
    """Work that begins only when the node to be lost has a task of its own, which never ends by itself."""

    work: Callable[[Any], Counts]
    folder: Path
    doomed: str  # the node's id

    def __call__(self, job: Any) -> Counts:
        """Say that the doomed node has begun, and stay there; elsewhere wait for that, then work."""
        begun = self.folder / "begun"
        if ray.get_runtime_context().get_node_id() == self.doomed:
            begun.touch()
            time.sleep(_PATIENCE_SECONDS)
        until(begun.exists)
        return self.work(job)


class LosesNode:
    """The cluster's pool; in the first call with some jobs a node dies under its task."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.pool = RayPool(cluster.address, inline=False)
        self.cluster, self.folder, self.faults = cluster, folder, []
        self._doomed = cluster.worker_nodes.copy()

    def outcomes(self, work: Any, jobs: Any, small: bool = False) -> Generator[Any, None, None]:
        if len(jobs) > 2 and self._doomed:
            node = self._doomed.pop()
            work = Held(work, self.folder, node.node_id)
            threading.Thread(target=self._lose, args=[node]).start()
        for job, outcome in self.pool.outcomes(work, jobs):
            if isinstance(outcome, Exception):
                self.faults.append(outcome)
            yield job, outcome

    def _lose(self, node: Any) -> None:
        until((self.folder / "begun").exists)
        self.cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def kept(self) -> Iterator[Any]:
        yield self


def until(happened: Callable[[], bool]) -> None:
    """Wait until something has happened."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def slow_square(job: SquareJob) -> Counts:
    """Square when the shard may: the first two at once, the others after the driver's death."""
    if int(job.name[1:]) >= 2:
        until((Path(job.folder) / "killed").exists)
    return square(job)


def drive(address: str, folder: Path) -> Counts:
    """Be the driver."""
    connected(address)
    return run_shards(slow_square, jobs(folder), folder, "squares", RayPool(address, inline=False))


def test_the_driver_is_killed_and_the_next_one_goes_on(tmp_path: Path, two_nodes: Any) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    (here / "killed").touch()
    expected = run_shards(slow_square, jobs(here), here, "squares", LocalPool(1))
    code = f"from pathlib import Path; from {__name__} import drive; drive({two_nodes.address!r}, Path({str(there)!r}))"
    driver = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: n_done(there) == 2)
    finally:
        driver.kill()
        driver.wait()
    (there / "killed").touch()
    assert drive(two_nodes.address, there) == expected
    outputs = [sorted((path.name, path.read_bytes()) for path in folder.glob("*.out")) for folder in (here, there)]
    assert outputs[0] == outputs[1]
    assert [n_tries(there, f"s0{i}") for i in range(2)] == [1, 1]  # what was done is not done again


def test_a_node_is_lost_under_its_task(
    tmp_path: Path, two_nodes: Any, synthetic_repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codeflow.corpus.files._SHARD_BYTES", 40_000)
    stages = chain_of_data(write_sources(tmp_path / "sources"), synthetic_repository)[:4]
    assert stages[-1].name == "dedup"
    here = run_chain(stages, tmp_path / "here", pool=LocalPool(1))
    pool = LosesNode(two_nodes, tmp_path)
    there = run_chain(stages, tmp_path / "there", pool=pool)
    assert pool.faults
    assert all(isinstance(fault, ray.exceptions.RayError) for fault in pool.faults)
    until(lambda: [node["Alive"] for node in ray.nodes()].count(True) == 1)
    for name in here:
        assert there[name].counts.read == here[name].counts.read > 0
        assert contents(tmp_path / "there" / name) == contents(tmp_path / "here" / name)
