"""WARC and WET files that tests write themselves, record by record."""

from __future__ import annotations

import gzip


def record(
    payload: bytes,
    url: str = "https://example.org/page",
    kind: str = "response",
    http: str | None = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8",
    headers: str = "",
    compress: bool = True,
) -> bytes:
    """Return one record; `http` is the response's header without its end, None for records without."""
    block = payload if http is None else f"{http}\r\n\r\n".encode() + payload
    content_type = "text/plain" if http is None else "application/http; msgtype=response"
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
        f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{len(url):012d}>\r\nContent-Type: {content_type}\r\n"
        f"{headers}Content-Length: {len(block)}\r\n\r\n"
    )
    data = head.encode() + block + b"\r\n\r\n"
    return gzip.compress(data, mtime=0) if compress else data


def page(body: str, head: str = "") -> bytes:
    """Return a page around `body`, with the frame that sites put around their content."""
    return (
        f"<!DOCTYPE html><html lang=en><head><meta charset=utf-8><title>Title</title>{head}</head><body>"
        "<nav><ul><li><a href=/>Home</a></li><li><a href=/about>About this site</a></li></ul></nav>"
        f"<main>{body}</main><footer>Copyright notice of the site</footer></body></html>"
    ).encode()


PROSE = "<p>" + "A sentence of prose that explains something in plain words. " * 5 + "</p>"
