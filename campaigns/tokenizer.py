"""Encode real files and odd strings with tiktoken, as we do, and with Hugging Face tokenizers; ids must be equal.

Every file that is UTF-8 of the folders you name (checkouts of any repositories) and of the standard library; strings
from hypothesis, from an alphabet of troublemakers and spliced out of those files. Each text must also decode to itself.
Two tokenizers are trained on a part of the files: of the small vocabulary and of the real recipes' (or of as many words
as the files give).

    python -m campaigns tokenizer --folders ~/checkouts --strings 100000 --table docs/campaigns/tokenizer.md
"""

from __future__ import annotations

import argparse
import platform
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from itertools import chain, islice
from pathlib import Path

import tiktoken
import tokenizers

from campaigns._texts import sources, texts_by_language
from codeflow.tokens.special import SPECIAL_IDS, SPECIAL_TOKENS
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train

VOCABULARIES = (8192, 76_800)
TRAIN_BYTES_PER_LANGUAGE, BATCH_TEXTS = 3_000_000, 200
TROUBLE = (
    *"ab_AZ09 \t\r\n.(){}[]:;'\"<|>/\\#@é中ß한😀🏽١४",
    *"\u0301\u00a0\u2028\u2029\u0085\x00\x0b\x0c\x1c\ufeff\u200b\u200d\U0010ffff",
    *("  ", "\n\n", "\r\n", "\n    ", "camelCase", "snake_case", "HTTPServer", "'s", "don't", "0x1F", "1e10"),
    *SPECIAL_TOKENS,
)


@dataclass
class Row:
    """What one group of texts gave."""

    texts: int = 0
    n_bytes: int = 0
    tokens: list[int] = field(default_factory=lambda: [0] * len(VOCABULARIES))
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Pair:
    """The same tokenizer in both programs."""

    ours: Tokenizer
    theirs: tokenizers.Tokenizer

    @classmethod
    def trained(cls, texts: list[str], vocab_size: int) -> Pair:
        """Train and load on both sides; what looks like a special token in a text is text."""
        trained = train(texts, TokenizerConfig(vocab_size=vocab_size))
        theirs = tokenizers.Tokenizer.from_str(trained)
        theirs.encode_special_tokens = True
        return cls(Tokenizer(trained), theirs)

    def differences(self, texts: list[str]) -> tuple[list[str], int]:
        """Return what differs on `texts`, and the number of tokens."""
        ids = self.ours.encode_batch(texts)
        found = []
        for text, mine, other in zip(texts, ids, self.theirs.encode_batch(texts), strict=True):
            if mine != other.ids:
                found.append(f"ids of {text[:60]!r}")
            if self.ours.decode_bytes(mine) != text.encode():
                found.append(f"decoding of {text[:60]!r}")
            if set(mine) & set(SPECIAL_IDS.values()):
                found.append(f"special tokens out of {text[:60]!r}")
        return found, sum(map(len, ids))


def check(pairs: list[Pair], texts: Iterator[str], row: Row) -> Row:
    """Compare both programs on all texts, a batch at a time."""
    while batch := list(islice(texts, BATCH_TEXTS)):
        row.texts += len(batch)
        row.n_bytes += sum(len(text.encode()) for text in batch)
        for number, pair in enumerate(pairs):
            found, n_tokens = pair.differences(batch)
            row.tokens[number] += n_tokens
            row.differences += [f"vocabulary {pair.ours.vocab_size:,}: {difference}" for difference in found]
    return row


