"""Semantic deduplication: what the search by clusters finds of all pairs at the threshold, and what it leaves.

    python -m benchmarks semantic_dedup [--files 2000] [--rewritten 800] [--encoder module:name] [--cache vectors.npz]

The corpus: real files of the standard library and the installed packages, and rewritten ones (no comments, another
layout, functions in another order, 0 to 100 % of a file's own names replaced). Every document is embedded once; then
the cosine of every pair is computed in float64 (the truth), and the stage runs with several sizes and numbers of
clusters. Printed for each, in one JSON line:

    compared    share of the pairs at the threshold whose documents share a cluster (recall of the search)
    planted     the same of the pairs of a file with its rewritten one
    left        share of the pairs at the threshold of which the stage has kept both documents
    right       share of the dropped documents whose cosine with the kept document named reaches the threshold
    as_exact    share of the documents kept or dropped as one walk over all pairs would
    seconds     of the stage, without reading texts by the encoder
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._remembered import NAME, VECTORS, Remembered, remember
from benchmarks._rewritten import Text, corpus
from codeflow.core.config import Config
from codeflow.core.manifest import Counts, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, DroppedDocument, Origin
from codeflow.execute.local import LocalPool
from codeflow.transform.embedding import MINILM, load_encoder
from codeflow.transform.semantic_dedup import SemanticDedupConfig, run
from codeflow.transform.vectors import Vectors, encode, nearest, train_centroids

_SETTINGS = ((1000, 1), (1000, 2), (1000, 3), (100, 1), (100, 2), (100, 3), (100, 4), (25, 1), (25, 3), (25, 5))
_ROUNDING = 1e-6
_ROWS = 512


def main() -> None:
    """Embed, compare all pairs, run the stage with each setting, print the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--rewritten", type=int, default=800)
    parser.add_argument("--threshold", type=float, default=SemanticDedupConfig().threshold)
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--cache", type=Path, help="vectors of an earlier run; written when it does not exist")
    options = parser.parse_args()
    texts = corpus(options.files, options.rewritten)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors, seconds = _embedded(texts, options.encoder, options.cache or folder / "vectors.npz")
        pairs, n_exact, exactly_kept = _exact(vectors, options.threshold)
        source = _write(folder / "in", texts)
        sizes = {
            "benchmark": "semantic_dedup",
            "encoder": options.encoder,
            "threshold": options.threshold,
            "documents": len(texts),
            "planted": sum(text.planted for text in texts),
            "megabytes": round(sum(len(text.text.encode("utf-8", "replace")) for text in texts) / 1e6, 1),
            "embedding_seconds": seconds,
            "pairs": len(pairs),
            "planted_pairs": int(_planted(texts, pairs).sum()),
            "dropped_by_all_pairs": n_exact,
        }
        rows = [
            _measured(setting, options.threshold, texts, vectors, pairs, exactly_kept, source) for setting in _SETTINGS
        ]
    print(json.dumps({**sizes, "settings": rows}))


def _embedded(texts: Sequence[Text], encoder: str, cache: Path) -> tuple[Vectors, float | None]:
    """Return vectors (N, d) of length 1 and the seconds that they took; from the file where it exists."""
    os.environ[VECTORS] = str(cache)
    if cache.exists():
        return Remembered().encode([text.text for text in texts]), None
    start = time.perf_counter()
    found = load_encoder(encoder)
    vectors = np.concatenate(
        [encode(found, [t.text for t in texts[at : at + 64]], encoder) for at in range(0, len(texts), 64)]
    )
    seconds = round(time.perf_counter() - start, 1)
    remember(cache, [text.text for text in texts], vectors)
    return vectors, seconds


def _exact(vectors: Vectors, threshold: float) -> tuple[np.ndarray, int, np.ndarray]:
    """Return all pairs (P, 2) at the threshold, and what one walk over them drops: how many, and who stays (N,)."""
    exact = vectors.astype(np.float64)
    found = [np.empty((0, 2), np.int64)]
    kept = np.ones(len(exact), bool)
    for start in range(0, len(exact), _ROWS):
        hits = exact[start : start + _ROWS] @ exact.T >= threshold - _ROUNDING
        for at, row in enumerate(hits, start):
            before = np.flatnonzero(row[:at])
            found.append(np.column_stack([before, np.full(before.size, at)]))
            kept[at] = not kept[before].any()
    return np.concatenate(found), int((~kept).sum()), kept


def _planted(texts: Sequence[Text], pairs: np.ndarray) -> np.ndarray:
    """Return whether each pair is a file and its rewritten one."""
    sources = np.array([text.source for text in texts])
    return sources[pairs[:, 0]] == sources[pairs[:, 1]]


def _write(folder: Path, texts: Sequence[Text]) -> Path:
    """Write the corpus as an artifact whose keep order is the order of the texts."""
    begin(folder, "documents", Config(), {}, "bench")
    for index, start in enumerate(range(0, len(texts), 400)):
        documents = (
            Document(sha256_text(text.text), text.text, "Python", Origin("package", "bench", "", f"{at:06d}", "", ""))
            for at, text in enumerate(texts[start : start + 400], start)
        )
        write_records(folder / f"documents-{index:05d}.parquet", documents, Document)
    seal(folder, Counts())
    return folder


def _measured(
    setting: tuple[int, int],
    threshold: float,
    texts: Sequence[Text],
    vectors: Vectors,
    pairs: np.ndarray,
    exactly_kept: np.ndarray,
    source: Path,
) -> dict[str, float]:
    cluster_documents, n_nearest = setting
    config = SemanticDedupConfig(
        encoder=NAME, threshold=threshold, cluster_documents=cluster_documents, nearest_clusters=n_nearest
    )
    output = source.parent / f"out-{cluster_documents}-{n_nearest}"
    begin(output, "documents", config, {}, "bench")
    start = time.perf_counter()
    manifest = run(config, {"documents": source}, output, LocalPool(1))
    seconds = time.perf_counter() - start
    n_clusters = int(manifest.metrics["n_clusters"])
    centroids = train_centroids(vectors, n_clusters, config.iterations, config.seed)
    places = nearest(vectors, centroids, min(n_nearest, n_clusters))
    compared = np.array([np.isin(places[a], places[b]).any() for a, b in pairs], bool)
    number = {sha256_text(text.text): at for at, text in enumerate(texts)}
    gone, right = np.zeros(len(texts), bool), []
    for record in read_shards(output, "dropped", DroppedDocument):
        own, kept = int(record.document.origin.path), number[record.detail.split()[0]]
        gone[own] = True
        right.append(vectors[own].astype(np.float64) @ vectors[kept] >= threshold - _ROUNDING)
    return {
        "cluster_documents": cluster_documents,
        "nearest_clusters": n_nearest,
        "n_clusters": n_clusters,
        "n_rounds": manifest.metrics["n_rounds"],
        "compared": round(float(compared.mean()), 4),
        "planted": round(float(compared[_planted(texts, pairs)].mean()), 4),
        "left": round(float((~gone[pairs]).all(axis=1).mean()), 4),
        "dropped": int(gone.sum()),
        "right": round(float(np.mean(right)), 4),
        "as_exact": round(float((gone == ~exactly_kept).mean()), 4),
        "seconds": round(seconds, 2),
    }


if __name__ == "__main__":
    main()
