"""Vectors of documents in files, one per row of a shard, and the clusters of nearby ones.

Vectors have length 1, so that their product is the cosine; a text that the encoder has nothing to say about is zeros.
`vectors-NNNNN.vectors.npy` are (documents of the shard, d) float32, read by mapping: only what is touched is in memory.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codeflow.core.errors import UserError
from codeflow.transform.embedding import Encoder, load_encoder, unit
from codeflow.transform.fingerprints import Int64, load_array, save_arrays, text_batches

if TYPE_CHECKING:
    from codeflow.transform.fingerprints import ShardJob

Vectors = npt.NDArray[np.float32]
_TEXTS_AT_ONCE = 256


@functools.lru_cache(maxsize=1)
def encoder_named(name: str) -> Encoder:
    """Return the encoder, built once per process. Raises UserError when there is none."""
    return load_encoder(name)


def encode(encoder: Encoder, texts: Sequence[str], name: str) -> Vectors:
    """Return one vector of length 1 or 0 per text, (n, d). Raises UserError where the encoder's are no vectors."""
    vectors = np.asarray(encoder.encode(texts), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise UserError(
            f"encoder '{name}' gave an array {vectors.shape} for {len(texts)} texts, or values that are not finite; "
            "encode(texts) must return finite numbers (n, d)"
        )
    return unit(vectors)


def write_vectors(source: Path, target: Path, encoder_name: str) -> None:
    """Write the vectors of one shard's documents."""
    encoder = encoder_named(encoder_name)
    parts: list[Vectors] = []
    for _, data, offsets in text_batches(source, []):
        view = data.data
        for start in range(0, offsets.size - 1, _TEXTS_AT_ONCE):
            marks = offsets[start : start + _TEXTS_AT_ONCE + 1].tolist()
            texts = [bytes(view[a:b]).decode("utf-8", "replace") for a, b in itertools.pairwise(marks)]
            parts.append(encode(encoder, texts, encoder_name))
    vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    save_arrays(target, vectors=vectors)


class VectorReader:
    """Reads vectors by document number."""

    def __init__(self, jobs: Sequence[ShardJob]) -> None:
        self._jobs = list(jobs)
        self._starts = np.array([job.start for job in jobs], np.int64)

    @functools.cached_property
    def dim(self) -> int:
        """Components of a vector; 0 where there are no documents."""
        return max((self._of(index).shape[1] for index in range(len(self._jobs))), default=0)

    def read(self, numbers: Int64) -> Vectors:
        """Return the vectors of some documents, in the order given, (n, d)."""
        vectors = np.empty((numbers.size, self.dim), np.float32)
        shards = np.searchsorted(self._starts, numbers, "right") - 1
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            vectors[here] = self._of(shard)[numbers[here] - self._starts[shard]]
        return vectors

    def _of(self, index: int) -> Any:
        job = self._jobs[index]
        return load_array(vectors_path(job), "vectors")


def vectors_path(job: ShardJob) -> Path:
    """Return where the vectors of a shard lie."""
    return job.scratch / f"vectors-{job.index:05d}"


def train_centroids(sample: Vectors, n_clusters: int, n_iterations: int, seed: int) -> Vectors:
    """Return centroids (k, d) of length 1 by spherical k-means over a sample (n, d), k <= n."""
    faiss = load_faiss()
    n_clusters = max(1, min(n_clusters, len(sample)))
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # sums in one order
    try:
        kmeans = faiss.Kmeans(
            sample.shape[1],
            n_clusters,
            niter=n_iterations,
            seed=seed,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=max(1, len(sample)),
        )
        kmeans.train(np.ascontiguousarray(sample))
    finally:
        faiss.omp_set_num_threads(threads)
    return unit(np.asarray(kmeans.centroids, np.float32))


def nearest(vectors: Vectors, centroids: Vectors, n: int = 1) -> Int64:
    """Return the numbers of the `n` centroids with the greatest cosines for each vector, the nearest first (D, n)."""
    faiss = load_faiss()
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    _, places = index.search(np.ascontiguousarray(vectors), n)
    return places.astype(np.int64)


def load_faiss() -> Any:
    """Return the module faiss. Raises UserError when it is not installed."""
    try:
        import faiss
    except ImportError:
        raise UserError("semantic deduplication needs faiss; pip install 'codeflow[semantic]'") from None
    return faiss
