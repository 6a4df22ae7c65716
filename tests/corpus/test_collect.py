"""Collecting: a small made-up environment, every drop by its reason, origins, caps, and the same bytes each time."""

from __future__ import annotations

import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import Counts, Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document
from codeflow.corpus import installed
from codeflow.corpus.collect import CollectConfig, run, world
from codeflow.corpus.survey import Limits, Look, Reading, look, looked, read_documents
from codeflow.execute import local

_METADATA = """Metadata-Version: 2.1
Name: tiny-pkg
Version: 1.2
License: MIT License
Description-Content-Type: text/markdown

# Tiny

A description.
"""
_DOCSTRING = '"""' + "Explain what this does, at length. " * 20 + '"""\n'
_FILES: dict[str, bytes] = {
    "tiny/__init__.py": _DOCSTRING.encode() + b"x = 1\n",
    "tiny/spdx.py": b"# SPDX-License-Identifier: Apache-2.0\ny = 2\n",
    "tiny/guide.rst": b"Guide\n=====\n\nText.\n",
    "tiny/data.json": b"{}\n",
    "tiny/empty.py": b"\n",
    "tiny/latin.py": "# ü\n".encode("latin-1"),
    "tiny/nul.py": b"x = '\0'\n",
    "tiny/large.py": b"x = 1\n" * 1000,
    "tiny/lib.so": b"\x7fELF",
    "tiny/LICENSE.txt": b"Words.\n",
    "tiny/script": b"nothing known\n",
    "tiny/pointer.py": b"version https://git-lfs.github.com/spec/v1\n",
    "tiny/__pycache__/a.cpython-311.pyc": b"x",
    "tiny_pkg-1.2.dist-info/METADATA": _METADATA.encode(),
    "tiny_pkg-1.2.dist-info/top_level.txt": b"tiny\n",
}


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site-packages with one package and a standard library with two modules."""
    site, stdlib = tmp_path / "lib" / "site-packages", tmp_path / "lib"
    for path, content in _FILES.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(content)
    (site / "tiny/link.py").symlink_to("spdx.py")
    listed = [*_FILES, "tiny/gone.py", "tiny/link.py", "../../bin/tiny", "tiny/spdx.py"]
    (site / "tiny_pkg-1.2.dist-info/RECORD").write_text("".join(f"{path},,\n" for path in listed))
    (stdlib / "json").mkdir()
    (stdlib / "json/tool.py").write_text("import json\n")
    (stdlib / "this.py").write_text("s = 'zen'\n")
    paths = {"stdlib": stdlib, "purelib": site, "platlib": site}
    real = sysconfig.get_path
    monkeypatch.setattr(installed.sysconfig, "get_path", lambda name: str(paths.get(name) or real(name)))
    monkeypatch.setattr(local, "default_workers", lambda: 1)
    return site


def collect(output: Path, **fields: object) -> tuple[Manifest, list[Document]]:
    config = validate(CollectConfig, {"max_file_bytes": 5000, **fields})
    begin(output, "documents", config, {}, "k")
    manifest = run(config, {}, output)
    return manifest, list(read_shards(output, "documents", Document))


def test_excluded_packages_do_not_change_the_collection(environment: Path, tmp_path: Path) -> None:
    """Neither what is read nor the fingerprint of the world, and however the name is spelt."""
    before, world_before = collect(tmp_path / "before")[0], world(CollectConfig())
    _install(environment, "Later.Pkg", {"later/__init__.py": b"LATER = 1\n"})
    assert world(CollectConfig()) != world_before
    assert world(CollectConfig(excluded_packages=("later-pkg",))) == world_before
    after = collect(tmp_path / "after", excluded_packages=["later_pkg"])[0]
    assert (after.counts, after.fingerprint) == (before.counts, before.fingerprint)
    assert collect(tmp_path / "more")[0].counts.kept == before.counts.kept + 1


def _install(site: Path, name: str, files: dict[str, bytes]) -> None:
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True)
        (site / path).write_bytes(content)
    (folder / "RECORD").write_text("".join(f"{path},,\n" for path in files))


def test_documents_and_reasons(environment: Path, tmp_path: Path) -> None:
    manifest, documents = collect(tmp_path / "out")
    found = {(d.origin.source, d.origin.path): d for d in documents}
    assert set(found) == {
        ("package", "tiny/__init__.py"),
        ("package", "tiny/__init__.py#docstrings"),
        ("package", "tiny/spdx.py"),
        ("package", "tiny/guide.rst"),
        ("package", "tiny_pkg-1.2.dist-info/METADATA"),
        ("stdlib", "json/tool.py"),
        ("stdlib", "this.py"),
    }
    assert manifest.counts.dropped == {
        "binary": 1,
        "bytecode": 1,
        "domain_data": 1,
        "empty": 1,
        "invalid_utf8": 1,
        "language_not_in_table": 1,
        "language_unknown": 1,
        "lfs_pointer": 1,
        "licence_file": 1,
        "listed_twice": 1,
        "missing": 1,
        "outside_site_packages": 1,
        "over_cap": 0,
        "package_metadata": 1,
        "symlink": 1,
        "too_large": 1,
    }
    assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values())
    assert manifest.counts.kept == len(documents)
    for document in documents:
        assert document.id == sha256_text(document.text)
        assert str(tmp_path) not in repr(document)


def test_origins(environment: Path, tmp_path: Path) -> None:
    _, documents = collect(tmp_path / "out")
    found = {d.origin.path: d for d in documents}
    module, described = found["tiny/__init__.py"], found["tiny_pkg-1.2.dist-info/METADATA"]
    assert (module.origin.repository, module.origin.revision, module.origin.licence) == ("tiny-pkg 1.2", "1.2", "MIT")
    assert module.origin.fetched_at.endswith("Z")
    assert module.text.encode() == _FILES["tiny/__init__.py"]
    assert found["tiny/spdx.py"].origin.licence == "Apache-2.0"
    assert (described.text, described.language) == ("# Tiny\n\nA description.\n", "Markdown")
    assert (found["this.py"].origin.licence, found["this.py"].language) == ("PSF-2.0", "Python")
    assert found["tiny/__init__.py#docstrings"].language == "Text"


def test_git_heads_come_first_and_are_marked_synthetic(
    environment: Path, synthetic_repository: Path, tmp_path: Path
) -> None:
    (synthetic_repository / "untracked.py").write_text("never = 'seen'\n")
    try:
        manifest, documents = collect(
            tmp_path / "out",
            repositories=[str(synthetic_repository)],
            cap_bytes=8000,
            general_cap_bytes=0,
        )
    finally:
        (synthetic_repository / "untracked.py").unlink()
    from_git = [d for d in documents if d.origin.source == "synthetic-git"]
    paths = {d.origin.path for d in from_git}
    assert any(path.startswith("tally/") for path in paths)
    assert "untracked.py" not in paths
    assert {d.origin.licence for d in from_git} == {"MIT"}
    assert {d.origin.fetched_at for d in from_git} == {manifest.metrics["repositories"]["tally"]["head_time"]}
    assert manifest.metrics["repositories"]["tally"]["synthetic"] is True
    assert sum(len(d.text.encode()) for d in documents) <= 8000
    assert manifest.counts.dropped["over_cap"] > 0
    assert manifest.counts.dropped["submodule"] == 1


def test_a_larger_cap_contains_the_smaller(environment: Path, synthetic_repository: Path, tmp_path: Path) -> None:
    fields = {"repositories": [str(synthetic_repository)], "general_cap_bytes": 0, "repository_share": 0}
    samples = []
    for cap_bytes in (5000, 8000, 10**6):
        _, documents = collect(tmp_path / str(cap_bytes), cap_bytes=cap_bytes, **fields)
        samples.append({(d.id, d.origin.path) for d in documents})
        assert sum(len(d.text.encode()) for d in documents) <= cap_bytes
    assert samples[0] < samples[1] < samples[2]
    lowest = sorted(samples[2])[: len(samples[0])]
    assert set(lowest) == samples[0], "documents are taken by rank of their hash"


def test_same_bytes_for_any_number_of_workers(
    environment: Path, synthetic_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = []
    for workers in (1, 2, 1):
        monkeypatch.setattr(local, "default_workers", lambda workers=workers: workers)
        manifest, _ = collect(
            tmp_path / f"out{len(manifests)}", repositories=[str(synthetic_repository)], shard_bytes=4000
        )
        manifests.append(manifest)
    assert manifests[0] == manifests[1] == manifests[2]
    assert len(manifests[0].files) >= 3


def test_a_file_that_changes_meanwhile_is_noticed(environment: Path, tmp_path: Path) -> None:
    begin(tmp_path / "out", "documents", CollectConfig(), {}, "k")
    candidate = next(c for c in installed.package_candidates(Counter()) if c.path == "tiny/spdx.py")
    limits = Limits(("code",), 1000, 100)
    shard = Look("look", tmp_path / "out", (candidate,), limits)
    assert look(shard).read == 1
    reading = Reading("00000", tmp_path / "out", tuple(looked(shard)), limits)
    assert read_documents(reading).kept == 1
    (environment / "tiny/spdx.py").write_text("changed = True\n")
    with pytest.raises(InfrastructureError, match="changed"):
        read_documents(reading)


def test_world_names_packages_and_interpreter(environment: Path) -> None:
    text = world(CollectConfig())
    assert "tiny-pkg 1.2" in text.splitlines()
    assert text.startswith("cpython ")


def test_bad_settings_are_one_line(environment: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="general_cap_bytes must not exceed"):
        validate(CollectConfig, {"cap_bytes": 10, "general_cap_bytes": 20})
    with pytest.raises(UserError, match="does not exist"):
        collect(tmp_path / "out", repositories=[str(tmp_path / "nowhere")])
    manifest, _ = collect(tmp_path / "out2", optional_repositories=[str(tmp_path / "nowhere")])
    assert "nowhere" in manifest.metrics["remarks"][0]


def test_a_run_cut_short_goes_on_to_the_same_bytes(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = collect(tmp_path / "undisturbed", shard_bytes=500)

    def cut_short(shard: Reading) -> Counts:
        if shard.name == "00001":
            raise UserError("cut short")
        return read_documents(shard)

    with monkeypatch.context() as patch:
        patch.setattr("codeflow.corpus.collect.read_documents", cut_short)
        with pytest.raises(UserError, match="cut short"):
            collect(tmp_path / "out", shard_bytes=500)
    assert (tmp_path / "out/documents-00000.parquet").exists()
    resumed, _ = collect(tmp_path / "out", shard_bytes=500)
    assert resumed == undisturbed
