"""A WARC file to cleaned text, beside fastwarc's iteration and resiliparse's parse and extraction alone (the bound).

The crawl is made here: one page per module of the running interpreter's standard library, its docstrings as prose,
some of its code in highlighted blocks, lists, and around them the navigation, scripts, styles and footer that sites
have; 20 MB of HTML by default (`warc_5` makes 5 MB). One process, one core, CPU seconds; ours and the bounds alternate
over three rounds, and the best of each is taken, since other work on the machine only ever adds time. Pages that need
trafilatura are measured apart. Prints one JSON line.
"""

from __future__ import annotations

import ast
import gzip
import html
import io
import json
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from codeflow.core.types import Document, Origin
from codeflow.corpus.html_text import page_text
from codeflow.corpus.warc import raw_pages
from codeflow.corpus.web_config import WarcSettings
from codeflow.transform.clean_web import CleanWebConfig
from codeflow.transform.pipeline import apply

_ROUNDS = 3
_HARD_PAGES = 40
_FRAME_LINKS = 60
_WEB_OPERATORS = ("web_lines", "natural_language", "web_repetition", "web_quality")


def module_pages(n_bytes: int) -> Iterator[bytes]:
    """Yield pages about modules of the standard library until `n_bytes` of HTML are made."""
    root = Path(sysconfig.get_path("stdlib"))
    links = "".join(
        f'<li class="nav-item"><a href="/page/{n}" title="go">Chapter {n}</a></li>' for n in range(_FRAME_LINKS)
    )
    script = (
        "<script>" + "window.dataLayer = window.dataLayer || []; function track(e) { return e; }\n" * 120 + "</script>"
    )
    style = "<style>" + ".content > .box { margin: 0 auto; padding: 4px; color: #123456; }\n" * 120 + "</style>"
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or n_bytes <= 0:
            continue
        source = path.read_bytes().decode("utf-8", "replace")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        body = "".join(_sections(tree, source))
        if body:
            page = (
                f"<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>{path.stem}</title>"
                f"{style}{script}</head>"
                f'<body><nav class="menu"><ul>{links}</ul></nav><main><h1>{path.stem}</h1>{body}</main>'
                f"<footer><ul>{links}</ul><p>All rights reserved.</p></footer>{script}</body></html>"
            ).encode()
            n_bytes -= len(page)
            yield page


def _sections(tree: ast.Module, source: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) or not (text := ast.get_docstring(node)):
            continue
        name = getattr(node, "name", "module")
        paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
        yield f'<section class="doc"><h2 id="{name}"><a href="#{name}">{name}</a></h2>{paragraphs}'
        if isinstance(node, ast.FunctionDef):
            code = html.escape(ast.get_source_segment(source, node) or "")
            code = code.replace("def ", '<span class="k">def</span> ').replace(
                "return", '<span class="k">return</span>'
            )
            arguments = "".join(f"<li><code>{item.arg}</code>, an argument of it</li>" for item in node.args.args)
            yield f'<ul>{arguments}</ul><div class="highlight-python"><pre><span></span>{code}</pre></div>'
        yield "</section>"


def crawl_file(pages: list[bytes]) -> bytes:
    """Return a WARC file of the pages, one gzip member per record."""
    out = io.BytesIO()
    for number, page in enumerate(pages):
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: https://example.org/{number}\r\n"
            f"WARC-Date: 2024-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http) + len(page)}\r\n\r\n"
        )
        out.write(gzip.compress(head.encode() + http + page + b"\r\n\r\n", 6, mtime=0))
    return out.getvalue()


def texts(crawl: bytes) -> list[Document]:
    """Return the pages of a crawl as documents, as the stage `web` makes them."""
    found = []
    for raw in raw_pages(io.BytesIO(crawl), WarcSettings(), Counter()):
        page = page_text(raw.content)
        found.append(Document(raw.url, page.text, "Markdown", Origin("web", "", "", raw.url, "", raw.date)))
    return found


def clean(documents: list[Document]) -> int:
    """Apply the web operators; return how many documents stay."""
    operators = tuple(operator for operator in CleanWebConfig().operators() if operator.name in _WEB_OPERATORS)
    return sum(apply(document, operators)[1] is None for document in documents)


def iterate(crawl: bytes) -> int:
    """Read every payload with fastwarc and do nothing with it."""
    records = ArchiveIterator(io.BytesIO(crawl), record_types=WarcRecordType.response)
    return sum(len(record.reader.read()) for record in records)


def extract(pages: list[bytes]) -> int:
    """Parse and extract with resiliparse alone."""
    trees = (HTMLTree.parse_from_bytes(page) for page in pages)
    return sum(len(extract_plain_text(tree, preserve_formatting=True, main_content=True)) for tree in trees)


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 20
    pages = list(module_pages(megabytes * 1_000_000))
    crawl = crawl_file(pages)
    n_mb = sum(map(len, pages)) / 1e6
    documents = texts(crawl)
    n_kept = clean(documents)  # imports and the language model, too
    hard = [page.replace(b"<main>", b"<div class=sidebar id=sidebar>").replace(b"</main>", b"</div>") for page in pages]
    hard = hard[:: max(1, len(hard) // _HARD_PAGES)]
    works: dict[str, Callable[[], object]] = {
        "text": lambda: texts(crawl),
        "operators": lambda: clean(documents),
        "fastwarc": lambda: iterate(crawl),
        "resiliparse": lambda: extract(pages),
    }
    best = dict.fromkeys(works, float("inf"))
    for _ in range(_ROUNDS):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    extractors = Counter(page_text(page.decode()).extractor for page in hard)
    hard_seconds = seconds(lambda: [page_text(page.decode()) for page in hard])
    bound = best["fastwarc"] + best["resiliparse"]
    result = {
        "benchmark": "warc",
        "n_pages": len(pages),
        "mb": round(n_mb, 2),
        "text_share": round(sum(len(document.text) for document in documents) / 1e6 / n_mb, 3),
        "n_kept": n_kept,
        "n_for_trafilatura": sum(page_text(page.decode()).notes.get("pages_for_trafilatura", 0) for page in pages),
        "ours": round(n_mb / (best["text"] + best["operators"]), 2),
        "ours_text_only": round(n_mb / best["text"], 2),
        "unit": "MB of HTML per second and core",
        "bound": round(n_mb / bound, 2),
        "bound_is": "fastwarc iteration alone + resiliparse alone",
        "ratio": round(bound / (best["text"] + best["operators"]), 3),
        "ratio_text_only": round(bound / best["text"], 3),
        "fastwarc_alone": round(n_mb / best["fastwarc"], 2),
        "resiliparse_alone": round(n_mb / best["resiliparse"], 2),
        "n_hard_pages": extractors["trafilatura"],
        "hard_pages": round(sum(map(len, hard)) / 1e6 / hard_seconds, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
