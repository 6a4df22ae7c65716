"""Finding copies of benchmark prompts in documents: the index of references, and the tests of a document.

A reference is one prompt's text or its solution. The index holds hashes of the references' word n-grams; a process
holds the index (a few tens of bytes per word of all prompts) and one row group of documents.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from codeflow.core.manifest import Counts, read_manifest
from codeflow.core.records import read_records, read_shards, schema_of, shards, write_records
from codeflow.core.storage import atomic_path
from codeflow.core.types import Document, DroppedDocument, Prompt
from codeflow.transform import minhash
from codeflow.transform.decontaminate import DecontaminateConfig
from codeflow.transform.fingerprints import ROWS_PER_GROUP, Int64, UInt8, string_buffers
from codeflow.transform.semantic_contamination import find_passages, reference_vectors

TEXT, SOLUTION = "text", "solution"
_WORD = re.compile(rb"[0-9a-z_\x80-\xff]+")  # the words of minhash.WORD_CLASSES in lower-cased bytes
_LETTERS = re.compile(rb"[a-z\x80-\xff].*[a-z\x80-\xff]")
_FUZZY_WORDS = 5
_FILTER_BITS = 22
_MINHASH_RECALL, _MINHASH_PERMUTATIONS = 0.99, 128
_SHOWN_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Hit:
    """One document found to hold one prompt's text or solution."""

    document: str
    repository: str
    path: str
    prompt: str
    benchmark: str
    part: str  # "text", "solution", or "both" for minhash
    method: str  # "ngram", "minhash", "fuzzy", "semantic"
    score: float  # ngram: share of the reference's n-grams found; minhash: Jaccard; fuzzy: similarity; semantic: cosine
    matched: str  # the passage in the document (its first 2,000 characters)
    reference: str  # the prompt's text, solution or both (likewise)


@dataclass(frozen=True, slots=True)
class Reference:
    """A prompt's text or solution."""

    prompt: Prompt
    part: str
    text: bytes  # lower case


@dataclass(frozen=True)
class Grams:
    """N-gram hashes of references: which references hold which hash."""

    n_words: int
    hashes: minhash.UInt64  # (H,) sorted, distinct
    starts: Int64  # (H + 1,) into `owners`
    owners: Int64  # reference numbers
    sizes: Int64  # (references,) distinct n-grams of each
    filter: npt.NDArray[np.bool_]  # (2 ** _FILTER_BITS,) by the lowest bits: most words of a corpus stop here

    def find(self, hashes: minhash.UInt64) -> Int64:
        """Return the places in `hashes` whose value some reference holds."""
        maybe = np.flatnonzero(self.filter[hashes & np.uint64((1 << _FILTER_BITS) - 1)])
        if not maybe.size or not self.hashes.size:
            return np.empty(0, np.int64)
        at = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), self.hashes.size - 1)
        return maybe[self.hashes[at] == hashes[maybe]]

    def shares(self, found: minhash.UInt64) -> dict[int, float]:
        """Return the share of each reference's distinct n-grams that is among `found` (sorted, distinct)."""
        counts: dict[int, int] = {}
        for row in np.searchsorted(self.hashes, found).tolist():
            for owner in self.owners[self.starts[row] : self.starts[row + 1]].tolist():
                counts[owner] = counts.get(owner, 0) + 1
        return {owner: counts[owner] / int(self.sizes[owner]) for owner in sorted(counts)}


@dataclass(frozen=True)
class Index:
    """All that a document is compared with."""

    references: tuple[Reference, ...]
    ngrams: tuple[Grams, ...]  # of texts, of solutions
    fuzzy: Grams
    prompts: tuple[Prompt, ...]
    functions: minhash.Permutations
    banding: tuple[int, int]
    bands: minhash.UInt64  # (n_bands, prompts)
    n_unindexed: int  # references without a distinctive n-gram
    vectors: npt.NDArray[np.float32] | None  # (references, d); None where the semantic level is off


def words_of(text: bytes) -> list[bytes]:
    """Return the words of lower-cased bytes, one for each token that the kernel sees with `WORD_CLASSES`."""
    return _WORD.findall(text)


def _distinctive(words: Sequence[bytes], config: DecontaminateConfig) -> bool:
    n_words = sum(1 for word in words if _LETTERS.search(word))
    few = len(words) * config.min_word_share
    return n_words >= few and len(set(words)) >= len(words) * config.min_distinct_share


