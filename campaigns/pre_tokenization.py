"""What each choice of cutting text into words costs: bytes per token by language, with one choice changed at a time.

Trained on nine tenths of the files of every language (at most some megabytes of each), measured on the other tenth.
`--public` measures encodings of tiktoken beside them (it needs their files: by download, or in TIKTOKEN_CACHE_DIR).

    python -m campaigns pre_tokenization --folders ~/checkouts --vocabulary 76800 --table table.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import tiktoken

from campaigns._texts import sources, texts_by_language
from codeflow.tokens.tokenizer import WORD_PATTERN, Tokenizer, TokenizerConfig, train

TRAIN_BYTES_PER_LANGUAGE, HELD_OUT_PARTS, LEAST_HELD_OUT_BYTES = 1_500_000, 10, 50_000
_LETTERS, _DIGIT, _PUNCTUATION, _LINES = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",
    r"|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+(?:\r?\n[ \t\r\n]*)?",
    r"|\r?\n[ \t\r\n]*|[ \t]+|\s",
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CAMEL = rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?(?:{_UPPER}*{_LOWER}+|{_UPPER}+)"
_PLAIN_PUNCTUATION = r"| ?[^\s\p{L}\p{M}\p{N}]+"
VARIANTS = {
    "as it is": _LETTERS + _DIGIT + _PUNCTUATION + _LINES,
    "digits by three": _LETTERS + r"|\p{N}{1,3}" + _PUNCTUATION + _LINES,
    "whole numbers": _LETTERS + r"|\p{N}+" + _PUNCTUATION + _LINES,
    "camelCase cut": _CAMEL + _DIGIT + _PUNCTUATION + _LINES,
    "only a blank before letters": r" ?[\p{L}\p{M}]+" + _DIGIT + _PUNCTUATION + _LINES,
    "line break apart from punctuation": _LETTERS + _DIGIT + _PLAIN_PUNCTUATION + _LINES,
    "and from indentation": _LETTERS + _DIGIT + _PLAIN_PUNCTUATION + r"|[\r\n]+|[ \t]+|\s",
    "white space one by one": _LETTERS + _DIGIT + _PLAIN_PUNCTUATION + r"|\s",
}
assert VARIANTS["as it is"] == WORD_PATTERN


def split(texts: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return what is trained on, up to the bytes of one language, and what is measured on."""
    ordered = list(texts.values())  # in the order of a hash of their names
    n_held_out = max(1, len(ordered) // HELD_OUT_PARTS)
    return list(_up_to(ordered[n_held_out:], TRAIN_BYTES_PER_LANGUAGE)), ordered[:n_held_out]


def _up_to(texts: list[str], n_bytes: int) -> Iterator[str]:
    for text in texts:
        if n_bytes <= 0:
            return
        n_bytes -= len(text.encode())
        yield text


def measure(encode: Callable[[list[str]], list[list[int]]], held_out: dict[str, list[str]]) -> dict[str, float]:
    """Return bytes per token by language; "all" is the mean over languages of tokens per byte, turned over."""
    row = {}
    for language, texts in held_out.items():
        n_tokens = sum(len(ids) for ids in encode(texts))
        row[language] = sum(len(text.encode()) for text in texts) / n_tokens
    return row | {"all": len(row) / sum(1 / value for value in row.values())}


def run(folders: list[Path], vocab_size: int, public: list[str]) -> tuple[dict[str, dict[str, float]], int]:
    """Return variant -> language -> bytes per token, and the bytes trained on."""
    parts = {name: split(texts) for name, texts in texts_by_language(folders).items()}
    enough = {name: texts for name, (_, texts) in parts.items() if sum(map(len, texts)) >= LEAST_HELD_OUT_BYTES}
    sample = list(chain.from_iterable(trained for trained, _ in parts.values()))
    found = {}
    for name, pattern in VARIANTS.items():
        tokenizer = Tokenizer(train(sample, TokenizerConfig(vocab_size=vocab_size, pattern=pattern)))
        found[name] = measure(tokenizer.encode_batch, enough)
        print(json.dumps({"variant": name, "vocab_size": tokenizer.vocab_size, **found[name]}), flush=True)
    for name in public:
        encoding = tiktoken.get_encoding(name)
        found[f"{name} ({encoding.n_vocab:,})"] = measure(encoding.encode_ordinary_batch, enough)
    return found, sum(len(text.encode()) for text in sample)


def table(found: dict[str, dict[str, float]]) -> str:
    """Return the table in Markdown: languages down, the first variant as it is, the others as changes in percent."""
    (first, base), *others = found.items()
    lines = [f"| language | {first} | {' | '.join(name for name, _ in others)} |", "|" + "---|" * (len(others) + 2)]
    for language, value in base.items():
        changes = " | ".join(f"{100 * (row[language] / value - 1):+.1f} %" for _, row in others)
        lines.append(f"| {language} | {value:.2f} | {changes} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table, write it where asked."""
    parser = argparse.ArgumentParser(prog="campaigns pre_tokenization", description="Choices of the word pattern")
    parser.add_argument("--folders", type=Path, nargs="*", default=[])
    parser.add_argument("--vocabulary", type=int, default=76_800)
    parser.add_argument("--public", nargs="*", default=[], metavar="ENCODING")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    found, n_bytes = run(arguments.folders, arguments.vocabulary, arguments.public)
    text = f"{table(found)}\n\nVocabulary {arguments.vocabulary:,} at most, trained on {n_bytes / 1e6:.0f} MB. "
    text += f"{sources(arguments.folders)}\n"
    print(text)
    if arguments.table:
        arguments.table.write_text(text)


if __name__ == "__main__":
    main()
