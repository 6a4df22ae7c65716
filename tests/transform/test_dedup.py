"""The whole pass over a corpus: outcome, determinism, resuming, and recall and precision on real and planted pairs."""

from __future__ import annotations

import random
import re
import shutil
import sys
import sysconfig
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from codeflow.core import progress
from codeflow.core.errors import UserError
from codeflow.core.manifest import MANIFEST, begin
from codeflow.core.records import read_records, read_shards
from codeflow.core.types import Document, DroppedDocument
from codeflow.execute.local import LocalPool
from codeflow.transform import clusters, decisions, minhash
from codeflow.transform.dedup import DedupConfig, KeepConfig, NearConfig, run
from tests.transform.corpora import contents, document, make, write_documents


def program(seed: int, n_lines: int = 60, n_edits: int = 0) -> str:
    """A made-up program; `n_edits` of its lines are changed."""
    generator = random.Random(seed)
    names = [f"value_{generator.randint(0, 999)}" for _ in range(n_lines)]
    lines = [f"    {name} = compute_{i}({names[i - 1]}, {generator.random():.6f})" for i, name in enumerate(names)]
    for at in random.Random(seed + 1).sample(range(n_lines), n_edits):
        lines[at] = f"    edited_{at} = other(edited_{at})"
    return "def main():\n" + "\n".join(lines) + "\n"


def small_corpus() -> list[Document]:
    documents = [document(program(seed), f"plain_{seed}.py") for seed in range(20)]
    documents += [document(program(seed, n_edits=1), f"edited_{seed}.py", quality=seed % 2) for seed in range(8)]
    documents += [document(program(seed, n_edits=40), f"rewritten_{seed}.py") for seed in range(3)]
    documents += [document(program(5), "copy.py"), document(program(6).replace("    ", "\t"), "tabs.py")]
    documents += [document("", "empty.py"), document(" \n", "blank.py"), document("pass", "tiny.py")]
    return documents


def test_outcome(tmp_path: Path) -> None:
    documents = small_corpus()
    source = write_documents(tmp_path / "in", documents, per_shard=12)
    manifest = make(run, DedupConfig(), {"documents": source}, tmp_path / "out")
    dropped = {d.document.origin.path: d for d in read_shards(tmp_path / "out", "dropped", DroppedDocument)}
    kept = {d.origin.path: d for d in read_shards(tmp_path / "out", "documents", Document)}
    assert len(kept) + len(dropped) == len(documents) == manifest.counts.read
    whole = kept | {path: d.document for path, d in dropped.items()}
    assert whole == {d.origin.path: d for d in documents}
    reasons = {path: d.reason for path, d in dropped.items()}
    # Of near-duplicates the tagged copy stays, whatever its quality; of equal texts the first path.
    expected = {f"plain_{seed}.py": decisions.NEAR for seed in range(8)}
    expected |= {"plain_5.py": decisions.EXACT, "copy.py": decisions.NEAR}
    expected |= {"tabs.py": decisions.WHITE_SPACE, "empty.py": decisions.WHITE_SPACE}
    assert reasons == expected
    ids = {d.id for d in kept.values()}
    assert all(d.detail in ids for d in dropped.values())  # what was kept instead was really kept
    assert manifest.counts.dropped == {r: list(reasons.values()).count(r) for r in sorted(set(reasons.values()))}