def _grams(
    references: Sequence[Reference], n_words: int, part: str, config: DecontaminateConfig, min_words: int
) -> Grams:
    """Index the distinctive n-grams of the references of one part ("" is all) with at least `min_words` words."""
    owners: dict[int, list[int]] = {}
    for number, reference in enumerate(references):
        words = words_of(reference.text)
        if (part and reference.part != part) or len(words) < max(min_words, n_words):
            continue
        hashes = minhash.shingle_hashes(reference.text, n_words, minhash.WORD_CLASSES).tolist()
        assert len(hashes) == len(words) - n_words + 1
        keep = {h for i, h in enumerate(hashes) if not part or _distinctive(words[i : i + n_words], config)}
        for value in keep:
            owners.setdefault(value, []).append(number)
    if part:  # the fuzzy index wants every n-gram: its verdict is the edit distance
        limit = config.max_prompts_per_ngram
        owners = {h: held for h, held in owners.items() if len({references[n].prompt.id for n in held}) <= limit}
    ordered = sorted(owners)
    hashes = np.array(ordered, np.uint64)
    lists = [owners[value] for value in ordered]
    flat = np.array([number for held in lists for number in held], np.int64)
    seen = np.zeros(1 << _FILTER_BITS, bool)
    seen[hashes & np.uint64((1 << _FILTER_BITS) - 1)] = True
    starts = np.cumsum([0, *(len(held) for held in lists)], dtype=np.int64)
    return Grams(n_words, hashes, starts, flat, np.bincount(flat, minlength=len(references)), seen)


def load_index(folder: Path, config: DecontaminateConfig) -> Index:
    """Return the index of a prompts artifact, built once per process."""
    return _cached_index(folder, read_manifest(folder).fingerprint, config.model_dump_json())


@functools.lru_cache(maxsize=1)
def _cached_index(folder: Path, fingerprint: str, config: str) -> Index:
    return build_index(tuple(read_shards(folder, "prompts", Prompt)), DecontaminateConfig.model_validate_json(config))


def build_index(prompts: tuple[Prompt, ...], config: DecontaminateConfig) -> Index:
    """Build the index of some prompts."""
    references = tuple(
        Reference(prompt, part, text.encode("utf-8", "surrogatepass").lower())
        for prompt in prompts
        for part, text in ((TEXT, prompt.text), (SOLUTION, prompt.solution))
        if text.strip()
    )
    texts = _grams(references, config.text_ngram_words, TEXT, config, 0)
    solutions = _grams(references, config.solution_ngram_words, SOLUTION, config, 0)
    banding = minhash.bands_for(config.minhash_jaccard, _MINHASH_PERMUTATIONS, _MINHASH_RECALL)
    functions = minhash.permutations(banding[0] * banding[1])
    whole = [_both(prompt) for prompt in prompts]
    data = np.frombuffer(b"".join(whole), np.uint8)
    offsets = np.cumsum([0, *(len(text) for text in whole)])
    signed = minhash.signatures(data, offsets, functions, _FUZZY_WORDS, minhash.WORD_CLASSES)
    return Index(
        references,
        (texts, solutions),
        _grams(references, _FUZZY_WORDS, "", config, config.fuzzy_min_words),
        prompts,
        functions,
        banding,
        minhash.band_keys(signed, *banding),
        int(((texts.sizes + solutions.sizes) == 0).sum()),
        reference_vectors([(r.text, _text_of(r)) for r in references], config.semantic) if config.semantic else None,
    )


def _both(prompt: Prompt) -> bytes:
    return (prompt.text + "\n" + prompt.solution).encode("utf-8", "surrogatepass").lower()


def describe(folder: Path, config: DecontaminateConfig) -> dict[str, int]:
    """Return what the stage's metrics say about the prompts."""
    index = load_index(folder, config)
    return {
        "n_prompts": len(index.prompts),
        "n_references": len(index.references),
        "n_references_without_distinctive_ngram": index.n_unindexed,
    }


@dataclass(frozen=True, slots=True)
class Match:
    """A test's verdict on one document of a batch."""

    row: int
    prompt: Prompt
    part: str
    method: str
    score: float
    matched: bytes
    reference: str


def find_matches(texts: UInt8, offsets: Int64, index: Index, config: DecontaminateConfig) -> list[Match]:
    """Return the matches of a batch of documents; a (document, prompt, part) is reported by the first test it fails."""
    lowered = np.frombuffer(texts.tobytes().lower(), np.uint8)
    seen: set[tuple[int, str, str]] = set()
    matches: list[Match] = []
    candidates = (
        *_by_ngram(texts, lowered, offsets, index),
        *_by_minhash(texts, lowered, offsets, index, config),
        *_by_fuzzy(texts, lowered, offsets, index, config),
        *_by_meaning(texts, offsets, index, config),
    )
    for match in candidates:
        key = (match.row, match.prompt.id, match.part)
        if key not in seen:
            seen.add(key)
            matches.append(match)
    return matches


