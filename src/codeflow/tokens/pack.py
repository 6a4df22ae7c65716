"""Samples to packed rows of fixed length: encode, cut what is too long, best-fit decreasing, shuffle, write.

Encoding is sharded over processes, one job per sample file, into `progress/`; packing then works on one group of
encoded files at a time, so memory is bounded by `group_tokens` whatever the size of the set. A document longer than
the context becomes several pieces, each a document of its own in its row. A cut comes at a point that the sample
carries (syntax boundaries) where one is in the last `syntax_slack` of the context, else after a line break where one is
among the last `cut_slack_tokens` tokens that fit, else where the context ends. Where pieces that were cut early leave
rows less than `least_fill` full, for want of short documents, the slack is halved until they do not. Nothing is lost or
repeated: the hash of the token multiset is taken when encoding and again from the files written; the two must agree.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import UserError, suggest
from codeflow.core.manifest import PROGRESS, Counts, Manifest, seal
from codeflow.core.progress import Bar
from codeflow.core.storage import atomic_path, write_text
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import PAD_ID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codeflow.tokens.token_shard import SetIndex
    from codeflow.tokens.tokenizer import Tokenizer

_SAMPLE_FILE = re.compile(r"(?P<set>.+)-\d{5}\.parquet")
_NOT_A_SET = "dropped"
_BLOCK_TOKENS = 2**22  # rows are assembled and written in blocks of about this many tokens


class PackConfig(Config):
    """Parameters of the stage."""

    context_tokens: int = Field(default=512, ge=2)
    cut_slack_tokens: int = Field(default=16, ge=0)  # a long document is cut at a line at most this much early
    syntax_slack: float = Field(default=0.25, ge=0, lt=1)  # and at a point of its own at most this share of the context
    least_fill: float = Field(default=0.99, ge=0, le=1)  # rows emptier than this have documents cut less early
    group_tokens: int = Field(default=2**25, ge=1)  # encoded files are packed together up to about this many tokens
    sets: tuple[str, ...] = ()  # which sets to pack; empty: all that the samples hold
    seed: int = 0

    @model_validator(mode="after")
    def _slack_leaves_a_piece(self) -> PackConfig:
        if self.cut_slack_tokens >= self.context_tokens:
            raise ValueError(f"cut_slack_tokens must be below context_tokens={self.context_tokens}; lower it")
        return self


@dataclass(frozen=True, slots=True)
class EncodeJob:
    """One sample file to encode."""

    name: str
    samples: Path
    tokenizer: Path
    encoded: Path  # without suffix: `.tokens` (uint32, bit 31 = trained on) and `.lengths` (int64) are written

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return str(self.samples)


@dataclass(frozen=True, slots=True)
class _Group:
    """Encoded files that are packed together."""

    name: str  # of the token shard
    encoded: tuple[Path, ...]


def run(config: PackConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE) -> Manifest:
    """Pack every set of the samples artifacts (all inputs but one) with the tokenizer of `inputs["tokenizer"]`.

    Raises UserError when an input has no sample file or an asked-for set is missing. Metrics by set: rows, tokens,
    documents, pieces, loss tokens, fill, and the hash of the token multiset.
    """
    from codeflow.tokens.token_shard import INDEX, TokenIndex
    from codeflow.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(inputs["tokenizer"])
    jobs = _jobs(config, inputs, output)
    every_job = [job for jobs_of_set in jobs.values() for job in jobs_of_set]
    counts = run_shards(encode, every_job, output, "encode", pool)
    sets: dict[str, SetIndex] = {}
    with Bar("pack", len(jobs), "sets") as bar:
        for name, jobs_of_set in jobs.items():
            sets[name] = _pack_set(name, [job.encoded for job in jobs_of_set], config, tokenizer, output)
            bar.advance()
    index = TokenIndex(
        context_tokens=config.context_tokens,
        vocab_size=tokenizer.vocab_size,
        tokenizer_fingerprint=tokenizer.fingerprint,
        sets=sets,
    )
    write_text(output / INDEX, index.model_dump_json(indent=2))
    return seal(output, counts, {"sets": {name: row.model_dump(exclude={"shards"}) for name, row in sets.items()}})


def sample_files(folder: Path) -> dict[str, list[Path]]:
    """Return the sample files of a samples artifact by set, in order."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        match = _SAMPLE_FILE.fullmatch(path.name)
        if match and match["set"] != _NOT_A_SET:
            files.setdefault(match["set"], []).append(path)
    return files


def _jobs(config: PackConfig, inputs: Mapping[str, Path], output: Path) -> dict[str, list[EncodeJob]]:
    jobs: dict[str, list[EncodeJob]] = {}
    for source, samples in inputs.items():
        if source == "tokenizer":
            continue
        for set_name, paths in sample_files(samples).items():
            for path in paths:
                name = f"{source}-{path.stem}"
                job = EncodeJob(name, path, inputs["tokenizer"], output / PROGRESS / name)
                jobs.setdefault(set_name, []).append(job)
    if not jobs:
        folders = ", ".join(str(path) for name, path in inputs.items() if name != "tokenizer")
        raise UserError(f"no sample files (<set>-00000.parquet) in {folders}; run the stages that make samples first")
    missing = [name for name in config.sets if name not in jobs]
    if missing:
        raise UserError(f"no set '{missing[0]}' among the samples{suggest(missing[0], jobs)}")
    return {name: found for name, found in jobs.items() if not config.sets or name in config.sets}