def test_every_step_says_what_it_reads_and_drops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    monkeypatch.setattr(progress, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "_LINE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    source = write_documents(tmp_path / "in", small_corpus())
    manifest = make(run, DedupConfig(), {"documents": source}, tmp_path / "out")
    steps = {line.split(":")[0].strip(): re.sub(r" \(.*?/s(, .* MB/s of files)?\)", r"\1", line) for line in said}
    n_pairs, n_near = (manifest.counts.notes[name] for name in ("candidate_pairs", "near_duplicate_pairs"))
    unlike = f", dropped {n_pairs - n_near}: below_threshold {n_pairs - n_near}" if n_pairs > n_near else ""
    ends = {
        "sign": "read 36, # MB/s of files",
        "repositories": "read 36",
        "exact duplicates": "read 36, dropped 3: white_space_duplicate 2, exact_duplicate 1",
        "shingle sets": "read 16, # MB/s of files",
        "verify": f"read {n_pairs}{unlike}",
        "clusters": "read 16, dropped 8: near_duplicate 8",
    }
    for step, end in ends.items():
        assert re.sub(r"[\d,.]+ MB", "# MB", steps[step]) == f"  {step}: 1/1 shards, {end}"
    assert re.fullmatch(r"  components: [\d,]+ edges, [\d,]+/s, round \d", steps["components"])
    assert re.fullmatch(r"  candidate pairs: \d+/\d+ shards.*, read [\d,]+", steps["candidate pairs"])
    assert manifest.counts.read == 36


def test_clusters_tell_the_truth(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", small_corpus(), per_shard=12)
    manifest = make(run, DedupConfig(), {"documents": source}, tmp_path / "out")
    texts = {d.id: d.text for d in read_shards(source, "documents", Document)}
    found = list(read_records(tmp_path / "out" / "clusters-00000.parquet", clusters.Cluster))
    assert len(found) == manifest.metrics["n_near_duplicate_clusters"] == 8
    for cluster in found:
        own = minhash.shingle_set(texts[cluster.id].encode(), 5)
        for member, jaccard in zip(cluster.members, cluster.jaccards, strict=True):
            assert jaccard == minhash.jaccard(own, minhash.shingle_set(texts[member].encode(), 5)) >= 0.8


def test_chains(tmp_path: Path) -> None:
    """a ~ b ~ c without a ~ c: "cover" keeps both ends' information, "component" keeps one document."""
    words = [f"w{i}" for i in range(400)]
    a, b, c = (words[start : start + 300] for start in (0, 30, 60))
    documents = [document(" ".join(w), p) for w, p in ((a, "a"), (b, "b"), (c, "c"))]
    source = write_documents(tmp_path / "in", documents)
    for rule, expected in (("cover", ["a", "c"]), ("component", ["a"])):
        config = DedupConfig(near=NearConfig.model_validate({"rule": rule}))
        make(run, config, {"documents": source}, tmp_path / rule)
        assert [d.origin.path for d in read_shards(tmp_path / rule, "documents", Document)] == expected


def test_same_bytes_after_any_interruption(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", small_corpus(), per_shard=12)
    inputs, config = {"documents": source}, DedupConfig()
    make(run, config, inputs, tmp_path / "whole")
    for stop in ("sign-00001", "pairs-000-00000", "clusters-00000", "write-00001"):
        output = tmp_path / "cut"
        shutil.rmtree(output, ignore_errors=True)
        _run_until(stop, config, source, output)
        assert not (output / MANIFEST).exists()
        assert make(run, config, inputs, output).counts.read == len(small_corpus())
        assert contents(output) == contents(tmp_path / "whole"), stop


def _run_until(stop: str, config: DedupConfig, source: Path, output: Path) -> None:
    """Do as much as a run that dies just before it notes that the job `stop` is finished."""

    class Died(Exception):
        pass

    from codeflow.execute import shards

    write = shards.write_note

    def write_or_die(path: Path, text: str) -> None:
        if path.stem == stop:
            raise Died
        write(path, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "write_note", write_or_die)
        with pytest.raises(Died):
            make(run, config, {"documents": source}, output)


def test_partitions_do_not_change_the_outcome(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", small_corpus(), per_shard=12)
    for name, entries, width in (("one", 4_000_000, 500_000), ("many", 7, 10)):
        config = DedupConfig(near=NearConfig(partition_entries=entries), partition_documents=width)
        make(run, config, {"documents": source}, tmp_path / name)
    one, many = (contents(tmp_path / name) for name in ("one", "many"))
    assert [n for n in one if n.startswith(("documents", "dropped")) and one[n] != many[n]] == []
    whole, parted = ([*read_shards(tmp_path / n, "clusters", clusters.Cluster)] for n in ("one", "many"))
    assert sum(name.startswith("clusters-") for name in many) > 1
    assert parted == whole


@pytest.mark.slow
def test_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "in", small_corpus(), per_shard=12)
    for workers in (1, 2):
        make(run, DedupConfig(), {"documents": source}, tmp_path / f"by_{workers}", pool=LocalPool(workers))
    assert contents(tmp_path / "by_1") == contents(tmp_path / "by_2")


@pytest.mark.parametrize("documents", [[], [document("", "empty.py")], [document("pass")]])
def test_hardly_any_documents(tmp_path: Path, documents: list[Document]) -> None:
    source = write_documents(tmp_path / "in", documents)
    manifest = make(run, DedupConfig(), {"documents": source}, tmp_path / "out")
    assert (manifest.counts.read, manifest.counts.kept) == (len(documents), len(documents))
    assert list(read_shards(tmp_path / "out", "documents", Document)) == documents


def test_other_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(UserError, match="not an artifact"):
        make(run, DedupConfig(), {"documents": tmp_path / "in"}, tmp_path / "out")


@pytest.mark.slow
def test_recall_and_precision_on_the_standard_library(tmp_path: Path) -> None:
    """All pairs of real files with an exact Jaccard index of 0.8 or more, found by brute force, and planted copies."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in library.rglob("*.py") if "site-packages" not in p.parts)
    texts = [text for p in files[::2] if (text := p.read_bytes().decode("utf-8", "ignore")).strip()]
    generator = random.Random(3)
    for text in generator.sample([t for t in texts if len(t) > 2000], 150):  # planted: some lines deleted
        share = generator.uniform(0.0, 0.06)
        texts.append("\n".join(line for line in text.split("\n") if generator.random() > share))
    documents = [document(text, str(i)) for i, text in enumerate(texts)]
    source = write_documents(tmp_path / "in", documents, per_shard=200)
    begin(tmp_path / "out", "documents", DedupConfig(), {}, "test")
    found: set[tuple[int, int]] = set()

    class Stop(Exception):
        pass

    def steal(near: NearConfig, keep: KeepConfig, width: int, scratch: Path, output: Path) -> None:
        for path in scratch.glob("edges-*.pairs.npy"):
            found.update((a, b) for a, b in np.load(path).tolist())
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "cluster_jobs", steal)
        with pytest.raises(Stop):
            run(DedupConfig(exact=None), {"documents": source}, tmp_path / "out", LocalPool(1))
    sets = [minhash.shingle_set(text.encode(), 5) for text in texts]
    real = set()
    for a, b in combinations(range(len(sets)), 2):
        small, large = sorted((sets[a].size, sets[b].size))
        if small and small / large >= 0.8 and minhash.jaccard(sets[a], sets[b]) >= 0.8:
            real.add((a, b))
    assert len(real) > 100
    print(f"pairs {len(real)}, found {len(found)}, recall {len(real & found) / len(real):.4f}")
    assert len(real & found) / len(real) >= 0.95
    assert len(real & found) / len(found) >= 0.98