def _by_ngram(texts: UInt8, lowered: UInt8, offsets: Int64, index: Index) -> Iterator[Match]:
    for grams in index.ngrams:
        hashes, marks = minhash.shingle_batch(lowered, offsets, grams.n_words, minhash.WORD_CLASSES)
        for row, places in _by_row(grams.find(hashes), marks):
            found = minhash.distinct(hashes[places])
            spans = _spans(lowered[offsets[row] : offsets[row + 1]])
            for owner, share in grams.shares(found).items():
                reference = index.references[owner]
                held = grams.owners == owner
                own = np.searchsorted(grams.starts, np.flatnonzero(held), "right") - 1
                first = int(places[np.isin(hashes[places], grams.hashes[own])][0] - marks[row])
                last = _last_of_run(hashes, places, int(first + marks[row]), grams.hashes[own]) - int(marks[row])
                stop = min(last + grams.n_words, len(spans)) - 1
                start = int(offsets[row])
                passage = texts[start + spans[first][0] : start + spans[stop][1]].tobytes()
                yield Match(row, reference.prompt, reference.part, "ngram", share, passage, _text_of(reference))


def _by_row(places: Int64, marks: Int64) -> Iterator[tuple[int, Int64]]:
    rows = np.searchsorted(marks, places, "right") - 1
    for row in np.unique(rows).tolist():
        yield row, places[rows == row]


def _last_of_run(hashes: minhash.UInt64, places: Int64, first: int, own: minhash.UInt64) -> int:
    """Return the last place of the run of neighbouring matches that starts at `first`."""
    held = set(places[np.isin(hashes[places], own)].tolist())
    while first + 1 in held:
        first += 1
    return first


def _spans(lowered: UInt8) -> list[tuple[int, int]]:
    return [match.span() for match in _WORD.finditer(lowered.tobytes())]


def _text_of(reference: Reference) -> str:
    return reference.prompt.text if reference.part == TEXT else reference.prompt.solution


def _by_minhash(
    texts: UInt8, lowered: UInt8, offsets: Int64, index: Index, config: DecontaminateConfig
) -> Iterator[Match]:
    if not index.prompts:
        return
    signed = minhash.signatures(lowered, offsets, index.functions, _FUZZY_WORDS, minhash.WORD_CLASSES)
    keys = minhash.band_keys(signed, *index.banding)
    pairs = set()
    for own, other in zip(keys, index.bands, strict=True):
        for row in np.flatnonzero(np.isin(own, other)).tolist():
            pairs |= {(row, number) for number in np.flatnonzero(other == own[row]).tolist()}
    for row, number in sorted(pairs):
        prompt = index.prompts[number]
        left = minhash.shingle_hashes(lowered[offsets[row] : offsets[row + 1]], _FUZZY_WORDS, minhash.WORD_CLASSES)
        right = minhash.shingle_hashes(_both(prompt), _FUZZY_WORDS, minhash.WORD_CLASSES)
        score = minhash.jaccard(minhash.distinct(left), minhash.distinct(right))
        if score >= config.minhash_jaccard:
            passage = texts[offsets[row] : offsets[row + 1]].tobytes()
            yield Match(row, prompt, "both", "minhash", score, passage, prompt.text + "\n" + prompt.solution)


def _by_fuzzy(
    texts: UInt8, lowered: UInt8, offsets: Int64, index: Index, config: DecontaminateConfig
) -> Iterator[Match]:
    hashes, marks = minhash.shingle_batch(lowered, offsets, index.fuzzy.n_words, minhash.WORD_CLASSES)
    for row, places in _by_row(index.fuzzy.find(hashes), marks):
        shares = index.fuzzy.shares(minhash.distinct(hashes[places]))
        close = [owner for owner, share in shares.items() if share >= config.fuzzy_candidate_share]
        if not close:
            continue
        own = lowered[offsets[row] : offsets[row + 1]]
        document = minhash.shingle_hashes(own, 1, minhash.WORD_CLASSES)
        for owner in close:
            reference = index.references[owner]
            pattern = minhash.shingle_hashes(reference.text, 1, minhash.WORD_CLASSES)
            distance, first, last = closest_passage(pattern, document)
            score = 1 - distance / pattern.size
            if score >= config.fuzzy_similarity:
                spans, start = _spans(own), int(offsets[row])
                passage = texts[start + spans[first][0] : start + spans[last - 1][1]].tobytes()
                yield Match(row, reference.prompt, reference.part, "fuzzy", score, passage, _text_of(reference))


def _by_meaning(texts: UInt8, offsets: Int64, index: Index, config: DecontaminateConfig) -> Iterator[Match]:
    if index.vectors is None or config.semantic is None or not index.references:
        return
    for found in find_passages(texts, offsets, index.vectors, config.semantic):
        reference, passage = index.references[found.reference], texts[found.start : found.stop].tobytes()
        text = _text_of(reference)
        yield Match(found.row, reference.prompt, reference.part, "semantic", found.cosine, passage, text)