@functools.lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    from codeflow.tokens.tokenizer import Tokenizer

    return Tokenizer.load(folder)


def encode(job: EncodeJob) -> Counts:
    """Encode one sample file. Samples without a token are counted as dropped ("empty")."""
    import numpy as np

    from codeflow.core.records import read_records
    from codeflow.core.types import Sample
    from codeflow.tokens.best_fit import CUT_BIT
    from codeflow.tokens.render import render_segments

    tokenizer = _tokenizer(job.tokenizer)
    lengths: list[int] = []
    read = 0
    with atomic_path(job.encoded.with_suffix(".tokens")) as path, open(path, "wb") as file:
        rows: Iterator[Any] = read_records(job.samples, Sample, ["segments", "cuts"])
        for row in rows:
            ids, train = render_segments(row["segments"], tokenizer)
            read += 1
            if len(ids):
                cuts = cut_tokens(ids, row["segments"], row.get("cuts") or (), tokenizer)
                ids |= train.astype(np.uint32) << np.uint32(31)
                ids[cuts] |= CUT_BIT
                ids.tofile(file)
                lengths.append(len(ids))
    with atomic_path(job.encoded.with_suffix(".lengths")) as path:
        np.array(lengths, np.int64).tofile(path)
    empty = read - len(lengths)
    return Counts(read=read, kept=len(lengths), dropped={"empty": empty} if empty else {})


def cut_tokens(
    ids: NDArray[np.uint32], segments: Sequence[Mapping[str, Any]], cuts: Sequence[int], tokenizer: Tokenizer
) -> NDArray[np.int64]:
    """Return the tokens before which a sample is best cut: the first that starts at or behind each point of `cuts`.

    Points are characters into the joined text segments; a token that reaches over a point stays before it.
    """
    import numpy as np

    if not len(cuts):
        return np.empty(0, np.int64)
    text = "".join(segment["text"] for segment in segments if segment["role"] == "text")
    places = np.array(cuts, np.int64)
    if not text.isascii():
        edges = [0, *cuts]
        sizes = [len(text[a:b].encode()) for a, b in itertools.pairwise(edges)]
        places = np.cumsum(np.array(sizes, np.int64))
    ends = np.cumsum(tokenizer.byte_lengths[ids])
    starts = ends - tokenizer.byte_lengths[ids]
    found = np.unique(np.searchsorted(starts, places))
    return found[(found > 0) & (found < len(ids))]


def _pack_set(name: str, encoded: list[Path], config: PackConfig, tokenizer: Tokenizer, output: Path) -> SetIndex:
    from codeflow.tokens.token_shard import SetIndex, ShardIndex

    keys = ("n_rows", "n_tokens", "n_documents", "n_cut_documents", "n_pieces", "n_loss_tokens", "hash")
    sums = dict.fromkeys(keys, 0)
    shards: list[ShardIndex] = []
    for group in _groups(name, encoded, config.group_tokens):
        tokens, lengths = _read_group(group)
        part = pack_group(output / group.name, tokens, lengths, tokenizer.line_end_ids, config)
        shards.append(ShardIndex(name=group.name, n_rows=part["n_rows"]))
        sums = {key: value + part[key] for key, value in sums.items()}
    places = sums["n_rows"] * config.context_tokens
    token_hash = sums.pop("hash") % 2**64
    fill = round(sums["n_tokens"] / places, 6) if places else 0.0
    return SetIndex(**sums, fill=fill, token_multiset_hash=f"{token_hash:016x}", shards=tuple(shards))


def _groups(name: str, encoded: list[Path], group_tokens: int) -> list[_Group]:
    """Join neighbouring files up to `group_tokens`; a larger file is a group of its own."""
    groups: list[list[Path]] = []
    size = 0
    for path in encoded:
        n_tokens = path.with_suffix(".tokens").stat().st_size // 4
        if not groups or size + n_tokens > group_tokens:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += n_tokens
    return [_Group(f"{name}-{n:05d}", tuple(paths)) for n, paths in enumerate(groups)]


def _read_group(group: _Group) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    import numpy as np

    tokens = np.concatenate([np.fromfile(path.with_suffix(".tokens"), np.uint32) for path in group.encoded])
    lengths = np.concatenate([np.fromfile(path.with_suffix(".lengths"), np.int64) for path in group.encoded])
    assert lengths.sum() == len(tokens), f"{group.name}: lengths and tokens of the encoded files disagree"
    return tokens, lengths