def hypothesis_texts(n_texts: int, seed: int) -> Iterator[str]:
    """Yield texts of hypothesis' own generator, which likes the edges of Unicode; equal for equal seeds."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    from hypothesis import strategies as st

    found: list[str] = []
    texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(TROUBLE), max_size=30).map("".join))

    @seeded(seed)
    @settings(
        max_examples=-(-n_texts // 50),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(texts, min_size=50, max_size=50))
    def collect(drawn: list[str]) -> None:
        found.extend(drawn)

    collect()
    yield from islice(found, n_texts)


def random_texts(n_texts: int, seed: int) -> Iterator[str]:
    """Yield random mixtures of troublemakers and of any characters of Unicode."""
    rng = random.Random(seed)
    for _ in range(n_texts):
        parts = [rng.choice(TROUBLE) if rng.random() < 0.8 else _character(rng) for _ in range(rng.randrange(60))]
        yield "".join(parts)


def _character(rng: random.Random) -> str:
    point = rng.randrange(0x110000 - 0x800)
    return chr(point if point < 0xD800 else point + 0x800)


def spliced_texts(n_texts: int, files: list[str], seed: int) -> Iterator[str]:
    """Yield two slices of real files with something in between, cut anywhere."""
    rng = random.Random(seed)
    for _ in range(n_texts):
        first, second = (_slice(rng, rng.choice(files)) for _ in range(2))
        yield first + rng.choice(TROUBLE) + second


def _slice(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    return text[start : start + rng.randrange(1, 200)]


def run(folders: list[Path], n_strings: int, seed: int) -> tuple[dict[str, Row], list[int]]:
    """Return a row per language of files and per kind of strings, and the sizes of the vocabularies."""
    files = texts_by_language(folders)
    part = {name: islice(texts.values(), 0, None, 2) for name, texts in files.items()}  # every second is trained on
    sample = list(chain.from_iterable(_up_to(texts, TRAIN_BYTES_PER_LANGUAGE) for texts in part.values()))
    pairs = [Pair.trained(sample, size) for size in VOCABULARIES]
    rows = {name: check(pairs, iter(texts.values()), Row()) for name, texts in files.items()}
    every = [text for texts in files.values() for text in texts.values()]
    rows["strings of hypothesis"] = check(pairs, hypothesis_texts(n_strings, seed), Row())
    rows["random strings"] = check(pairs, random_texts(n_strings, seed), Row())
    rows["splices of files"] = check(pairs, spliced_texts(n_strings, every, seed), Row())
    return rows, [pair.ours.vocab_size for pair in pairs]


def _up_to(texts: Iterator[str], n_bytes: int) -> Iterator[str]:
    for text in texts:
        if n_bytes <= 0:
            return
        n_bytes -= len(text.encode())
        yield text


def table(rows: dict[str, Row], sizes: list[int]) -> str:
    """Return the table in Markdown."""
    columns = " | ".join(f"tokens at {size:,}" for size in sizes)
    lines = [f"| texts | number | MB | {columns} | differences |", "|" + "---|" * (len(sizes) + 4)]
    for name, row in rows.items():
        tokens = " | ".join(f"{n:,}" for n in row.tokens)
        lines.append(f"| {name} | {row.texts:,} | {row.n_bytes / 1e6:.1f} | {tokens} | {len(row.differences)} |")
    tokens = " | ".join(f"{sum(row.tokens[n] for row in rows.values()):,}" for n in range(len(sizes)))
    n_texts, n_bytes = sum(row.texts for row in rows.values()), sum(row.n_bytes for row in rows.values())
    differences = sum(len(row.differences) for row in rows.values())
    lines.append(f"| all | {n_texts:,} | {n_bytes / 1e6:.1f} | {tokens} | {differences} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, write it where asked; exit code 1 when anything differs."""
    parser = argparse.ArgumentParser(prog="campaigns tokenizer", description="tiktoken against Hugging Face tokenizers")
    parser.add_argument("--folders", type=Path, nargs="*", default=[])
    parser.add_argument("--strings", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows, sizes = run(arguments.folders, arguments.strings, arguments.seed)
    text = table(rows, sizes)
    print(text)
    differences = [difference for row in rows.values() for difference in row.differences]
    print(*differences[:20], sep="\n", file=sys.stderr)
    if arguments.table:
        head = "# Tokenizer campaign\n\ntiktoken on our merges against Hugging Face tokenizers on the same "
        head += "`tokenizer.json`; a difference is a text with\nother ids, one that does not decode to itself, or one "
        head += f"that gave a special token. `make campaign NAME=tokenizer`,\nseed {arguments.seed}, "
        head += f"{date.today():%d %B %Y}, Python {platform.python_version()}, tiktoken {tiktoken.__version__}, "
        head += f"tokenizers {tokenizers.__version__}, two cores of an\n{platform.machine()} server.\n\n"
        arguments.table.write_text(f"{head}{text}\n\n{sources(arguments.folders)}\n")
    return bool(differences)


if __name__ == "__main__":
    sys.exit(main())
