"""Common Crawl -> documents: one per page, and one per code block of a known language (Code-Flow §2).

One shard of work per WARC or WET file, streamed: a page is in memory, never a file. A finished file is not read again
after a kill. Pages are `Text`, or `Markdown` where code stands between fences; their tags are "n_code_blocks" and
"n_formulas". Blocks have the tag "language_stated" (1: markup names their language, 0: it was guessed).

Not covered: duplicates, natural language and quality; those are operators (`transform/web_text.py`) and later stages.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.corpus.locations import Location, fingerprint, located, opened
from codeflow.corpus.web_config import WebConfig
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards

if TYPE_CHECKING:
    from codeflow.corpus.html_text import CodeBlock
    from codeflow.corpus.warc import RawPage

_SOURCE = "web"


@dataclass(frozen=True, slots=True)
class CrawlFile:
    """One file of a crawl: the work of one shard."""

    name: str
    output: Path
    location: Location
    config: WebConfig

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return self.location.url

    @property
    def n_bytes(self) -> int:
        """Bytes of the file; 0 where its store does not say."""
        return max(0, self.location.n_bytes)


def world(config: WebConfig) -> str:
    """Return what the documents depend on besides the configuration: the crawl's files, their sizes and versions."""
    return fingerprint(located(config.files))


def run(config: WebConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Read the crawl's files into `documents-*.parquet`, one per file.

    Counts: `read` is every page record and every code block; what gives no document is dropped by reason, damaged
    records among them. Raises UserError when no file is named or found, or the packages of the extra are missing.
    """
    missing = [name for name in ("fastwarc", "resiliparse", "trafilatura") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reading crawls needs {', '.join(missing)}; pip install 'codeflow[web]'")
    if not config.files:
        raise UserError("no crawl file is named; set files, as in files='[\"crawl/*.warc.gz\"]'")
    locations = located(config.files)
    shards = [CrawlFile(f"{number:05d}", output, place, config) for number, place in enumerate(locations)]
    counts = run_shards(read_file, shards, output, "web", pool)
    return seal(output, counts, {"n_files": len(locations)})


def read_file(shard: CrawlFile) -> Counts:
    """Write the documents of one crawl file to its shard."""
    from codeflow.core.records import write_records

    reader = _CrawlReader(shard.config)
    path = shard.output / f"documents-{shard.name}.parquet"
    n = write_records(path, reader.documents(shard.location), Document)
    dropped = {reason: n_dropped for reason, n_dropped in sorted(reader.dropped.items()) if n_dropped}
    return Counts(read=n + sum(dropped.values()), kept=n, dropped=dropped, notes=dict(sorted(reader.notes.items())))


class _CrawlReader:
    """Turns pages into documents; counts what it leaves out."""

    def __init__(self, config: WebConfig) -> None:
        self.config = config
        self.dropped: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def documents(self, location: Location) -> Iterator[Document]:
        """Yield the documents of one crawl file, in its order."""
        from codeflow.corpus.warc import raw_pages

        with opened(location) as stream:
            for raw in raw_pages(stream, self.config.warc, self.dropped):
                self.notes[f"pages_{raw.kind}"] += 1
                yield from self._of_html(raw) if raw.kind == "html" else self._page(raw, raw.content, "", {})

    def _of_html(self, raw: RawPage) -> Iterator[Document]:
        from codeflow.corpus.html_text import HtmlRefused, page_text

        try:
            page = page_text(raw.content, self.config.html)
        except HtmlRefused as refusal:
            self.dropped[str(refusal)] += 1
            return
        self.notes.update(page.notes)
        self.notes["formulas"] += page.n_formulas
        tags = {"n_code_blocks": float(len(page.blocks)), "n_formulas": float(page.n_formulas)}
        yield from self._page(raw, page.text, page.licence, {name: n for name, n in tags.items() if n})
        if self.config.code:
            for number, block in enumerate(page.blocks, 1):
                yield from self._block(raw, block, number, page.licence)

    def _page(self, raw: RawPage, text: str, licence: str, tags: dict[str, float]) -> Iterator[Document]:
        if not self.config.pages:
            self.dropped["page_not_wanted"] += 1
        elif len(text := text.strip("\n") + "\n") < self.config.min_page_characters:
            self.dropped["page_too_short"] += 1
        else:
            language = "Markdown" if "```" in text else "Text"
            yield Document(sha256_text(text), text, language, _origin(raw, raw.url, licence), tags)

    def _block(self, raw: RawPage, block: CodeBlock, number: int, licence: str) -> Iterator[Document]:
        text = block.text + "\n"
        if not block.language:
            self.dropped["code_language_unknown"] += 1
        elif len(text) < self.config.min_code_characters or text.count("\n") < self.config.min_code_lines:
            self.dropped["code_too_short"] += 1
        else:
            origin = _origin(raw, f"{raw.url}#code-{number}", licence)
            tags = {"language_stated": float(block.stated)}
            yield Document(sha256_text(text), text, block.language, origin, tags)


def _origin(raw: RawPage, path: str, licence: str) -> Origin:
    try:
        host = urlsplit(raw.url).hostname or ""
    except ValueError:  # a URL that is none, such as http://[
        host = ""
    return Origin(_SOURCE, host, raw.record_id, path, licence, raw.date)
