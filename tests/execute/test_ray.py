"""Ray: the bytes of the local pool, also when tasks' processes are killed; what fails is named and sinks nothing."""

from __future__ import annotations

import contextlib
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from codeflow.core.config import validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import RUN, Counts
from codeflow.execute.chain import Stage, resolve, run_chain
from codeflow.execute.local import LocalPool
from codeflow.execute.ray import RayPool, connected
from codeflow.execute.shards import RAY_ADDRESS, pool_on, run_shards
from codeflow.recipes.verbs import VERBS
from tests.execute.test_shards import jobs, n_done, n_tries, square

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayPool]:
    """A cluster of two cores on this machine, for the whole module; small work goes to it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(RAY_ADDRESS, raising=False)
        patch.setattr("codeflow.execute.ray.default_workers", lambda: 2)
        with pool_on("ray") as pool:
            assert isinstance(pool, RayPool)
            yield RayPool(pool.address, inline=False)


@pytest.mark.parametrize("fault", ["", "once", "die once"])
def test_counts_and_files_are_those_of_the_local_pool(tmp_path: Path, cluster: RayPool, fault: str) -> None:
    assert run_shards(square, jobs(tmp_path, s02=fault), tmp_path, "squares", cluster) == Counts(
        read=6, kept=3, dropped={"even": 3}
    )
    assert [(tmp_path / f"s{i:02}.out").read_text() for i in range(6)] == [str(i * i) for i in range(6)]
    assert [n_tries(tmp_path, f"s{i:02}") for i in range(6)] == [1, 1, 2 if fault else 1, 1, 1, 1]


@pytest.mark.parametrize(("fault", "words"), [("always", "planted fault"), ("die", "Worker")])
def test_a_shard_that_keeps_failing_is_named_and_the_others_are_done(
    tmp_path: Path, cluster: RayPool, fault: str, words: str
) -> None:
    with pytest.raises(InfrastructureError, match=rf"(?s)1 of 6 shards failed 2 times.*s04 \(number 4\): .*{words}"):
        run_shards(square, jobs(tmp_path, s04=fault), tmp_path, "squares", cluster)
    assert n_done(tmp_path) == 5
    assert n_tries(tmp_path, "s04") == 2


def test_bad_input_is_the_users_error_with_its_own_words(tmp_path: Path, cluster: RayPool) -> None:
    with pytest.raises(UserError) as caught:
        run_shards(square, jobs(tmp_path, s00="user"), tmp_path, "squares", cluster)
    assert str(caught.value) == "the number is odd; choose an even one"


def test_relative_paths_are_those_of_the_driver(
    tmp_path: Path, cluster: RayPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_shards(square, jobs(Path(), n=2), Path(), "squares", cluster)
    assert sorted(path.name for path in tmp_path.glob("*.out")) == ["s00.out", "s01.out"]


@pytest.mark.parametrize(("last", "kills"), [("dedup", 2), pytest.param("pack", 4, marks=pytest.mark.slow)])
def test_a_chain_of_data_is_the_same_bytes(
    tmp_path: Path,
    cluster: RayPool,
    synthetic_repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: str,
    kills: int,
) -> None:
    """Every file of every artifact, though processes are killed under their tasks."""
    monkeypatch.setattr("codeflow.corpus.files._SHARD_BYTES", 40_000)
    stages = chain_of_data(write_sources(tmp_path / "sources"), synthetic_repository)
    stages = stages[: [stage.name for stage in stages].index(last) + 1]
    hunted = Hunted(cluster)
    here = run_chain(stages, tmp_path / "here", pool=LocalPool(1))
    there = run_chain(stages, tmp_path / "there", pool=hunted)
    assert hunted.n_killed >= kills
    assert there.keys() == here.keys()
    for name in here:
        assert there[name].counts.read == here[name].counts.read > 0
        assert contents(tmp_path / "there" / name) == contents(tmp_path / "here" / name)


class Hunted:
    """The pool, with one process killed under its task in every call with some jobs."""

    def __init__(self, pool: RayPool) -> None:
        self.pool, self.n_killed = pool, 0

    def outcomes(self, work, jobs, small=False):
        alive = len(jobs) > 2
        for job, outcome in self.pool.outcomes(work, jobs):
            if alive and self._kill():
                self.n_killed += 1
                alive = False
            yield job, outcome

    def _kill(self) -> bool:
        """Kill one process that is at a task, if there is one. Ray writes the task into its process's title."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith("ray::_run"):
                    process.kill()
                    return True
        return False

    @contextlib.contextmanager
    def kept(self):
        yield self


def write_sources(folder: Path) -> Path:
    """Write files of the standard library, and some of them once more."""
    folder.mkdir()
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("json/*.py"), *library.glob("email/m*.py")]):
        target = folder / f"{path.parent.name}_{path.name}"
        target.write_bytes(path.read_bytes())
        (folder / f"again_{target.name}").write_bytes(path.read_bytes() + b"\n# again\n")
    return folder


def chain_of_data(sources: Path, repository: Path) -> list[Stage]:
    configs: list[tuple[str, dict[str, object], dict[str, str]]] = [
        ("files", {"files": [str(sources)]}, {}),
        ("history", {"repositories": [str(repository)]}, {}),
        ("clean", {}, {"documents": "files"}),
        ("dedup", {"partition_documents": 20}, {"documents": "clean"}),
        ("prompts", {}, {}),
        ("decontaminate", {}, {"documents": "dedup", "prompts": "prompts"}),
        ("split", {}, {"documents": "decontaminate"}),
        ("tokenizer", {"vocab_size": 400}, {"documents": "split"}),
        ("evolution", {}, {"commits": "history", "documents": "split"}),
        ("samples", {}, {"documents": "split", "triplets": "evolution"}),
        ("pack", {"context_tokens": 512}, {"samples": "samples", "tokenizer": "tokenizer"}),
    ]
    return [
        VERBS[verb].stage(validate(resolve(VERBS[verb].config), fields), inputs) for verb, fields, inputs in configs
    ]


def contents(artifact: Path) -> dict[str, bytes]:
    """Return all files but `run.json`; the manifest without the folder in which the chain lies."""
    files = {str(path.relative_to(artifact)): path for path in artifact.rglob("*") if path.is_file()}
    folder = str(artifact.parent).encode()
    return {name: path.read_bytes().replace(folder, b"") for name, path in files.items() if name != RUN}


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)

    def refuse(address: str, **options: object) -> None:
        raise ConnectionError(f"cannot connect to {address}\nmore")

    monkeypatch.setattr("ray.init", refuse)
    with pytest.raises(UserError, match=r"no Ray cluster answers at '10\.1\.1\.1:6379' \(cannot .*ray start --head"):
        connected("10.1.1.1:6379")


def test_a_cluster_that_does_not_come_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray raises a bare Exception when one of its processes is late."""

    def late(address: str, **options: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nmore")

    monkeypatch.delenv(RAY_ADDRESS, raising=False)
    monkeypatch.setattr("ray.init", late)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with pytest.raises(InfrastructureError, match=r"^Ray did not start .*timed out.*--on local$"), pool_on("ray"):
        pass


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'codeflow\[ray\]', or use --on local"), pool_on("ray:auto"):
        pass
