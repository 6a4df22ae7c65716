"""Records of WARC and WET files, streamed: pages as they were fetched (response, resource) or as text (conversion).

Fastwarc reads; what is damaged is counted by reason and stepped over: after a bad stretch reading goes on at the next
gzip member or record header. Memory is bounded by `max_record_bytes`, also for compressed bombs.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from codeflow.corpus.web_config import WarcSettings

_PAGES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_MEMBER = b"\x1f\x8b\x08"
_HEADER = b"WARC/1."
_CHUNK_BYTES = 1 << 20
_SNIFF_BYTES = 16_384
_BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
_META = re.compile(rb"<meta[^>]{1,200}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_HTML, _TEXT = ("text/html", "application/xhtml+xml"), ("text/plain",)


@dataclass(frozen=True, slots=True)
class RawPage:
    """One page of a crawl, decoded."""

    url: str
    date: str  # ISO 8601 UTC, when it was fetched
    record_id: str
    kind: str  # "html" or "text"
    content: str
    language: str  # what the crawl says (WET: first of WARC-Identified-Content-Language), or ""


def raw_pages(stream: BinaryIO, settings: WarcSettings, dropped: Counter[str]) -> Iterator[RawPage]:
    """Yield the pages of an open WARC or WET file; count the records that give none in `dropped`, by reason.

    Requests, metadata and the like are not pages and not counted. Raises OSError only where the stream does.
    """
    for record in _records(stream, dropped):
        try:
            page = _page(record, settings)
        except _Refused as refusal:
            dropped[str(refusal)] += 1
        else:
            yield page


class _Refused(Exception):
    """A record that is no page; the argument is the reason."""


def _records(stream: BinaryIO, dropped: Counter[str]) -> Iterator[WarcRecord]:
    """Yield the page records; after a damaged stretch, which counts once, go on at the next one that starts well."""
    stream.seek(0)
    compressed = stream.read(len(_MEMBER)) == _MEMBER
    offset, in_damage = 0, False
    while offset >= 0:
        stream.seek(offset)
        try:
            for record in ArchiveIterator(stream, record_types=_PAGES, parse_http=False):
                dropped["record_damaged"] += in_damage
                in_damage = False
                offset = record.stream_pos + (0 if compressed else record.content_length)
                yield record
            break
        except OSError as error:
            if error.errno is not None:  # the disk or the network, not the content
                raise
        in_damage = True
        offset = _next_record(stream, offset + 1)
    dropped["record_damaged"] += in_damage


def _next_record(stream: BinaryIO, offset: int) -> int:
    """Return the first place from `offset` on that looks like the start of a record, or -1 at the end."""
    stream.seek(offset)
    kept = b""
    while chunk := stream.read(_CHUNK_BYTES):
        data = kept + chunk
        places = [place for sign in (_MEMBER, _HEADER) if (place := data.find(sign)) >= 0]
        if places:
            return offset - len(kept) + min(places)
        offset += len(chunk)
        kept = data[-len(_HEADER) + 1 :]
    return -1


def _page(record: WarcRecord, settings: WarcSettings) -> RawPage:
    headers = record.headers
    kind, charset, encoding = "", "", ""
    if record.record_type == WarcRecordType.response:
        kind, charset, encoding = _http(record, settings)
    elif record.record_type == WarcRecordType.conversion:
        kind, charset = "text", "utf-8"
    else:
        kind = _kind(headers.get("Content-Type") or "", settings)
    if headers.get("WARC-Truncated") and not settings.keep_truncated:
        raise _Refused("record_truncated_by_crawler")
    data = _payload(record, encoding, settings.max_record_bytes)
    date = record.record_date
    language = (headers.get("WARC-Identified-Content-Language") or "").partition(",")[0].strip()
    return RawPage(
        url=headers.get("WARC-Target-URI") or "",
        date=date.strftime("%Y-%m-%dT%H:%M:%SZ") if date else "",
        record_id=(record.record_id or "").strip("<>"),
        kind=kind,
        content=decoded(data, charset, settings.max_replaced_share),
        language=language,
    )


def _http(record: WarcRecord, settings: WarcSettings) -> tuple[str, str, str]:
    """Return (kind, charset, content encoding) of a response. Refuses what is no page."""
    try:
        record.parse_http("transfer")
    except (OSError, ValueError):
        raise _Refused("http_header_damaged") from None
    status = record.http_headers.status_code if record.http_headers is not None else None
    if status is None:
        raise _Refused("http_header_damaged")
    if status != 200:
        raise _Refused("http_status_not_200")
    encoding = (record.http_headers.get("Content-Encoding") or "").strip().lower()
    return _kind(record.http_content_type or "", settings), record.http_charset or "", encoding


def _kind(content_type: str, settings: WarcSettings) -> str:
    mime = content_type.partition(";")[0].strip().lower()
    if mime in _HTML:
        return "html"
    if mime in _TEXT and settings.text_plain:
        return "text"
    raise _Refused("content_type_not_text")


def _payload(record: WarcRecord, encoding: str, max_bytes: int) -> bytes:
    """Return the payload, decompressed where it still is: Common Crawl stores it plain, other crawlers do not."""
    try:
        data = record.reader.read(max_bytes + 1)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _Refused("payload_damaged") from None
    if encoding in ("gzip", "x-gzip", "deflate") and data[:1] in (b"\x1f", b"\x78"):
        try:
            data = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, max_bytes + 1)
        except zlib.error:
            raise _Refused("payload_damaged") from None
    elif encoding in ("br", "zstd", "compress") and b"<" not in data[:_SNIFF_BYTES]:
        raise _Refused("payload_encoding_unknown")
    if len(data) > max_bytes:
        raise _Refused("record_too_large")
    if not data.strip():
        raise _Refused("payload_empty")
    return data


def decoded(data: bytes, charset: str, max_replaced_share: float = 0.01) -> str:
    """Return the text of a page by the first that fits: byte order mark, UTF-8, HTTP header, <meta>, its bytes.

    What is whole UTF-8 is taken for it whatever was said, unless it holds escapes (ISO-2022-JP is ASCII to the eye).
    Names of encodings mean what browsers take them for (latin1 is cp1252). Raises a refusal, counted as
    `encoding_unknown`, when more than `max_replaced_share` of the characters cannot be decoded by any of them.
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    found = _META.search(data[:_SNIFF_BYTES])
    stated = [charset, found[1].decode("ascii") if found else ""]
    names = [name for word in stated if word and (name := map_encoding_to_html5(word, fallback_utf8=False))]
    names = ["utf-8" if name.startswith("utf-16") else name for name in names]  # without a mark it cannot have been
    for name in [*names, "utf-8"] if b"\x1b" in data else ["utf-8", *names]:
        text = _strictly(data, name)
        if text is not None:
            return text
    guess = detect_encoding(data[:_SNIFF_BYTES]) or ""
    if b"\0" in data[:_SNIFF_BYTES]:
        raise _Refused("payload_binary")
    for name in dict.fromkeys([*names, guess, "utf-8"]):
        text = _loosely(data, name)
        if text and text.count("\ufffd") <= max_replaced_share * len(text):
            return text
    raise _Refused("encoding_unknown")


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _loosely(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding, "replace")
    except LookupError:
        return ""
