"""Runs in transformers' environment: what it makes of exported directories, checked within and saved for comparison.

    python logits.py JOBS OUTPUT

JOBS is a JSON file: {name: {"folder": exported directory, "ids": [[...]], "new": tokens to generate}}. OUTPUT is an
.npz with `<name>/prefill` and `<name>/tokens` (fp32 logits), `<name>/greedy` (ids of rows generated from ids[:, :6]),
`<name>/padded` (the same with the second row's prompt cut to 4 tokens and padded at its left), `<name>/beams` and
`<name>/beams_uncached` (three beams, which reorder the cache, and the same without a cache), and
`<name>/gradient` and `<name>/checkpointed` (of the first key projection, without and with gradient checkpointing).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def gradient(model, ids: torch.Tensor) -> np.ndarray:
    """Return the gradient of the first key projection under the language-model loss."""
    model.zero_grad()
    model.train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    model.eval()
    return model.model.layers[0].self_attn.k_proj.weight.grad.numpy().copy()


@torch.no_grad()
def outputs(model, ids: torch.Tensor, n_new: int) -> dict[str, np.ndarray]:
    """Return logits and generations."""
    whole = model(input_ids=ids).logits
    parts, cache = [], None
    for at, size in ((0, 6), *((i, 1) for i in range(6, ids.shape[1]))):
        step = model(input_ids=ids[:, at : at + size], past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        parts.append(step.logits)
    options = {"max_new_tokens": n_new, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt = ids[:, :6]
    greedy = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[:, 6:]
    padded, mask = prompt.clone(), torch.ones_like(prompt)
    padded[1] = torch.cat([torch.zeros(2, dtype=ids.dtype), ids[1, :4]])
    mask[1, :2] = 0
    found = {
        "prefill": whole,
        "tokens": torch.cat(parts, 1),
        "greedy": greedy,
        "padded": model.generate(padded, attention_mask=mask, **options)[:, 6:],
        "beams": model.generate(prompt, attention_mask=torch.ones_like(prompt), num_beams=3, **options)[:, 6:],
        "beams_uncached": model.generate(
            prompt, attention_mask=torch.ones_like(prompt), num_beams=3, use_cache=False, **options
        )[:, 6:],
    }
    return {name: value.float().numpy() for name, value in found.items()}


def main() -> None:
    """Do all jobs."""
    found: dict[str, np.ndarray] = {}
    for name, job in json.loads(Path(sys.argv[1]).read_text()).items():
        model = AutoModelForCausalLM.from_pretrained(job["folder"], trust_remote_code=True).float().eval()
        ids = torch.tensor(job["ids"])
        results = outputs(model, ids, job["new"])
        results["gradient"] = gradient(model, ids)
        model.gradient_checkpointing_enable()
        results["checkpointed"] = gradient(model, ids)
        found |= {f"{name}/{key}": value for key, value in results.items()}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
