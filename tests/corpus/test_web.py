"""The stage `web`: pages and code blocks of crawls as documents, counted, resumed, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastwarc")
pytest.importorskip("resiliparse")

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document
from codeflow.corpus import web
from codeflow.corpus.web_config import WebConfig
from codeflow.execute import local
from tests.corpus.crawls import PROSE, page, record

CODE = "<pre><code class=language-go>" + "func f(n int) int { return n + 1 }\n" * 4 + "</code></pre>"
LICENCE = '<a rel=license href="https://creativecommons.org/licenses/by/4.0/">CC</a>'


@pytest.fixture
def crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two crawl files: one of responses, one of extracted texts."""
    monkeypatch.setattr(local, "default_workers", lambda: 1)
    folder = tmp_path / "crawl"
    folder.mkdir()
    math = "<p><math alttext='x^2'></math></p>"
    responses = [
        record(page(PROSE + CODE + LICENCE), "https://go.example.org/guide"),
        record(page(PROSE + math + "<pre>a = 1\nb = 2</pre><pre class=lang-sh>ls</pre>"), "http://[broken"),
        record(page("<p>stub</p>"), "https://short.org/"),
        record(b"<div>" * 5000, "https://deep.org/"),
        record(b"x", http="HTTP/1.1 500 Error\r\nContent-Type: text/html"),
    ]
    (folder / "a.warc.gz").write_bytes(b"".join(responses) + b"\x1f\x8b\x08 damaged")
    (folder / "b.warc.wet.gz").write_bytes(record(b"Words in a row. " * 20, "https://wet.org/", "conversion", None))
    return folder


def read(crawl: Path, output: Path, **fields: object) -> tuple[Manifest, list[Document]]:
    config = validate(WebConfig, {"files": [f"{crawl}/*.gz"], **fields})
    begin(output, "documents", config, {}, "k")
    manifest = web.run(config, {}, output)
    return manifest, list(read_shards(output, "documents", Document))


def test_documents_origins_and_counts(crawl: Path, tmp_path: Path) -> None:
    manifest, documents = read(crawl, tmp_path / "out")
    assert [(d.origin.repository, d.origin.path, d.language, d.origin.licence) for d in documents] == [
        ("go.example.org", "https://go.example.org/guide", "Markdown", "CC-BY-4.0"),
        ("go.example.org", "https://go.example.org/guide#code-1", "Go", "CC-BY-4.0"),
        ("", "http://[broken", "Text", ""),
        ("wet.org", "https://wet.org/", "Text", ""),
    ]
    assert documents[0].tags == {"n_code_blocks": 1}
    assert documents[1].tags == {"language_stated": 1}
    assert documents[1].text == "func f(n int) int { return n + 1 }\n" * 4
    assert documents[2].tags == {"n_code_blocks": 1, "n_formulas": 1}
    assert "$x^2$" in documents[2].text
    assert {d.origin.fetched_at for d in documents} == {"2024-05-06T07:08:09Z"}
    assert {d.origin.source for d in documents} == {"web"}
    assert all(d.id == sha256_text(d.text) and str(tmp_path) not in repr(d) for d in documents)
    assert manifest.counts.dropped == {
        "code_too_short": 1,
        "html_nested_too_deeply": 1,
        "http_status_not_200": 1,
        "page_too_short": 1,
        "record_damaged": 1,
    }
    assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values())
    assert manifest.counts.notes == {"formulas": 1, "pages_html": 4, "pages_text": 1}


def test_pages_or_code_only(crawl: Path, tmp_path: Path) -> None:
    manifest, documents = read(crawl, tmp_path / "code", pages=False)
    assert [d.language for d in documents] == ["Go"]
    assert manifest.counts.dropped["page_not_wanted"] == 4
    _, documents = read(crawl, tmp_path / "pages", code=False)
    assert [d.language for d in documents] == ["Markdown", "Text", "Text"]


def test_same_bytes_for_any_number_of_workers_and_after_a_stop(
    crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = read(crawl, tmp_path / "one")

    def cut_short(shard: web.CrawlFile) -> Counts:
        if shard.name == "00001":
            raise UserError("cut short")
        return read_file(shard)

    read_file = web.read_file
    with monkeypatch.context() as patch:
        patch.setattr(web, "read_file", cut_short)
        with pytest.raises(UserError, match="cut short"):
            read(crawl, tmp_path / "out")
    (crawl / "a.warc.gz").rename(crawl / "moved")  # what is done is not read again
    (crawl / "a.warc.gz").write_bytes(b"")
    resumed, _ = read(crawl, tmp_path / "out")
    assert resumed == undisturbed
    (crawl / "moved").rename(crawl / "a.warc.gz")
    monkeypatch.setattr(local, "default_workers", lambda: 2)
    assert read(crawl, tmp_path / "two")[0] == undisturbed


def test_the_world_and_what_is_wrong_with_it(crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(web.world(WebConfig(files=(str(crawl),))).splitlines()) == 2
    with pytest.raises(UserError, match="no crawl file is named"):
        read(crawl, tmp_path / "out", files=[])
    with pytest.raises(UserError, match="no file at"):
        read(crawl, tmp_path / "out", files=["/nowhere/*.gz"])
    monkeypatch.setattr(web.importlib.util, "find_spec", lambda name: None if name == "fastwarc" else object())
    with pytest.raises(UserError, match=r"needs fastwarc; pip install 'codeflow\[web\]'"):
        read(crawl, tmp_path / "out")
