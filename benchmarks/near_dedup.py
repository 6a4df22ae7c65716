"""Near deduplication end to end against datatrove's four MinHash steps: signatures, buckets, clusters, filter.

    python -P benchmarks/near_dedup.py [--megabytes 250] [--workers 2]

Both read the same Python files (standard library and site-packages, sorted by a hash of their paths), start from files
on disk (ours Parquet, theirs JSON lines, made outside the timing), use the same cores (ours decides itself how many
processes pay), the same banding and 5-token shingles of their own kind, and write the kept documents. The exact pass
that ours would begin with is off, for a fair start; every candidate pair is verified, and the dropped documents and
clusters are written too, which theirs does not do.
Start-up (imports, compilation or loading of compiled code) is measured apart and is not in the compared seconds of
either side: for ours a run over a handful of files comes first in the same process, for theirs the import.

Prints one JSON line: seconds of both, their ratio, and what both kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # last: a benchmark may bear the name of a standard module

PEER_PYTHON = Path(__file__).parent / "peers" / "datatrove" / ".venv" / "bin" / "python"

PEER = r"""
import json, sys, time
start = time.perf_counter()
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
startup = time.perf_counter() - start
folder, workers, bands, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])

def main():
    config = MinhashConfig(n_grams=5, num_buckets=bands, hashes_per_bucket=rows)
    reader = JsonlReader(folder + "/input")
    steps = {
        "signatures": ([reader, MinhashDedupSignature(folder + "/signatures", config=config)], workers),
        "buckets": ([MinhashDedupBuckets(folder + "/signatures", folder + "/buckets", config=config)], bands),
        "clusters": ([MinhashDedupCluster(folder + "/buckets", folder + "/remove", config=config)], 1),
        "filter": ([reader, MinhashDedupFilter(folder + "/remove"), JsonlWriter(folder + "/kept")], workers),
    }
    seconds = {}
    for name, (pipeline, tasks) in steps.items():
        start = time.perf_counter()
        logs = folder + "/logs/" + name
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=min(workers, tasks), logging_dir=logs).run()
        seconds[name] = time.perf_counter() - start
    import glob, gzip
    kept = sum(sum(1 for _ in gzip.open(path)) for path in glob.glob(folder + "/kept/*.gz"))
    print("RESULT " + json.dumps({"startup": startup, "seconds": seconds, "kept": kept}))

if __name__ == "__main__":
    main()
"""


def main() -> None:
    """Run both sides and print the line."""
    from codeflow.transform.dedup import DedupConfig
    from codeflow.transform.near_dedup import banding

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=250)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])  # both sides: so many cores
    if not PEER_PYTHON.exists():
        sys.exit(f"no {PEER_PYTHON}: python3 -m venv benchmarks/peers/datatrove/.venv and install its requirements.txt")
    from minhash_kernel import load

    texts = load(int(arguments.megabytes * 1e6))
    config = DedupConfig(exact=None, forks=None)  # what the peer does, no more
    assert config.near
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = _ours(folder, texts, config)
        peer = _peer(folder, texts, arguments.workers, banding(config.near))
    print(
        json.dumps(
            {
                "benchmark": "near_dedup",
                "unit": "seconds",
                "megabytes": round(sum(len(text.encode()) for text in texts) / 1e6, 1),
                "documents": len(texts),
                "workers": arguments.workers,
                "ours": round(ours["seconds"], 2),
                "peer": round(sum(peer["seconds"].values()), 2),
                "ratio": round(sum(peer["seconds"].values()) / ours["seconds"], 1),
                "ours_startup": round(ours["startup"], 2),
                "peer_startup": round(peer["startup"], 2),
                "peer_steps": {step: round(seconds, 2) for step, seconds in peer["seconds"].items()},
                "ours_kept": ours["kept"],
                "peer_kept": peer["kept"],
            }
        )
    )


def _ours(folder: Path, texts: list[str], config) -> dict:
    from codeflow.core.config import Config
    from codeflow.core.manifest import Counts, begin, seal
    from codeflow.core.records import write_records
    from codeflow.core.storage import sha256_text
    from codeflow.core.types import Document, Origin
    from codeflow.transform.dedup import run

    def documents(part: list[str]):
        for number, text in enumerate(part):
            origin = Origin("package", "bench", "", str(number), "", "2020-01-01T00:00:00Z")
            yield Document(sha256_text(text), text, "Python", origin)

    def deduplicate(label: str, part: list[str]) -> tuple[float, int]:
        source, output = folder / f"{label}-in", folder / f"{label}-out"
        begin(source, "documents", Config(), {}, "bench")
        for index, start in enumerate(range(0, len(part), 400)):
            write_records(source / f"documents-{index:05d}.parquet", documents(part[start : start + 400]), Document)
        seal(source, Counts())
        begin(output, "documents", config, {}, "bench")
        start = time.perf_counter()
        manifest = run(config, {"documents": source}, output)
        return time.perf_counter() - start, manifest.counts.kept

    startup, _ = deduplicate("warm", texts[:5])
    seconds, kept = deduplicate("ours", texts)
    return {"startup": startup, "seconds": seconds, "kept": kept}


def _peer(folder: Path, texts: list[str], workers: int, bands_and_rows: tuple[int, int]) -> dict:
    (folder / "input").mkdir()
    for worker in range(workers):  # one file a task
        with open(folder / "input" / f"{worker}.jsonl", "w", encoding="utf-8") as file:
            for number in range(worker, len(texts), workers):
                file.write(json.dumps({"id": str(number), "text": texts[number]}) + "\n")
    script = folder / "peer.py"
    script.write_text(PEER)
    command = [str(PEER_PYTHON), "-P", str(script), str(folder), str(workers), *map(str, bands_and_rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        sys.exit(f"datatrove failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(lines[0].removeprefix("RESULT "))


if __name__ == "__main__":
    main()
