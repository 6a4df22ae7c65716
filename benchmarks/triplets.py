"""Triplets from a synthetic 2,000-commit history: seconds and peak memory of the evolution stage.

The history is written by scripts/make_history.py and read by the history stage first; what is timed is the choice of
triplets from its commits, in a process of its own, start included. No public pipeline makes such triplets; the peer is
what composes patches otherwise: one `git diff` per span, timed over the chosen spans.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codeflow.core.manifest import begin, read_manifest
from codeflow.core.records import read_shards
from codeflow.core.types import Triplet
from codeflow.corpus import git_history

N_COMMITS = 2000
TARGET_SECONDS, TARGET_BYTES = 15.0, 2**30
_STAGE = """
import resource, sys
from pathlib import Path
from codeflow.core.manifest import begin
from codeflow.transform import evolution
commits, output = Path(sys.argv[1]), Path(sys.argv[2])
config = evolution.EvolutionConfig()
begin(output, "triplets", config, {}, "benchmark")
evolution.run(config, {"commits": commits}, output)
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> None:
    """Print one JSON line."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from make_history import write_history

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository, commits, output = folder / "project", folder / "history", folder / "evolution"
        write_history(repository, N_COMMITS)
        config = git_history.HistoryConfig(repositories=(str(repository),))
        begin(commits, "commits", config, {}, "benchmark")
        git_history.run(config, {}, commits)
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _STAGE, commits, output], stdout=subprocess.PIPE, text=True, check=True
        )
        seconds, peak_bytes = time.perf_counter() - start, int(done.stdout)
        counts = read_manifest(output).counts
        triplets = list(read_shards(output, "triplets", Triplet))
        start = time.perf_counter()
        for triplet in triplets:
            command = ["git", "-C", str(repository), "diff", "-M", *triplet.origin.revision.split("..")]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        peer = (time.perf_counter() - start) / len(triplets)
    result = {
        "benchmark": "triplets",
        "unit": "seconds",
        "ours": round(seconds, 2),
        "peak_memory_mib": round(peak_bytes / 2**20),
        "n_commits": N_COMMITS,
        "n_spans_considered": counts.read,
        "n_triplets": counts.kept,
        "ours_milliseconds_per_span": round(1000 * seconds / counts.read, 3),
        "peer": round(1000 * peer, 3),
        "peer_name": "git diff of one span, milliseconds",
        "ratio": round(1000 * peer / (1000 * seconds / counts.read), 2),
        "ratio_of": "milliseconds per span, git diff / ours (composed, scored, and the chosen ones written)",
        "target": {"seconds_at_most": TARGET_SECONDS, "peak_memory_mib_at_most": TARGET_BYTES // 2**20},
        "met": seconds <= TARGET_SECONDS and peak_bytes <= TARGET_BYTES,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
