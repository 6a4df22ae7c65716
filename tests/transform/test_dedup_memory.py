"""Memory of both deduplications: four times the input, the same peak."""

from __future__ import annotations

import random
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, begin, seal
from codeflow.core.records import write_records
from codeflow.core.types import Document
from tests.transform.corpora import document

ROOT = Path(__file__).parents[2]
SHARD_DOCUMENTS = 2_000
NEAR = """
from codeflow.transform.dedup import DedupConfig, NearConfig, run

config = DedupConfig(partition_documents=4000, near=NearConfig(partition_entries=16000))
"""
SEMANTIC = """
from codeflow.transform import semantic_dedup
from codeflow.transform.semantic_dedup import SemanticDedupConfig, run

semantic_dedup._PART_ROWS = 4000
config = SemanticDedupConfig(
    encoder="tests.transform.test_dedup_memory:HashedTokens",
    cluster_documents=100,
    sample_documents=2000,
    partition_documents=4000,
)
"""
CHILD = """
import re, sys
from pathlib import Path
from codeflow.core.manifest import begin
from codeflow.execute.local import LocalPool

folder = Path(sys.argv[1])
begin(folder / "out", "documents", config, {}, "test")
counts = run(config, {"documents": folder / "in"}, folder / "out", LocalPool(1)).counts
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(counts.read, counts.kept, peak_kib)
"""


class HashedTokens:
    """Signed feature hashing of whole tokens, a kilobyte a document: as much as 24 MB for those that come on top."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> np.ndarray:
        hashes = np.array([zlib.crc32(token.encode()) for token in text.split()], np.int64)
        signs = np.where(hashes & 256, 1.0, -1.0)
        return np.bincount(hashes & 255, signs, minlength=256).astype(np.float32)


def corpus(start: int) -> Iterator[Document]:
    """Groups of four documents: one, a near copy of it, an equal copy, and a stranger."""
    for i in range(start, start + SHARD_DOCUMENTS):
        generator = random.Random(i - i % 4 if i % 4 < 3 else i)
        words = [f"name{generator.randrange(5000)}" for _ in range(150)]
        if i % 4 == 1:
            words[i % 150] = "changed"
        yield document(" ".join(words), f"{i}.py")


def peak_bytes(folder: Path, n_shards: int, config: str) -> int:
    """Return the peak resident memory of one process that does every step itself."""
    source = folder / "in"
    begin(source, "documents", Config(), {}, "test")
    for shard in range(n_shards):
        write_records(source / f"documents-{shard:05d}.parquet", corpus(shard * SHARD_DOCUMENTS), Document)
    seal(source, Counts())
    command = [sys.executable, "-c", config + CHILD, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    n_read, n_kept, peak_kib = map(int, done.stdout.split())
    assert n_read == n_shards * SHARD_DOCUMENTS
    assert 0 <= n_kept - n_read // 2 <= n_read // 1000  # neighbours across a border between clusters
    return peak_kib * 1024


@pytest.mark.slow
@pytest.mark.parametrize("config", [NEAR, SEMANTIC], ids=["near", "semantic"])
def test_four_times_the_input_has_the_same_peak(tmp_path: Path, config: str) -> None:
    if config is SEMANTIC:
        pytest.importorskip("faiss")
    small, large = peak_bytes(tmp_path / "small", 4, config), peak_bytes(tmp_path / "large", 16, config)
    print(f"peak {small / 2**20:.0f} MiB, with four times the input {large / 2**20:.0f} MiB")
    assert large - small < 8 * 2**20  # a list of Python objects per document would take more
