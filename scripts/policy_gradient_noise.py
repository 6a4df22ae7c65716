"""How much of a policy gradient is signal, and what optimizers make of it.

Takes `--batches` independent batches of rollouts from one checkpoint, as a step of GRPO takes one, and prints

* the mean cosine between the gradients of two batches: what part of a gradient two batches agree on;
* the cosine between the sum of all batches' gradients and the direction that raises the likelihood of the gold answers
  of the `dev` tasks, whose compositions nobody trains on, for the gradient as it is and for what optimizers turn it
  into: Adam's (divided by the root of the mean square), its sign, Muon's (all singular values 1).

    python scripts/policy_gradient_noise.py runs/tiny/sft_instruct runs/tiny/tasks runs/tiny/tokenizer
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from codeflow.core.records import read_shards
from codeflow.core.types import Rollout, Task, Verdict
from codeflow.model.huggingface import load
from codeflow.model.looped import LoopCoder
from codeflow.rl import grpo
from codeflow.rl.loss import PolicyBatch, PolicyLoss
from codeflow.rl.reward import rewards
from codeflow.solve.answer import STOP_IDS
from codeflow.solve.config import RolloutConfig
from codeflow.solve.rollout import Source, prompt_ids, roll_out
from codeflow.tokens.tokenizer import Tokenizer
from codeflow.train.optimizer import is_matrix

Gradient = dict[str, Tensor]


def gradient(model: LoopCoder, members: Sequence[grpo.Member]) -> Gradient:
    """Return the gradient of the policy loss by matrix inside the layers."""
    model.zero_grad()
    batches = [PolicyBatch.of(batch) for batch in grpo.batches(grpo.distinct(members), 512, 8)]
    total = sum(float(batch.weights.sum()) for batch in batches)
    for batch in batches:
        PolicyLoss()(model, batch, 1 / total).backward()
    found = {name: p.grad for name, p in model.named_parameters() if is_matrix(name, p)}
    return {name: grad.float().clone() for name, grad in found.items() if grad is not None}


def gold_members(tasks: Sequence[Task], tokenizer: Tokenizer) -> list[grpo.Member]:
    """Return the gold answers as rollouts of advantage 1."""
    found = []
    for task in tasks:
        ids = (*tokenizer.encode(json.loads(task.data)["gold"].rstrip("\n")), STOP_IDS[0])
        prompt = tuple(prompt_ids(task, tokenizer, thinking=False))
        verdict = Verdict(True, 1.0, "", "", 1, 1)
        rollout = Rollout(task.id, "gold", 0, 0, prompt, ids, (0.0,) * len(ids), "", "stop", verdict)
        found.append(grpo.Member(rollout, 1.0, 1.0))
    return found


def cosine(left: Gradient, right: Gradient) -> float:
    """Return the cosine over all matrices together."""
    a, b = (torch.cat([g[name].flatten() for name in sorted(g)]) for g in (left, right))
    return float(torch.dot(a, b) / (a.norm() * b.norm()))


def orthogonal(matrix: Tensor) -> Tensor:
    """Return U V^T of U S V^T: what Muon's iteration comes near to."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "tasks", "tokenizer"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    model, tokenizer = load(options.checkpoint / "model", torch.bfloat16), Tokenizer.load(options.tokenizer)
    tasks = list(read_shards(options.tasks, "tasks-rl", Task))
    gold = gradient(model, gold_members(list(read_shards(options.tasks, "tasks-dev", Task)), tokenizer))
    found: list[Gradient] = []
    for step in range(1, options.batches + 1):
        chosen = [tasks[i] for i in grpo.chosen_tasks(len(tasks), options.prompts, 0, step)]
        source = Source(model, tokenizer, "noise", 0, step)
        rollouts = roll_out(source, chosen, options.samples, RolloutConfig(max_new_tokens=80)).rollouts
        groups = grpo.with_signal(grpo.groups(rollouts, rewards(rollouts, "all_tests", 0, step), divide_by_std=False))
        found.append(gradient(model, [member for group in groups for member in group]))
        print(f"batch {step}: {len(groups)} of {options.prompts} groups with a signal", flush=True)
    total = {name: sum((g[name] for g in found), torch.zeros_like(gold[name])) for name in gold}
    square = {name: sum((g[name] ** 2 for g in found), torch.zeros_like(gold[name])) for name in gold}
    directions: dict[str, Callable[[str], Tensor]] = {
        "as it is": lambda name: total[name],
        "Adam's": lambda name: total[name] / (square[name] / len(found)).sqrt().clamp(min=1e-12),
        "sign": lambda name: total[name].sign(),
        "Muon's": lambda name: orthogonal(total[name]),
    }
    print(f"cosine between two batches: {fmean(cosine(a, b) for a, b in itertools.combinations(found, 2)):.4f}")
    for label, direction in directions.items():
        print(f"cosine with the gold answers' direction, {label}: {cosine({n: direction(n) for n in gold}, gold):.4f}")


if __name__ == "__main__":
    main()