@minhash.compiled
def _closest(pattern, document):
    """Levenshtein distance of the pattern to every passage: row by row over the pattern, with each cell's start."""
    cost = np.zeros(document.size + 1, np.int64)
    begin = np.arange(document.size + 1)
    for i in range(pattern.size):
        diagonal, diagonal_begin = cost[0], begin[0]
        cost[0] = i + 1
        for j in range(1, document.size + 1):
            best, source = diagonal + np.int64(pattern[i] != document[j - 1]), diagonal_begin
            diagonal, diagonal_begin = cost[j], begin[j]
            if cost[j] + 1 < best:
                best, source = cost[j] + 1, begin[j]
            if cost[j - 1] + 1 < best:
                best, source = cost[j - 1] + 1, begin[j - 1]
            cost[j], begin[j] = best, source
    last = np.argmin(cost)
    return cost[last], begin[last], last


def closest_passage(pattern: minhash.UInt64, document: minhash.UInt64) -> tuple[int, int, int]:
    """Return (edits, first, last): the passage document[first:last] nearest to `pattern` by word edit distance."""
    distance, first, last = _closest(pattern, document)
    return int(distance), int(first), int(last)


@dataclass(frozen=True)
class CheckJob:
    """One shard of documents against all prompts."""

    index: int
    source: Path
    prompts: Path
    config: DecontaminateConfig
    scratch: Path
    output: Path

    @property
    def name(self) -> str:
        return f"check-{self.index:05d}"

    @property
    def n_bytes(self) -> int:
        """Bytes of the shard."""
        return self.source.stat().st_size


def check_shard(job: CheckJob) -> Counts:
    """Write the kept and dropped documents of one shard, and its hits."""
    index = load_index(job.prompts, job.config)
    kept_path, dropped_path = (job.output / f"{name}-{job.index:05d}.parquet" for name in ("documents", "dropped"))
    hits: list[Hit] = []
    counts = Counts()
    with (
        atomic_path(kept_path) as kept_temporary,
        atomic_path(dropped_path) as dropped_temporary,
        pq.ParquetWriter(kept_temporary, schema_of(Document), compression="zstd") as kept_file,
        pq.ParquetWriter(dropped_temporary, schema_of(DroppedDocument), compression="zstd") as dropped_file,
        pq.ParquetFile(job.source) as file,
    ):
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            here = batch.cast(schema_of(Document))
            matches = find_matches(*string_buffers(here.column("text")), index, job.config)
            first = {match.row: match for match in reversed(matches)}
            rows = np.zeros(len(here), bool)
            rows[list(first)] = True
            kept_file.write_batch(here.filter(pa.array(~rows)))
            doomed = here.filter(pa.array(rows))
            reasons = [first[row] for row in sorted(first)]
            if reasons:
                dropped_file.write_table(_dropped_table(doomed, reasons))
            hits += _hits(doomed, sorted(first), matches)
            counts += _counts(len(here), reasons)
    write_records(job.scratch / f"hits-{job.index:05d}.parquet", hits, Hit)
    return counts


def _counts(n_read: int, reasons: list[Match]) -> Counts:
    dropped: dict[str, int] = {}
    for match in reasons:
        dropped[f"contaminated_{match.method}"] = dropped.get(f"contaminated_{match.method}", 0) + 1
    return Counts(read=n_read, kept=n_read - len(reasons), dropped=dropped)


def _dropped_table(documents: Any, reasons: list[Match]) -> Any:
    schema = schema_of(DroppedDocument)
    columns = [
        documents.to_struct_array().cast(schema.field("document").type),
        pa.array(["decontaminate"] * len(reasons), pa.string()),
        pa.array([f"contaminated_{match.method}" for match in reasons], pa.string()),
        pa.array([f"{match.prompt.benchmark} {match.prompt.id} ({match.part})" for match in reasons], pa.string()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _hits(doomed: Any, rows: list[int], matches: list[Match]) -> Iterator[Hit]:
    ids, origins = doomed.column("id").to_pylist(), doomed.column("origin").to_pylist()
    place = {row: at for at, row in enumerate(rows)}
    for match in sorted(matches, key=lambda match: (match.row, match.prompt.benchmark, match.prompt.id, match.part)):
        at = place[match.row]
        yield Hit(
            document=ids[at],
            repository=origins[at]["repository"],
            path=origins[at]["path"],
            prompt=match.prompt.id,
            benchmark=match.prompt.benchmark,
            part=match.part,
            method=match.method,
            score=match.score,
            matched=match.matched.decode("utf-8", "replace")[:_SHOWN_CHARACTERS],
            reference=match.reference[:_SHOWN_CHARACTERS],
        )


def gather_hits(scratch: Path, path: Path) -> int:
    """Write the hits of all shards to one file; return their number."""
    return write_records(path, (hit for part in shards(scratch, "hits") for hit in read_records(part, Hit)), Hit)
