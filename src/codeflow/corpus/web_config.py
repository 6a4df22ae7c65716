"""Configuration of what is read from web crawls. Importing it needs none of the packages that do the work."""

from __future__ import annotations

from pydantic import Field

from codeflow.core.config import Config


class WarcSettings(Config):
    """Which records are read."""

    max_record_bytes: int = 10_000_000  # of a payload, uncompressed; Common Crawl itself cuts at 1 MiB (5 since 2025)
    keep_truncated: bool = True  # pages that the crawler cut: their beginning is sound
    text_plain: bool = True  # take text/plain responses as pages too
    max_replaced_share: float = 0.01  # of undecodable characters, before a page counts as wrongly decoded


class HtmlSettings(Config):
    """How pages become text. Bounds are ours unless a source is named."""

    main_content: bool = True  # without navigation, headers, footers, cookie notices, as resiliparse sees them
    max_depth: int = 1_000  # of nested elements; browsers stop at 512, and extraction is quadratic in it
    fence_code: bool = True  # False: code stands in the text without ``` around it
    hard_max_characters: int = 400  # a page of which less comes out ...
    hard_min_share: float = 0.25  # ... and less than this share of its visible text outside frames goes to trafilatura
    hard_max_html_characters: int = 2_000_000  # trafilatura takes seconds for larger ones
    list_max_link_share: float = 0.5  # lists with more of their characters in links are navigation


class WebConfig(Config):
    """Which crawl files are read, and what of them becomes documents."""

    files: tuple[str, ...] = ()  # WARC or WET files: paths, globs, folders or URLs of any fsspec protocol
    pages: bool = True  # one document per page
    code: bool = True  # one document per code block of a known language
    min_page_characters: int = Field(default=200, ge=1)  # below that a page is a stub; ours
    min_code_characters: int = Field(default=80, ge=1)  # a block of commands or one call teaches little; ours
    min_code_lines: int = Field(default=3, ge=1)
    warc: WarcSettings = WarcSettings()
    html: HtmlSettings = HtmlSettings()
