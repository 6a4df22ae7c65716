"""Runs in transformers' environment: generates when it is told to, greedy or sampled, on one thread.

    python greedy.py FOLDER JOBS

JOBS is a JSON list of {"prompts": [[...]], "new": n, "dtype": "float32", "sample": false}. Each line read is the number
of a job, or "warm" and one, which generates four tokens; each is answered by a line of JSON,
{"seconds": CPU seconds, "ids": [[...]]}.
"""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


@cache
def load(dtype: str) -> Any:
    """Return the model in `dtype`."""
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="sdpa")
    return model.to(getattr(torch, dtype)).eval()


def main() -> None:
    """Answer until the input ends."""
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[2]).read_text())
    for line in sys.stdin:
        *warm, number = line.split()
        job = jobs[int(number)]
        model, ids = load(job["dtype"]), torch.tensor(job["prompts"])
        options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": None}
        options |= {"do_sample": True, "top_k": 0} if job["sample"] else {"do_sample": False}
        started = time.process_time()
        found = model.generate(ids, max_new_tokens=4 if warm else job["new"], **options)
        seconds = time.process_time() - started
        print(json.dumps({"seconds": seconds, "ids": found[:, ids.shape[1] :].tolist()}), flush=True)


if __name__ == "__main__":
    main()
