"""Records of crawls: every page is found, everything else has its reason, damage costs only what it hit."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from collections import Counter

import pytest

pytest.importorskip("fastwarc")

from codeflow.corpus.warc import RawPage, raw_pages
from codeflow.corpus.web_config import WarcSettings
from tests.corpus.crawls import record

OK = "HTTP/1.1 200 OK\r\nContent-Type: text/html"
PLAIN_TEXT = "HTTP/1.1 200 OK\r\nContent-Type: text/plain"
ZIPPED = gzip.compress(b"x" * 10**6, mtime=0)


def read(data: bytes, **settings: object) -> tuple[list[RawPage], dict[str, int]]:
    dropped: Counter[str] = Counter()
    pages = list(raw_pages(io.BytesIO(data), WarcSettings.model_validate(settings), dropped))
    return pages, {reason: n for reason, n in dropped.items() if n}


def urls(data: bytes) -> tuple[list[str], dict[str, int]]:
    pages, dropped = read(data)
    return [page.url for page in pages], dropped


@pytest.mark.parametrize("compress", [True, False])
def test_what_a_page_carries(compress: bool) -> None:
    head = "WARC-Identified-Content-Language: deu,eng\r\n"
    data = b"".join(
        [
            record(b"software: x", kind="warcinfo", http=None, compress=compress),
            record(b"GET / HTTP/1.1\r\n\r\n", kind="request", http=None, compress=compress),
            record("<p>Grüße</p>".encode(), "https://a.org/", compress=compress),
            record(b"Plain words", "https://b.org/", "conversion", None, head, compress),
            record(b"code", "https://c.org/x", http="HTTP/1.1 200 OK\r\nContent-Type: text/plain", compress=compress),
            record(b"stands", "https://d.org/", "resource", None, compress=compress),
            record(b"k: v", kind="metadata", http=None, compress=compress),
        ]
    )
    pages, dropped = read(data)
    assert [(page.url, page.kind, page.content, page.language) for page in pages] == [
        ("https://a.org/", "html", "<p>Grüße</p>", ""),
        ("https://b.org/", "text", "Plain words", "deu"),
        ("https://c.org/x", "text", "code", ""),
        ("https://d.org/", "text", "stands", ""),
    ]
    assert {page.date for page in pages} == {"2024-05-06T07:08:09Z"}
    assert pages[0].record_id == "urn:uuid:00000000-0000-0000-0000-000000000014"
    assert dropped == {}


@pytest.mark.parametrize(
    ("data", "settings", "reason"),
    [
        (record(b"x", http="HTTP/1.1 404 Not Found\r\nContent-Type: text/html"), {}, "http_status_not_200"),
        (record(b"x", http="nonsense"), {}, "http_header_damaged"),
        (record(b"x", http="HTTP/1.1 200 OK\r\nContent-Type: image/png"), {}, "content_type_not_text"),
        (record(b"x", http="HTTP/1.1 200 OK\r\nX: y"), {}, "content_type_not_text"),
        (record(b"x", http=PLAIN_TEXT), {"text_plain": False}, "content_type_not_text"),
        (record(b" \n"), {}, "payload_empty"),
        (record(b"x" * 101), {"max_record_bytes": 100}, "record_too_large"),
        (record(ZIPPED, http=f"{OK}\r\nContent-Encoding: gzip"), {"max_record_bytes": 5000}, "record_too_large"),
        (record(ZIPPED[:15] + b"\xff" * 20, http=f"{OK}\r\nContent-Encoding: gzip"), {}, "payload_damaged"),
        (record(b"\x8b\x80\x01\x02\xff", http=f"{OK}\r\nContent-Encoding: br"), {}, "payload_encoding_unknown"),
        (record(b"x", headers="WARC-Truncated: length\r\n"), {"keep_truncated": False}, "record_truncated_by_crawler"),
        (record(b"\x00\x81\xfe\x00" * 100), {}, "payload_binary"),
    ],
)  # fmt: skip
def test_reasons(data: bytes, settings: dict[str, object], reason: str) -> None:
    after = record(b"<p>after</p>", "https://after.org/")
    pages, dropped = read(data + after, **settings)
    assert dropped == {reason: 1}
    assert [page.url for page in pages] == ["https://after.org/"]


@pytest.mark.parametrize(
    ("payload", "http"),
    [
        (gzip.compress(b"<p>page</p>", mtime=0), f"{OK}\r\nContent-Encoding: gzip"),
        (zlib.compress(b"<p>page</p>"), f"{OK}\r\nContent-Encoding: deflate"),
        (b"<p>page</p>", f"{OK}\r\nContent-Encoding: gzip"),  # Common Crawl unpacks and leaves the header
        (b"<p>page</p>", f"{OK}\r\nContent-Encoding: br"),
        (b"5\r\n<p>pa\r\n6\r\nge</p>\r\n0\r\n\r\n", f"{OK}\r\nTransfer-Encoding: chunked"),
    ],
)
def test_encodings_of_content(payload: bytes, http: str) -> None:
    pages, dropped = read(record(payload, http=http))
    assert [page.content for page in pages] == ["<p>page</p>"]
    assert dropped == {}


@pytest.mark.parametrize(
    ("payload", "charset"),
    [
        ("Übergröße".encode(), ""),
        ("Übergröße".encode("cp1252"), "; charset=iso-8859-1"),
        ("“Übergröße”".encode("cp1252"), "; charset=latin1"),
        ("Übergröße".encode(), "; charset=ascii"),
        ("Übergröße".encode(), "; charset=no-such-thing"),
        ("\ufeffÜbergröße".encode("utf-16-le"), "; charset=utf-8"),
        ("\ufeffÜbergröße".encode(), ""),
        ('<meta charset="koi8-r">Привет, мир'.encode("koi8-r"), ""),
        ("<meta http-equiv=x content='text/html; charset=Shift_JIS'>これはテスト".encode("shift_jis"), ""),
        ("Это проверка текста без указания кодировки, достаточно длинная.".encode("cp1251"), ""),
        ("Ю windows-1251 лжёт".encode(), "; charset=utf-8"),
    ],
)
def test_encodings_of_text(payload: bytes, charset: str) -> None:
    (page,), _ = read(record(payload, http=f"{OK}{charset}"))
    assert any(word in page.content for word in ("Übergröße", "Привет, мир", "これはテスト", "Это проверка", "лжёт"))


GOOD = [record(b"<p>page %d</p>" % n * 40, f"https://good.org/{n}") for n in range(4)]
PLAIN = [record(b"<p>page %d</p>" % n * 40, f"https://good.org/{n}", compress=False) for n in range(4)]


@pytest.mark.parametrize(
    ("data", "numbers", "n_damaged"),
    [
        (b"".join(GOOD), [0, 1, 2, 3], 0),
        (GOOD[0] + b"garbage" * 40 + GOOD[1], [0, 1], 1),
        (GOOD[0] + GOOD[1][:40] + b"\xff" * 20 + GOOD[1][60:] + GOOD[2] + GOOD[3], [0, 2, 3], 1),
        (b"garbage" + GOOD[0], [0], 1),
        (GOOD[0] + b"\x1f\x8b\x08" + b"x" * 50 + GOOD[1] + b"\x1f\x8b\x08nothing" + GOOD[2], [0, 1, 2], 2),
        (PLAIN[0] + b"garbage\r\n\r\n" * 9 + PLAIN[1], [0, 1], 1),
        (PLAIN[0] + PLAIN[1].replace(b"Content-Length", b"Content-Langth") + PLAIN[2], [0, 2], 1),
        (b"", [], 0),
        (b"no crawl at all" * 1000, [], 1),
    ],
)
def test_damage_costs_only_what_it_hit(data: bytes, numbers: list[int], n_damaged: int) -> None:
    found, dropped = urls(data)
    assert [url for url in found if url.startswith("https://good.org/")] == [f"https://good.org/{n}" for n in numbers]
    assert dropped.get("record_damaged", 0) == n_damaged


def test_a_failing_disk_is_not_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 2:
                raise OSError(5, "the disk failed")
            return super().read(size)

    with pytest.raises(OSError, match="the disk failed"):
        list(raw_pages(Failing(GOOD[0]), WarcSettings(), Counter()))


def mutated(data: bytes, random_numbers: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(random_numbers.randint(1, 8)):
        place = random_numbers.randrange(len(changed))
        match random_numbers.randrange(4):
            case 0:
                changed[place] = random_numbers.randrange(256)
            case 1:
                del changed[place : place + random_numbers.randint(1, 60)]
            case 2:
                changed[place:place] = random_numbers.randbytes(random_numbers.randint(1, 60))
            case _:
                changed[place:place] = changed[place // 2 : place // 2 + random_numbers.randint(1, 200)]
        if not changed:
            break
    return bytes(changed)


@pytest.mark.parametrize("seed", range(150))
def test_mutated_files_neither_crash_nor_hang(seed: int) -> None:
    random_numbers = random.Random(seed)
    for parts in (GOOD, PLAIN):
        pages, dropped = read(mutated(b"".join(parts), random_numbers))
        assert len(pages) + sum(dropped.values()) <= 16
