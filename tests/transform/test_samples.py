"""Sets of samples: what goes where, in which format, and that it is stable."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_file, sha256_text
from codeflow.core.types import Document, Origin, Sample, Triplet
from codeflow.execute import local
from codeflow.tokens.special import SPECIAL_TOKENS
from codeflow.transform.fim import FimConfig
from codeflow.transform.patch import make_patch
from codeflow.transform.samples import SETS, SamplesConfig, run, triplet_segments


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting worker processes takes seconds; one test below has them."""
    monkeypatch.setattr(local, "default_workers", lambda: 1)


_ORIGIN = Origin("git", "tally", "a..b", "", "MIT", "2020-01-01T00:00:00Z")


def _document(n: int, language: str, quality: float | None) -> Document:
    text = f"def f_{n}(a, b):\n    # not a token: <|endoftext|>\n    return a * {n} + b\n\n\nprint(f_{n}(1, 2))\n"
    tags = {} if quality is None else {"quality": quality}
    return Document(sha256_text(text), text, language, Origin("git", "r", "1", f"{n}.py", "MIT", ""), tags)


def _triplet() -> Triplet:
    before, after = {"a.py": "x = 1"}, {"a.py": "x = 2\n", "new.py": "y = 1\n"}
    return Triplet("t", before, make_patch(before, after), after, ("First\n", "Second\n\nWhy."), _ORIGIN, 0.5, {})


def _artifact(folder: Path, kind: str, shards: list[list[Document]] | list[list[Triplet]]) -> Path:
    begin(folder, kind, SamplesConfig(), {}, "k")
    for number, records in enumerate(shards):
        write_records(folder / f"{kind}-{number:05d}.parquet", records, Document if kind == "documents" else Triplet)
    seal(folder, Counts())
    return folder


def _run(folder: Path, documents: Path, triplets: Path | None, config: SamplesConfig | None = None) -> Manifest:
    config = config or SamplesConfig()
    begin(folder, "samples", config, {}, "k")
    return run(config, {"documents": documents} | ({"triplets": triplets} if triplets else {}), folder)


def _sets(folder: Path) -> dict[str, list[Sample]]:
    return {name: list(read_shards(folder, name, Sample)) for name in SETS}


def _text(sample: Sample) -> str:
    return "".join(part.text for part in sample.segments)


def test_documents_go_to_their_sets(tmp_path: Path) -> None:
    code = [_document(n, "Python", n / 20) for n in range(20)]
    prose = [_document(n, "Markdown", None) for n in range(100, 105)]
    data = [_document(200, "JSON", None)]
    documents = _artifact(tmp_path / "d", "documents", [code[:10] + prose, code[10:] + data])
    triplets = _artifact(tmp_path / "t", "triplets", [[_triplet()]])
    config = SamplesConfig(fim_rate=1.0, anneal_share=0.2, anneal_fim_rate=1.0)
    manifest = _run(tmp_path / "s", documents, triplets, config)
    sets = _sets(tmp_path / "s")
    assert [s.id for s in sets["general"]] == [f"general/{d.id}" for d in prose]
    assert [s.id for s in sets["code"]] == [f"code/{d.id}" for d in code]
    assert {s.id.split("/")[-1] for s in sets["fim"]} == {d.id for d in code}
    best = {d.id for d in code[16:]}
    assert {s.id.split("/")[-1] for s in sets["anneal"] if s.id.startswith("anneal/code/")} == best
    assert {s.id.split("/")[-1] for s in sets["anneal"] if s.id.startswith("anneal/fim/")} == best
    assert len(sets["evolution"]) == 1
    assert manifest.counts.dropped == {"data_language": 1}
    assert manifest.counts.read == manifest.counts.kept + 1 == 27
    for name, samples in sets.items():
        assert manifest.metrics["sets"][name]["samples"] == len(samples)
        n = sum(len(part.text) for s in samples for part in s.segments if part.role == "text")
        assert manifest.metrics["sets"][name]["characters"] == n
    assert sum(manifest.metrics["fim_levels"].values()) == 20
    assert manifest.metrics["remarks"] == []


