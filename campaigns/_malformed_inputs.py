"""Whole inputs of every format, from which the campaign `malformed` makes damaged ones."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

VERBS_OF = {
    "crawl (WARC)": "web",
    "crawl (WARC, gzip)": "web",
    "page (HTML)": "files",
    "page in a crawl (HTML)": "web",
    "git history": "history",
    "git head": "collect",
    "notebook": "files",
    "Parquet": "files",
    "JSON lines": "files",
    "JSON lines, gzip": "files",
    "source file": "files",
    "PDF-like": "files",
}
SUFFIXES = {"source file": (".py", ".js", ".c", ".md", ".h", ".rs"), "PDF-like": (".py", ".txt", ".ipynb", ".parquet")}
HOSTILE = (
    b"\x00",
    b"\x00" * 4096,
    b"\xff\xfe",
    b"\xfe\xff\x00",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",  # a lone surrogate
    b"\xf4\x90\x80\x80",  # beyond Unicode
    b"\xc0\x80",
    b"[" * 5000,
    b'{"a":' * 3000,
    b"(" * 3000,
    b"<div>" * 3000,
    b"<pre><code>",
    b"<!--",
    b"]]>",
    b"&#99999999999;",
    b"-1",
    b"1e999",
    b"NaN",
    b"99999999999999999999999",
    b"\r",
    b"\n\n\r\n",
    b"\r\nContent-Length: 99999999999\r\n",
    b"WARC/1.0\r\n",
    b"PAR1",
    b"\x1f\x8b\x08\x00",
    b"%PDF-1.7\n1 0 obj\n<< /Length 0 >>\nstream\n",
    "‮\u0301\u200b".encode() * 500,
    b"A" * 100_000,
)
_PROSE = "A sentence of prose that explains something in plain words. " * 8
_PROGRAM = "def total(values):\n    result = 0\n    for value in values:\n        result += value\n    return result\n"


def whole_inputs(folder: Path) -> None:
    """Write whole inputs of every format of `VERBS_OF`: files, or folders for repositories."""
    for form in VERBS_OF:
        (folder / form).mkdir(parents=True)
    pages = _pages()
    for n, part in enumerate((pages, pages[:1], pages[1:])):
        plain, packed = (
            b"".join(_record(page, f"https://example.org/{i}", z) for i, page in enumerate(part)) for z in (0, 1)
        )
        (folder / "crawl (WARC)" / f"{n}.warc").write_bytes(plain)
        (folder / "crawl (WARC, gzip)" / f"{n}.warc.gz").write_bytes(packed)
    for n, page in enumerate(pages):
        (folder / "page (HTML)" / f"{n}.html").write_bytes(page)
        (folder / "page in a crawl (HTML)" / f"{n}.warc").write_bytes(_record(page, f"https://example.org/{n}", 0))
    _tables(folder)
    _notebooks(folder / "notebook")
    _sources(folder / "source file")
    for n in range(2):
        (folder / "PDF-like" / f"{n}.pdf").write_bytes(_pdf(n))
    for form in ("git history", "git head"):
        for packed in (False, True):
            _repository(folder / form / ("packed" if packed else "loose"), packed)


def _pages() -> list[bytes]:
    code = _PROGRAM.replace("<", "&lt;")
    bodies = (
        f"<h1>Sums</h1><p>{_PROSE}</p><pre><code class=language-python>{code}</code></pre><ul><li>one<li>two</ul>",
        f"<table><tr><td>{_PROSE}</td></tr></table><math><mi>x</mi><mo>=</mo><mn>2</mn></math><p>$x^2$ {_PROSE}</p>",
        f"<div><p>{_PROSE}<br>{_PROSE}</p><script>var a = '</div>';</script><textarea>{_PROSE}</textarea></div>",
    )
    head = "<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>Page</title></head><body><main>"
    return [f"{head}{body}</main></body></html>".encode() for body in bodies]


def _record(page: bytes, url: str, packed: int) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + page
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    data = head.encode() + block + b"\r\n\r\n"
    return gzip.compress(data, mtime=0) if packed else data


def _tables(folder: Path) -> None:
    rows = [
        {
            "content": _PROGRAM * (n + 1) + f"# {n}\n",
            "path": f"source/file{n}.py",
            "repo_name": "owner/project",
            "detected_licenses": ["MIT"],
            "language": "Python",
            "size": 100 + n,
            "is_generated": False,
        }
        for n in range(20)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (folder / "JSON lines" / "rows.jsonl").write_bytes(lines)
    (folder / "JSON lines" / "texts.jsonl").write_bytes(
        b"".join(json.dumps({"text": _PROSE, "id": n}).encode() + b"\n" for n in range(10))
    )
    (folder / "JSON lines, gzip" / "rows.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    table = pa.Table.from_pylist(rows)
    for codec in ("none", "snappy", "zstd"):
        pq.write_table(table, folder / "Parquet" / f"{codec}.parquet", compression=codec, row_group_size=7)


def _notebooks(folder: Path) -> None:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Sums\n", _PROSE], "id": "a"},
        {
            "cell_type": "code",
            "metadata": {},
            "execution_count": 1,
            "source": ["%matplotlib inline\n", *_PROGRAM.splitlines(keepends=True)],
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["3\n"]}],
            "id": "b",
        },
    ]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}}
    whole = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (folder / "new.ipynb").write_text(json.dumps(whole, indent=1))
    old_cells = [{"cell_type": "code", "language": "python", "input": _PROGRAM, "outputs": [], "metadata": {}}]
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": old_cells}]}
    (folder / "old.ipynb").write_text(json.dumps(old))


def _sources(folder: Path) -> None:
    library = Path(sysconfig.get_path("stdlib"))
    for n, name in enumerate(("this.py", "colorsys.py", "keyword.py", "bisect.py", "sched.py")):
        data = (library / name).read_bytes()
        (folder / f"{n}.py").write_bytes(data)
        text = data.decode() + "# Grüße, 世界\n"
        for encoding in ("utf-16", "utf-32", "shift-jis", "latin-1"):
            (folder / f"{n}-{encoding}.py").write_bytes(text.encode(encoding, "replace"))
    (folder / "long.js").write_bytes(b"var a=" + b"[1,2,3]," * 2000 + b"0;")
    (folder / "empty.py").write_bytes(b"")


def _pdf(n: int) -> bytes:
    body = b"BT /F1 12 Tf 72 720 Td (" + _PROSE.encode() + b") Tj ET\n" + bytes(range(256)) * (n * 4)
    head = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\n"
    return head + b"4 0 obj\n<< /Length %d >>\nstream\n" % len(body) + body + b"endstream\nendobj\n%%EOF\n"


def _repository(folder: Path, packed: bool) -> None:
    """Write a repository of eight commits, whose objects lie in a pack or each in a file."""
    when = "2024-01-0{} 10:00:00 +0000"
    names = {f"GIT_{who}_{what}": "Someone" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

    def git(*arguments: str, **more: str) -> None:
        command = ["git", "-C", str(folder), "-c", "gc.auto=0", *arguments]
        subprocess.run(command, check=True, capture_output=True, env={**environment, **more})

    folder.mkdir(parents=True)
    git("init", "-q", "-b", "main")
    for n in range(1, 9):
        (folder / "sum.py").write_text(_PROGRAM * n)
        (folder / f"file{n % 3}.py").write_text(f"VALUE = {n}\n" * (n * 10))
        (folder / "data.bin").write_bytes(bytes(range(256)) * n)
        git("add", "-A")
        dates = {"GIT_AUTHOR_DATE": when.format(n), "GIT_COMMITTER_DATE": when.format(n)}
        git("commit", "-q", "-m", f"Change {n}\n\nBecause of {n}.", **dates)
    if packed:
        git("repack", "-adq")
