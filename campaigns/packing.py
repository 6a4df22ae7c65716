"""Pack real files at 2k, 32k and 128k: how full rows get, where long documents are cut, and that no token is lost.

Files of the folders that you name (checkouts of any repositories) and of the standard library, with the cut points that
samples carry. The hash of the token multiset is compared by the stage itself; here the rows are also counted, word by
word, against what was encoded.

    python -m campaigns packing --folders ~/checkouts --table table.md
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from campaigns._texts import sources, texts_by_language
from codeflow.core.types import Document, Origin
from codeflow.tokens.best_fit import CUT_BIT, TRAIN_BIT
from codeflow.tokens.pack import PackConfig, cut_pieces, cut_tokens, pack_group
from codeflow.tokens.special import END_OF_TEXT_ID
from codeflow.tokens.token_shard import ShardIndex, open_shard
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig, train
from codeflow.transform.cut_points import cut_points

CONTEXTS, VOCABULARY, TRAINED_TEXTS, LONG_TOKENS = (2048, 32_768, 131_072), 32_768, 3000, 300
_ID_MASK = np.uint32(CUT_BIT - 1)


@dataclass(frozen=True)
class Encoded:
    """All files as the stage encodes them: token bits as in `best_fit`, lengths of the documents."""

    tokens: Any  # (n,) uint32
    lengths: Any  # (documents,) int64
    line_end: Any  # (vocabulary,) bool


def encode(files: dict[str, dict[str, str]]) -> Encoded:
    """Encode with a tokenizer trained on some of the files; long documents carry cut points."""
    every = [(language, name, text) for language, texts in files.items() for name, text in texts.items()]
    step = max(1, len(every) // TRAINED_TEXTS)
    sample = [text for _, _, text in islice(every, 0, None, step)]
    tokenizer = Tokenizer(train(sample, TokenizerConfig(vocab_size=VOCABULARY)))
    parts = []
    for language, name, text in every:
        origin = Origin("campaign", "", "", name, "", "")
        segments = [{"role": "text", "text": text}]
        ids = np.append(tokenizer.encode_array(text), np.uint32(END_OF_TEXT_ID))
        cuts = cut_tokens(ids, segments, cut_points(Document(name, text, language, origin)), tokenizer)
        ids |= TRAIN_BIT
        ids[cuts] |= CUT_BIT
        parts.append(ids)
    lengths = np.array([len(part) for part in parts], np.int64)
    return Encoded(np.concatenate(parts), lengths, tokenizer.line_end_ids)


def longer(encoded: Encoded, least_tokens: int) -> Encoded:
    """Return the documents of at least so many tokens."""
    kept = encoded.lengths >= least_tokens
    return Encoded(encoded.tokens[np.repeat(kept, encoded.lengths)], encoded.lengths[kept], encoded.line_end)


def measure(encoded: Encoded, config: PackConfig) -> dict[str, Any]:
    """Pack at one context; return rows, fill, kinds of cuts, and how many tokens were lost or repeated."""
    context_tokens = config.context_tokens
    with tempfile.TemporaryDirectory() as name:
        stem = Path(name) / "code-00000"
        started = time.perf_counter()
        sums = pack_group(stem, encoded.tokens, encoded.lengths, encoded.line_end, config)
        seconds = time.perf_counter() - started
        shard = open_shard(stem.parent, ShardIndex(name=stem.name, n_rows=sums["n_rows"]), context_tokens)
        found = np.bincount(shard.ids.reshape(-1), minlength=VOCABULARY)
    expected = np.bincount(encoded.tokens & _ID_MASK, minlength=VOCABULARY)
    offsets, _ = cut_pieces(encoded.tokens, encoded.lengths, encoded.line_end, config)
    inside = np.setdiff1d(offsets, np.cumsum(encoded.lengths) - encoded.lengths)
    at_syntax = (encoded.tokens[inside] & CUT_BIT) != 0
    at_line = encoded.line_end[encoded.tokens[inside - 1] & _ID_MASK] & ~at_syntax
    return {
        "context": f"{context_tokens:,}",
        "documents": len(encoded.lengths),
        "syntax slack": config.syntax_slack,
        "least fill": config.least_fill,
        "rows": sums["n_rows"],
        "fill": f"{100 * sums['n_tokens'] / (sums['n_rows'] * context_tokens):.2f} %",
        "cuts": len(inside),
        "at a definition": f"{100 * at_syntax.mean() if len(inside) else 0:.0f} %",
        "at a line end": f"{100 * at_line.mean() if len(inside) else 0:.0f} %",
        "M tokens/s": round(len(encoded.tokens) / seconds / 1e6),
        "lost or repeated": int(np.abs(found - expected)[1:].sum()),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = (f"{value:,}" if isinstance(value, int) else str(value) for value in row.values())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, write it where asked; exit code 1 when a token is lost or repeated."""
    parser = argparse.ArgumentParser(prog="campaigns packing", description="Fill of rows on real files")
    parser.add_argument("--folders", type=Path, nargs="*", default=[])
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    encoded = encode(texts_by_language(arguments.folders))
    measure(encoded, PackConfig())  # compiles
    configs = [PackConfig(context_tokens=context) for context in CONTEXTS]
    configs += [PackConfig(context_tokens=context, syntax_slack=0) for context in CONTEXTS]
    rows = [measure(encoded, config) for config in configs]
    long = longer(encoded, LONG_TOKENS)
    rows += [measure(long, PackConfig(context_tokens=CONTEXTS[0], least_fill=least)) for least in (0.0, 0.99)]
    quantiles = ", ".join(f"{n:,}" for n in np.quantile(encoded.lengths, (0.1, 0.5, 0.9, 0.99)).astype(int).tolist())
    text = f"{table(rows)}\n\n{len(encoded.lengths):,} documents of {len(encoded.tokens):,} tokens; lengths at 10, 50, "
    text += f"90 and 99 %: {quantiles}. The last two rows take documents of {LONG_TOKENS:,} tokens and more.\n"
    text += f"{sources(arguments.folders)}\n"
    print(text)
    if arguments.table:
        arguments.table.write_text(text)
    return int(any(row["lost or repeated"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