def test_formats(tmp_path: Path) -> None:
    documents = _artifact(tmp_path / "d", "documents", [[_document(n, "Python", 0.5) for n in range(30)]])
    triplets = _artifact(tmp_path / "t", "triplets", [[_triplet()]])
    _run(tmp_path / "s", documents, triplets, SamplesConfig(fim_rate=1.0))
    sets = _sets(tmp_path / "s")
    texts = {document.id: document.text for document in read_shards(documents, "documents", Document)}
    for sample in [s for samples in sets.values() for s in samples]:
        assert all(part.text in SPECIAL_TOKENS for part in sample.segments if part.role == "special")
        assert all(part.role in ("text", "special") for part in sample.segments)
        assert sample.phase in SETS
        assert sample.segments[-1].role == "special"
    for sample in sets["code"]:
        assert [part.role for part in sample.segments] == ["text", "special"]
        assert _text(sample) == texts[sample.id.split("/")[1]] + "<|endoftext|>"
    for sample in sets["fim"]:
        order = [part.text for part in sample.segments if part.role == "special"]
        assert order == ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|im_end|>"]
        parts = {"<|fim_prefix|>": "", "<|fim_suffix|>": "", "<|fim_middle|>": ""}
        name = ""
        for part in sample.segments:
            if part.role == "special":
                name = part.text
            else:
                parts[name] = part.text
        whole = parts["<|fim_prefix|>"] + parts["<|fim_middle|>"] + parts["<|fim_suffix|>"]
        assert whole == texts[sample.id.split("/")[-1]]


def test_triplets_are_rendered_as_a_repository() -> None:
    parts = triplet_segments(_triplet())
    assert "".join(part.text for part in parts) == (
        "<|repo_name|>tally\n<|file_sep|>COMMIT_MESSAGE\nFirst\n\nSecond\n\nWhy.\n<|file_sep|>a.py\nx = 1\n"
        "<|file_sep|>CHANGES.patch\n"
        "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-x = 1\n\\ No newline at end of file\n+x = 2\n"
        "diff --git a/new.py b/new.py\nnew file mode 100644\n--- /dev/null\n+++ b/new.py\n@@ -0,0 +1 @@\n+y = 1\n"
        "<|endoftext|>"
    )
    trained = [part.text for part in triplet_segments(_triplet(), train_context=False) if part.train]
    assert trained == [_triplet().patch, "<|endoftext|>"]


def test_empty_sets_are_said_and_have_no_files(tmp_path: Path) -> None:
    documents = _artifact(tmp_path / "d", "documents", [[_document(1, "Python", None)]])
    manifest = _run(tmp_path / "s", documents, None, SamplesConfig(fim_rate=0.0))
    assert sorted(path.name for path in (tmp_path / "s").glob("*.parquet")) == ["code-00000.parquet"]
    remarks = "\n".join(manifest.metrics["remarks"])
    for name in ("general", "fim", "evolution", "anneal"):
        assert f"set {name} is empty" in remarks


def test_long_triplets_are_dropped_and_counted(tmp_path: Path) -> None:
    documents = _artifact(tmp_path / "d", "documents", [[_document(1, "Python", 0.1)]])
    triplets = _artifact(tmp_path / "t", "triplets", [[_triplet()]])
    manifest = _run(tmp_path / "s", documents, triplets, SamplesConfig(max_evolution_characters=100))
    assert manifest.counts.dropped == {"triplet_too_long": 1}
    assert any("evolution is empty" in remark for remark in manifest.metrics["remarks"])


def test_same_seed_same_bytes_other_seed_other_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = [_document(n, "Python", n / 30) for n in range(30)]
    documents = _artifact(tmp_path / "d", "documents", [code[:10], code[10:]])
    for name, seed, n_workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        monkeypatch.setattr(local, "default_workers", lambda n_workers=n_workers: n_workers)
        _run(tmp_path / name, documents, None, SamplesConfig(seed=seed, fim=FimConfig(max_characters=4000)))
    digests = {
        name: [sha256_file(path) for path in sorted((tmp_path / name).glob("*.parquet"))] for name in ("a", "b", "c")
    }
    assert digests["a"] == digests["b"] != digests["c"]
    assert 5 < len(_sets(tmp_path / "a")["fim"]) < 25
