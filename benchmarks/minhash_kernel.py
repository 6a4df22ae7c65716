"""The MinHash kernel against datasketch, datatrove and rensa, on one core.

    python -P benchmarks/minhash_kernel.py [--megabytes 16] [--peer-megabytes 0.5]

All compute signatures of the same number of permutations from the text of Python files. The shingles of ours, rensa
and datasketch are the same: five tokens in a row, tokens as in `codeflow.transform.minhash`; the peers are handed the
joined shingles, made outside the timing (`shingles given`), and also timed with the making in Python that their users
write (`from text`). What is given counts as no work for the peer, so that figure favours it; and the time of rensa 0.5
hardly depends on the number of permutations (100,000 shingles: 1.1 ms for 16, 1.3 ms for 1024), so it does not take k
minima over all shingles as the others do. datatrove makes its own shingles (five words of its normalised text). Ratios
are against `from text`: the same job from bytes to signature.

CPU seconds are counted, so that other work on the machine does not. Prints one JSON line: MB/s of each, ratios, and the
compile time apart.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

PEERS = Path(__file__).parent / "peers"
N_PERMUTATIONS = 128
N_TOKENS = 5

PEER = r"""
import json, re, sys, time
name, folder, n_permutations, n_tokens = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
texts = json.load(open(folder + "/texts.json"))
TOKEN = re.compile(r"[0-9A-Za-z_\x80-\U0010ffff]+|[^0-9A-Za-z_\x80-\U0010ffff \t\n\r\f\v\x00]+")
def shingles(text):
    tokens = TOKEN.findall(text)
    return [" ".join(tokens[i : i + n_tokens]) for i in range(max(1, len(tokens) - n_tokens + 1))]
if name == "datatrove":
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature, MinhashConfig
    config = MinhashConfig(n_grams=n_tokens, num_buckets=16, hashes_per_bucket=n_permutations // 16)
    step = MinhashDedupSignature(folder, config=config)
    def sign(given):
        return step.get_signature(given)
    def shingles(text):
        return step.get_shingles(text)
elif name == "datasketch":
    from datasketch import MinHash
    blank = MinHash(num_perm=n_permutations)
    def sign(given):
        m = blank.copy()
        m.update_batch([s.encode() for s in given])
        return m.hashvalues
else:
    from rensa import RMinHash
    def sign(given):
        m = RMinHash(num_perm=n_permutations, seed=42)
        m.update(given)
        return m.digest()
sign(shingles(texts[0]))
start = time.process_time()
given = [shingles(text) for text in texts]
middle = time.process_time()
for one in given:
    sign(one)
end = time.process_time()
print(json.dumps({"shingling_seconds": middle - start, "signing_seconds": end - middle}))
"""


def load(n_bytes: int) -> list[str]:
    """Return texts of the standard library and site-packages, up to `n_bytes`, shuffled by a fixed rule."""
    import hashlib

    places = [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
    files = {path for place in places for path in place.rglob("*.py")}
    texts, total = [], 0
    for path in sorted(files, key=lambda path: hashlib.sha256(path.name.encode() + str(path.parent).encode()).digest()):
        text = path.read_bytes().decode("utf-8", "ignore")
        if text.strip():
            texts.append(text)
            total += len(text.encode())
        if total >= n_bytes:
            break
    return texts


def main() -> None:
    """Time ours, then each peer in its own environment, each pinned to one core."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=16)
    parser.add_argument("--peer-megabytes", type=float, default=0.5)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import numpy as np

    from codeflow.transform import minhash

    start = time.process_time()
    functions = minhash.permutations(N_PERMUTATIONS)
    minhash.signatures(np.frombuffer(b"a b c", np.uint8), np.array([0, 5]), functions, N_TOKENS)
    compile_seconds = time.process_time() - start
    blobs = [text.encode() for text in load(int(arguments.megabytes * 1e6))]
    data, offsets = np.frombuffer(b"".join(blobs), np.uint8), np.cumsum([0, *(len(blob) for blob in blobs)])
    seconds = []
    for _ in range(5):
        start = time.process_time()
        minhash.signatures(data, offsets, functions, N_TOKENS)
        seconds.append(time.process_time() - start)
    row: dict[str, object] = {
        "benchmark": "minhash_kernel",
        "unit": "MB/s per core",
        "n_permutations": N_PERMUTATIONS,
        "ours": round(data.size / 1e6 / sorted(seconds)[2], 1),
        "compile_or_load_seconds": round(compile_seconds, 2),
    }
    for name in ("datasketch", "datatrove", "rensa"):
        row[name] = peer(name, load(int(arguments.peer_megabytes * 1e6)), row["ours"])  # type: ignore[arg-type]
    print(json.dumps(row))


def peer(name: str, texts: list[str], ours: float) -> dict[str, float] | str:
    """Time one peer; says how to make its environment when it has none."""
    python = PEERS / name / ".venv" / "bin" / "python"
    if not python.exists():
        return f"no environment: python3 -m venv {python.parent.parent}, then pip install -r its requirements.txt"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "texts.json").write_text(json.dumps(texts))
        command = [str(python), "-c", PEER, name, folder, str(N_PERMUTATIONS), str(N_TOKENS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    seconds = json.loads(done.stdout.splitlines()[-1])
    size = sum(len(text.encode()) for text in texts) / 1e6
    given = size / seconds["signing_seconds"]
    from_text = size / (seconds["signing_seconds"] + seconds["shingling_seconds"])
    return {
        "from_text": round(from_text, 3),
        "shingles_given": round(given, 3),
        "ratio": round(ours / from_text, 1),
        "ratio_shingles_given": round(ours / given, 1),
    }


if __name__ == "__main__":
    main()
