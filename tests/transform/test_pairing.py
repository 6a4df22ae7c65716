"""Aligned pairs become one sample each, in both forms and directions; the control keeps the sides apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.storage import sha256_file
from codeflow.core.types import Sample
from codeflow.execute import local
from codeflow.transform.pairing import PairingConfig, run

_ORIGIN = {"source": "synthetic", "repository": "r", "revision": "", "path": "", "licence": "MIT", "fetched_at": ""}
_TEXTS = {"Python": "print({n})\n", "Java": "int x = {n};", "Go": "x := {n}\n"}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "default_workers", lambda: 1)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    folder = tmp_path / "pairs"
    folder.mkdir()
    records = []
    for n in range(40):
        names = ["Python", "Java", "Go"] if n % 2 else ["Python", "Java"]
        texts = {name: _TEXTS[name].format(n=n) for name in names[: 1 if n == 0 else 3]}
        records.append({"id": f"task {n}", "texts": texts, "origin": _ORIGIN})
    (folder / "pairs-00000.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder


def _run(pairs: Path, output: Path, **fields: object) -> tuple[Manifest, list[Sample]]:
    config = PairingConfig.model_validate(fields)
    begin(output, "samples", config, {}, "k")
    return run(config, {"pairs": pairs}, output), list(read_shards(output, "pairs", Sample))


def _text(sample: Sample) -> str:
    return "".join(part.text for part in sample.segments)


def test_both_forms_and_directions(pairs: Path, tmp_path: Path) -> None:
    manifest, samples = _run(pairs, tmp_path / "s")
    assert manifest.counts.read == 40
    assert manifest.counts.dropped == {"fewer_than_two_languages": 1}
    assert len(samples) == manifest.counts.kept == 39
    assert {sample.id.split("/")[1] for sample in samples} == {"direct", "prompted"}
    assert {"Python -> Java", "Java -> Python"} <= set(manifest.metrics["pairs"])
    for sample in samples:
        n = sample.id.split("task ")[1].split("/")[0]
        assert sum(_TEXTS[name].format(n=n).strip() in _text(sample) for name in _TEXTS) == 2
        assert ("Translate this" in _text(sample)) == ("/prompted/" in sample.id)
        assert all(part.train for part in sample.segments)
    _, again = _run(pairs, tmp_path / "again")
    name = "pairs-00000.parquet"
    assert sha256_file(tmp_path / "again" / name) == sha256_file(tmp_path / "s" / name)


def test_exact_texts(pairs: Path, tmp_path: Path) -> None:
    _, direct = _run(pairs, tmp_path / "d", prompted_share=0)
    texts = {_text(sample) for sample in direct}
    assert (
        "<|file_sep|>program.py\nprint(2)\n<|file_sep|>program.java\nint x = 2;\n<|endoftext|>" in texts
        or "<|file_sep|>program.java\nint x = 2;\n<|file_sep|>program.py\nprint(2)\n<|endoftext|>" in texts
    )
    _, prompted = _run(pairs, tmp_path / "p", prompted_share=1, train_on="target")
    for sample in prompted:
        target = "".join(part.text for part in sample.segments if part.train)
        assert target.startswith("<|file_sep|>program.")
        assert target.count("<|file_sep|>") == 1
        assert _text(sample).endswith(target)


def test_shuffled_is_the_same_texts_apart(pairs: Path, tmp_path: Path) -> None:
    _, together = _run(pairs, tmp_path / "t", prompted_share=0)
    _, apart = _run(pairs, tmp_path / "a", form="shuffled")
    assert len(apart) == 2 * len(together)
    assert sorted("".join(map(_text, apart)).replace("<|endoftext|>", "")) == sorted(
        "".join(map(_text, together)).replace("<|endoftext|>", "")
    )


def test_more_pairs_of_a_record_are_distinct(pairs: Path, tmp_path: Path) -> None:
    manifest, samples = _run(pairs, tmp_path / "s", pairs_per_record=3)
    assert len(samples) == 20 * 3 + 19
    assert sum(manifest.metrics["pairs"].values()) == len(samples)
    assert len({sample.id for sample in samples}) == len(samples)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "pairs-00000.jsonl, line 1"),
        ('{"id": "a", "texts": {}}', "origin"),
        (json.dumps({"id": "a", "texts": {"Pyhton": "x"}, "origin": _ORIGIN}), "unknown language 'Pyhton'"),
    ],
)
def test_malformed_records_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "pairs-00000.jsonl").write_text(f"{line}\n")
    with pytest.raises(UserError, match=message):
        _run(tmp_path, tmp_path / "s")
    with pytest.raises(UserError, match=r"no pairs-\*.jsonl"):
        _run(tmp_path / "s", tmp_path / "t")
