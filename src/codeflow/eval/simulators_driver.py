"""Runs inside the sandbox: BFCL's own simulators on calls, and its own checker. Never imported by the parent.

The job comes as JSON on standard input: entry, ground truth, and the calls so far by turn and step. The last step's
results, or the checker's verdict, go to the channel as JSON.
"""
# pyright: basic, reportMissingImports=false

import json
import os
import sys


def _main():
    job = json.loads(sys.stdin.buffer.read())
    channel = int(os.environ.pop("CODEFLOW_CHANNEL"))
    sys.path.append("/packages")
    from bfcl_eval.eval_checker.multi_turn_eval import multi_turn_checker, multi_turn_utils

    entry = job["entry"]
    if job["finished"]:
        category = entry["id"].rpartition("_")[0]
        found = multi_turn_checker.multi_turn_checker(job["turns"], job["ground_truth"], entry, category, "model")
        answer = {"valid": bool(found["valid"]), "error_type": str(found.get("error_type", ""))}
    else:
        results = []
        for step in (step for turn in job["turns"] for step in turn):
            results, _ = multi_turn_utils.execute_multi_turn_func_call(
                step,
                entry["initial_config"],
                entry["involved_classes"],
                "model",
                entry["id"],
                "long_context" in entry["id"] or "composite" in entry["id"],
            )
        answer = {"results": [str(result) for result in results]}
    with open(channel, "w", encoding="utf-8") as file:
        file.write(json.dumps(answer))


_main()
