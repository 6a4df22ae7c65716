"""Forks: families found from shared documents and commits, the origin's copies kept, reasons that name the origin."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeflow.core.records import read_shards
from codeflow.core.types import Document, DroppedDocument
from codeflow.execute.local import LocalPool
from codeflow.transform.dedup import DedupConfig, ForkConfig, KeepConfig, run
from codeflow.transform.forks import Holding, forks
from tests.transform.corpora import contents, document, make, write_documents

SHA = "0123456789abcdef0123456789abcdef01234567"


def code(seed: int, n_edits: int = 0) -> str:
    generator = random.Random(seed)
    lines = [f"value_{generator.randint(0, 9999)} = compute_{i}({generator.random():.6f})" for i in range(60)]
    for at in random.Random(seed + 1).sample(range(60), n_edits):
        lines[at] = f"edited_{at} = other({seed})"
    return "\n".join(lines) + "\n"


def held(repository: str, text: str, path: str, year: int = 2020, revision: str = "", **tags: float) -> Document:
    one = document(text, path, fetched_at=f"{year}-01-01T00:00:00Z", **tags)
    return replace(one, origin=replace(one.origin, repository=repository, revision=revision))


def family() -> list[Document]:
    """An old repository, a younger fork of it with better files here and there, and a stranger with its boilerplate."""
    found = [held("upstream", code(n), f"src/{n}.py", 2015, quality=0.5) for n in range(10)]
    found += [held("a_fork", code(n), f"src/{n}.py", 2022, quality=0.5) for n in range(7)]
    found += [held("a_fork", code(n, n_edits=2), f"src/{n}.py", 2022, quality=0.5 + 0.2 * (n % 2)) for n in (7, 8)]
    found += [held("a_fork", code(50), "src/new.py", 2022, quality=0.5)]
    found += [held("stranger", code(n), f"src/{n}.py", 2010, quality=0.5) for n in (0, 1)]
    return found + [held("stranger", code(100 + n), f"lib/{n}.py", 2010, quality=0.5) for n in range(8)]


def outcome(folder: Path) -> tuple[dict[tuple[str, str], DroppedDocument], dict[str, Document]]:
    dropped = {
        (d.document.origin.repository, d.document.origin.path): d
        for d in read_shards(folder, "dropped", DroppedDocument)
    }
    return dropped, {d.id: d for d in read_shards(folder, "documents", Document)}


def test_the_origins_copies_stay(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", family(), per_shard=9)
    manifest = make(run, DedupConfig(partition_documents=6), {"documents": source}, tmp_path / "out")
    assert manifest.metrics["forks"] == {"a_fork": "upstream"}
    dropped, kept = outcome(tmp_path / "out")
    from_fork = {path: d for (repository, path), d in dropped.items() if repository == "a_fork"}
    assert set(from_fork) == {f"src/{n}.py" for n in range(9)}  # what the fork added is kept
    for path, record in from_fork.items():
        identity, rest = record.detail[:64], record.detail[64:]
        n = int(path[4:-3])
        if n in (0, 1):  # the stranger's is older; it is no fork, so this is no fork's copy of its own family
            assert (record.reason, rest) == ("exact_duplicate", "")
            assert kept[identity].origin.repository == "stranger"
        else:
            assert record.reason == ("fork_exact_duplicate" if n < 7 else "fork_near_duplicate")
            assert rest == " fork of upstream"
            assert kept[identity].origin.repository == "upstream"  # 7: though the fork's has better quality
    assert manifest.counts.dropped == {"exact_duplicate": 4, "fork_exact_duplicate": 5, "fork_near_duplicate": 2}


def test_without_forks_each_file_is_judged_alone(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", family(), per_shard=9)
    manifest = make(run, DedupConfig(forks=None), {"documents": source}, tmp_path / "out")
    dropped, _ = outcome(tmp_path / "out")
    assert ("upstream", "src/7.py") in dropped
    assert set(manifest.counts.dropped) == {"exact_duplicate", "near_duplicate"}
    assert "n_forks" not in manifest.metrics


def test_one_commit_is_one_family(tmp_path: Path) -> None:
    documents = [held(name, code(n), f"{name}/{n}.py", revision=SHA) for name in ("mirror", "first") for n in range(2)]
    documents += [held("other", code(9), "x.py", revision="1.0"), held("another", code(8), "y.py", revision="1.0")]
    source = write_documents(tmp_path / "in", documents)
    manifest = make(run, DedupConfig(), {"documents": source}, tmp_path / "out")
    assert manifest.metrics["forks"] == {"mirror": "first"}  # a version is no commit
    dropped, _ = outcome(tmp_path / "out")
    assert {key[0] for key in dropped} == {"mirror"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ForkConfig(order=("quality",)), {"a": "c", "b": "c"}),
        (ForkConfig(order=("age",)), {"a": "b", "c": "b"}),
        (ForkConfig(order=("path",)), {"b": "a", "c": "a"}),
        (ForkConfig(min_documents=7), {"a": "b"}),
        (ForkConfig(min_share=0.9), {}),
    ],
)
def test_rule(config: ForkConfig, expected: dict[str, str]) -> None:
    holdings = {
        "a": Holding("a", 10, 10, 1.0, "2020", ("1",)),
        "b": Holding("b", 20, 20, 2.0, "2019", ("1",)),
        "c": Holding("c", 10, 5, 4.0, "", ("2",)),
        "d": Holding("d", 90, 0, 0.0, "2001", ("3",)),
    }
    shared = {("a", "b"): 8, ("b", "c"): 6, ("c", "d"): 4}
    assert forks(holdings, shared, config) == expected


@given(
    st.dictionaries(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), st.integers(0, 10)), st.randoms()
)
def test_families_do_not_depend_on_the_order(shared: dict[tuple[str, str], int], chance: random.Random) -> None:
    shared = {pair: n for pair, n in shared.items() if pair[0] < pair[1]}
    holdings = {name: Holding(name, 10, 0, 0.0, "", ()) for name in "abcdef"}
    found = forks(holdings, shared, ForkConfig())
    shuffled = list(shared.items())
    chance.shuffle(shuffled)
    assert forks(dict(reversed(holdings.items())), dict(shuffled), ForkConfig()) == found
    assert not set(found) & set(found.values())  # an origin is nobody's fork
    assert all(found.get(a, a) == found.get(b, b) for (a, b), n in shared.items() if n >= 5)


def test_boilerplate_makes_no_family(tmp_path: Path) -> None:
    documents = [held(f"r{r:02d}", code(n), f"boiler/{n}.py") for r in range(40) for n in range(6)]
    source = write_documents(tmp_path / "in", documents)
    assert "forks" not in make(run, DedupConfig(near=None), {"documents": source}, tmp_path / "a").metrics
    config = DedupConfig(near=None, forks=ForkConfig(max_repositories=40))
    assert make(run, config, {"documents": source}, tmp_path / "b").metrics["n_forks"] == 39


def test_age_and_path_among_equals_of_one_repository_still_count(tmp_path: Path) -> None:
    documents = [held("one", code(1), "b.py", 2010), held("one", code(1), "a.py", 2020)]
    source = write_documents(tmp_path / "in", documents)
    config = DedupConfig(keep=KeepConfig(order=("path",)))
    make(run, config, {"documents": source}, tmp_path / "out")
    assert set(outcome(tmp_path / "out")[0]) == {("one", "b.py")}


@pytest.mark.slow
def test_processes_do_not_show(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", family(), per_shard=9)
    for workers in (1, 2):
        config = DedupConfig(partition_documents=6)
        make(run, config, {"documents": source}, tmp_path / str(workers), pool=LocalPool(workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
