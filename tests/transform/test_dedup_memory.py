"""Memory of deduplication: four times the input, the same peak."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codeflow.core.config import Config
from codeflow.core.manifest import Counts, begin, seal
from codeflow.core.records import write_records
from codeflow.core.types import Document
from tests.transform.corpora import document

SHARD_DOCUMENTS = 2_000
CHILD = """
import re, sys
from pathlib import Path
from codeflow.core.manifest import begin
from codeflow.transform.dedup import DedupConfig, NearConfig, run

config = DedupConfig(partition_documents=4000, near=NearConfig(partition_entries=16000))
folder = Path(sys.argv[1])
begin(folder / "out", "documents", config, {}, "test")
counts = run(config, {"documents": folder / "in"}, folder / "out", LocalPool(1)).counts
peak_kib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(counts.read, counts.kept, peak_kib)
"""


def corpus(start: int) -> Iterator[Document]:
    """Groups of four documents: one, a near copy of it, an equal copy, and a stranger."""
    for i in range(start, start + SHARD_DOCUMENTS):
        generator = random.Random(i - i % 4 if i % 4 < 3 else i)
        words = [f"name{generator.randrange(5000)}" for _ in range(150)]
        if i % 4 == 1:
            words[i % 150] = "changed"
        yield document(" ".join(words), f"{i}.py")


def peak_bytes(folder: Path, n_shards: int) -> int:
    """Return the peak resident memory of one process that does every step itself."""
    source = folder / "in"
    begin(source, "documents", Config(), {}, "test")
    for shard in range(n_shards):
        write_records(source / f"documents-{shard:05d}.parquet", corpus(shard * SHARD_DOCUMENTS), Document)
    seal(source, Counts())
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, check=True)
    n_read, n_kept, peak_kib = map(int, done.stdout.split())
    assert (n_read, n_kept) == (n_shards * SHARD_DOCUMENTS, n_shards * SHARD_DOCUMENTS // 2)
    return peak_kib * 1024


@pytest.mark.slow
def test_four_times_the_input_has_the_same_peak(tmp_path: Path) -> None:
    small, large = peak_bytes(tmp_path / "small", 4), peak_bytes(tmp_path / "large", 16)
    print(f"peak {small / 2**20:.0f} MiB, with four times the input {large / 2**20:.0f} MiB")
    assert large - small < 8 * 2**20  # a list of Python objects per document would take more