def pack_group(
    stem: Path,
    tokens: NDArray[np.uint32],
    lengths: NDArray[np.int64],
    line_end: NDArray[np.bool_],
    config: PackConfig,
) -> dict[str, int]:
    """Pack encoded documents (`lengths`, in order in `tokens`) into the token shard `stem`.

    Bit 31 of a token: it is trained on; bit 30: its sample is best cut before it. `line_end` (vocab_size,) says after
    which tokens a long document may be cut. Returns what was written, as counted in the files: n_rows, n_tokens,
    n_documents, n_cut_documents, n_pieces, n_loss_tokens, hash of the token multiset.
    """
    import numpy as np

    from codeflow.tokens.best_fit import multiset_hash

    offsets, sizes = cut_pieces(tokens, lengths, line_end, config)
    rows, n_rows = place_pieces(sizes, config.context_tokens, _row_seed(config.seed, stem.name))
    order = np.argsort(rows, kind="stable")
    _write_rows(stem, tokens, (offsets[order], sizes[order], rows[order]), n_rows, config.context_tokens)
    written = _read_back(stem, n_rows, config.context_tokens)
    assert written["hash"] == int(multiset_hash(tokens)), f"{stem}: the rows do not hold the tokens that were encoded"
    n_cut = int(np.count_nonzero(lengths > config.context_tokens))
    return {**written, "n_documents": len(lengths), "n_cut_documents": n_cut, "n_pieces": len(sizes)}


def cut_pieces(
    tokens: NDArray[np.uint32], lengths: NDArray[np.int64], line_end: NDArray[np.bool_], config: PackConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offsets and sizes of the pieces (P,), cut with the largest slack whose rows are full enough.

    Slacks are the one asked for, its halves, and none; where none suffices, the one asked for is taken.
    """
    from codeflow.tokens.best_fit import best_fit_rows, cut_documents

    context_tokens, slack = config.context_tokens, int(config.syntax_slack * config.context_tokens)
    most_rows = len(tokens) / (config.least_fill * context_tokens) if config.least_fill else float("inf")
    asked = pieces = cut_documents(tokens, lengths, line_end, context_tokens, config.cut_slack_tokens, slack)
    while best_fit_rows(pieces[1], context_tokens)[1] > most_rows:
        if not slack:
            return asked
        slack //= 2
        pieces = cut_documents(tokens, lengths, line_end, context_tokens, config.cut_slack_tokens, slack)
    return pieces


def _row_seed(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big")


def place_pieces(sizes: NDArray[np.int64], context_tokens: int, seed: int) -> tuple[NDArray[np.int64], int]:
    """Return the row of each piece and the number of rows: best-fit decreasing, rows shuffled by `seed`."""
    import numpy as np

    from codeflow.tokens.best_fit import best_fit_rows

    rows, n_rows = best_fit_rows(sizes, context_tokens)
    return np.random.Generator(np.random.PCG64(seed)).permutation(n_rows)[rows], n_rows


def _write_rows(
    stem: Path, tokens: NDArray[np.uint32], pieces: tuple[Any, Any, Any], n_rows: int, context_tokens: int
) -> None:
    """Write the rows in order, a block at a time."""
    import numpy as np

    from codeflow.tokens.best_fit import fill_rows
    from codeflow.tokens.token_shard import FLAGS_SUFFIX, IDS_SUFFIX

    offsets, sizes, rows = pieces
    block_rows = max(1, _BLOCK_TOKENS // context_tokens)
    ids_path, flags_path = stem.with_name(stem.name + IDS_SUFFIX), stem.with_name(stem.name + FLAGS_SUFFIX)
    with (
        atomic_path(flags_path) as flags_temporary,
        atomic_path(ids_path) as ids_temporary,
        open(flags_temporary, "wb") as flags_file,
        open(ids_temporary, "wb") as ids_file,
    ):
        for first in range(0, n_rows, block_rows):
            n = min(block_rows, n_rows - first)
            a, b = np.searchsorted(rows, (first, first + n))
            ids = np.full((n, context_tokens), PAD_ID, np.uint32)
            flags = np.zeros((n, context_tokens), np.uint8)
            fill_rows(tokens, (offsets[a:b], sizes[a:b], rows[a:b] - first), ids, flags)
            ids.tofile(ids_file)
            flags.tofile(flags_file)


def _read_back(stem: Path, n_rows: int, context_tokens: int) -> dict[str, int]:
    """Measure the files just written: tokens without padding, loss tokens, multiset hash."""
    import numpy as np

    from codeflow.tokens.batch import LOSS
    from codeflow.tokens.best_fit import multiset_hash
    from codeflow.tokens.token_shard import ShardIndex, open_shard

    shard = open_shard(stem.parent, ShardIndex(name=stem.name, n_rows=n_rows), context_tokens)
    n_padding = int(np.count_nonzero(shard.ids == PAD_ID))
    padding_hash = n_padding * int(multiset_hash(np.array([PAD_ID], np.uint32)))
    return {
        "n_rows": n_rows,
        "n_tokens": n_rows * context_tokens - n_padding,
        "n_loss_tokens": int(np.count_nonzero(shard.flags & LOSS)),
        "hash": (int(multiset_hash(shard.ids.reshape(-1))) - padding_hash) % 2**64,
    }
