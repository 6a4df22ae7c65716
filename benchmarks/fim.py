"""Completion splits at the syntax levels against parsing alone, on the standard library's Python files, one core.

Ours: one split per level (function, statement, expression) of every file, from text to prefix, middle and suffix. Peer,
and physical bound: tree-sitter parsing the same texts. Runs alternate; the best of each side counts; every split is
checked to reassemble its text. With `--folders` (checkouts of any repositories) also every language that they hold.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from pathlib import Path

from campaigns._texts import texts_by_language

from codeflow.core.languages import BY_NAME
from codeflow.transform.fim import Source, generator, parser_of
from codeflow.transform.fim_nodes import TABLES

TEXT_BYTES, LANGUAGE_BYTES, ROUNDS = 8_000_000, 2_000_000, 3
LEVELS = ("function", "statement", "expression")
TARGET_MB_PER_SECOND, TARGET_RATIO = 5.0, 2.5


def texts(n_bytes: int) -> list[str]:
    """Return files of this Python's standard library up to `n_bytes`."""
    found: list[str] = []
    size = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or size >= n_bytes:
            continue
        try:
            found.append(path.read_bytes().decode("utf-8"))
        except UnicodeDecodeError:
            continue
        size += len(found[-1].encode())
    return found


def parse(corpus: list[str], language: str = "Python") -> float:
    """Parse every text; return CPU seconds."""
    parser = parser_of(BY_NAME[language].grammar)
    start = time.process_time()
    for text in corpus:
        assert parser.parse(text.encode()).root_node is not None
    return time.process_time() - start


def split(corpus: list[str], language: str = "Python") -> tuple[float, int]:
    """Split every text at every level; return CPU seconds and the number of splits."""
    n = 0
    start = time.process_time()
    for number, text in enumerate(corpus):
        source = Source(text, language)
        for level in LEVELS:
            fim = source.split(level, generator(0, str(number), level), 3, 4000)
            if fim is not None:
                assert len(fim.prefix) + len(fim.middle) + len(fim.suffix) == len(text)
                n += 1
    return time.process_time() - start, n


def by_language(folders: list[Path]) -> dict[str, dict[str, float]]:
    """Return MB/s of splitting and of parsing alone, and the ratio of their times, for each language of the files."""
    found: dict[str, dict[str, float]] = {}
    for language, files in texts_by_language(folders, LANGUAGE_BYTES).items():
        if language not in TABLES:
            continue
        corpus = list(files.values())
        megabytes = sum(len(text.encode()) for text in corpus) / 1e6
        peer = min(parse(corpus, language) for _ in range(2))
        ours = min(split(corpus, language)[0] for _ in range(2))
        found[language] = {
            "ours": round(megabytes / ours, 1),
            "parsing": round(megabytes / peer, 1),
            "ratio": round(ours / peer, 2),
            "megabytes": round(megabytes, 1),
        }
    return found


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(prog="benchmarks fim", description="Completion splits against parsing alone")
    parser.add_argument("--folders", type=Path, nargs="*", default=[])
    folders = parser.parse_args().folders
    corpus = texts(TEXT_BYTES)
    megabytes = sum(len(text.encode()) for text in corpus) / 1e6
    parse(corpus[:50])
    split(corpus[:50])
    ours: list[float] = []
    peer: list[float] = []
    n_splits = 0
    for _ in range(ROUNDS):
        peer.append(parse(corpus))
        seconds, n_splits = split(corpus)
        ours.append(seconds)
    for number, text in enumerate(corpus):  # outside the timing: byte for byte
        fim = Source(text, "Python").split("statement", generator(0, str(number), "statement"), 3, 4000)
        assert fim is None or fim.prefix + fim.middle + fim.suffix == text
    ratio = min(ours) / min(peer)
    result = {
        "benchmark": "fim",
        "unit": "MB/s per core",
        "ours": round(megabytes / min(ours), 2),
        "peer": round(megabytes / min(peer), 2),
        "peer_name": "tree-sitter parsing alone",
        "bound": round(megabytes / min(peer), 2),
        "ratio": round(ratio, 3),
        "ratio_of": "seconds, ours / parsing alone",
        "levels": LEVELS,
        "n_files": len(corpus),
        "n_splits": n_splits,
        "megabytes": round(megabytes, 2),
        "target": {"ours_at_least": TARGET_MB_PER_SECOND, "ratio_at_most": TARGET_RATIO},
        "met": megabytes / min(ours) >= TARGET_MB_PER_SECOND and ratio <= TARGET_RATIO,
    }
    print(json.dumps(result | ({"languages": by_language(folders)} if folders else {})))


if __name__ == "__main__":
    main()
