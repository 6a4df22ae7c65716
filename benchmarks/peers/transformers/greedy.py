"""Runs in transformers' environment: seconds that its generation takes, greedy or sampled.

    python greedy.py FOLDER JOBS OUTPUT

JOBS is a JSON list of {"prompts": [[...]], "new": n, "rounds": r, "dtype": "float32", "sample": false}; OUTPUT gets a
JSON list of {"seconds": best CPU seconds, "ids": [[...]]}. One thread.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    """Do all jobs."""
    torch.set_num_threads(1)
    results = []
    for job in json.loads(Path(sys.argv[2]).read_text()):
        model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="sdpa")
        model = model.to(getattr(torch, job["dtype"])).eval()
        ids = torch.tensor(job["prompts"])
        options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": None}
        options |= {"do_sample": True, "top_k": 0} if job.get("sample") else {"do_sample": False}
        model.generate(ids, max_new_tokens=4, **options)
        best, found = float("inf"), None
        for _ in range(job["rounds"]):
            started = time.process_time()
            found = model.generate(ids, max_new_tokens=job["new"], **options)
            best = min(best, time.process_time() - started)
        assert found is not None
        results.append({"seconds": best, "ids": found[:, ids.shape[1] :].tolist()})
    Path(sys.argv[3]).write_text(json.dumps(results))


if __name__ == "__main__":
    main()
