"""Runs in transformers' environment with accelerate: one update by `Trainer`; prints its peak memory as a JSON line.

    python trainer_memory.py SETTINGS     SETTINGS: JSON of rows, context_tokens, dtype, n_threads, steps, model

Everything at the library's defaults but for what both sides have: precision, gradient checkpointing off, no logging.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments


class Rows(torch.utils.data.Dataset):
    """Rows of random tokens."""

    def __init__(self, n: int, length: int, vocabulary: int) -> None:
        self.ids = torch.randint(16, vocabulary, (n, length))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def main() -> None:
    """Train and print."""
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["n_threads"])
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings["model"], attn_implementation="sdpa", use_cache=False))
    bf16 = settings["dtype"] == "bfloat16"
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings["rows"],
            max_steps=settings["steps"],
            bf16=bf16,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        n_rows = settings["rows"] * settings["steps"]
        rows = Rows(n_rows, settings["context_tokens"], settings["model"]["vocab_size"])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_bytes": 1024 * peak, "before_bytes": 1024 * before}))


if __name__ == "__main__":
    main()
