"""One, two and four processes give the same losses and gradients over five steps, whatever the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from tests.train.equality import Case, differences, train_all

CONTEXT, TENSOR = {"context": 2}, {"tensor": 2}
QUICK = [
    Case("context", CONTEXT),
    Case("context_fp64", CONTEXT, loops=3, dtype=torch.float64),
    Case("tensor", TENSOR, loss={"z_loss": 1e-3}),
]
CASES = {
    2: [
        Case("shard", {}),
        Case("shard_once", {"regather": False}, micro_rows=1),
        Case("replicas", {"data": 2, "shard": 1}),
        Case("context_dense", CONTEXT, loops=1),
        Case("context_whole_rows", CONTEXT, packed=False),
        Case("context_three_loops", CONTEXT, loops=3, window=3),
        Case("context_gather", {"context": 2, "context_keys": "gather"}, loops=3),
        Case("context_recomputed", CONTEXT, loss={"checkpoint_blocks": True}, micro_rows=1),
        Case("context_strict", CONTEXT, window=1, model={"research": {"strict_local_mask": True}}),
        Case("context_tied", {"context": 2, "regather": False}, model={"tie_word_embeddings": True}),
        Case("tensor_dense", TENSOR, loops=1),
        Case("tensor_fp64", TENSOR, loops=3, dtype=torch.float64, loss={"z_loss": 1e-3}),
        Case("tensor_tied", {"tensor": 2, "regather": False}, model={"tie_word_embeddings": True}, micro_rows=2),
        Case("tensor_recomputed", TENSOR, loss={"checkpoint_blocks": True}),
        Case("tensor_gates", TENSOR, model={"research": {"gate_input": "hidden", "gate_per_element": True}}),
    ],
    4: [
        Case("shard", {}),
        Case("hybrid", {"data": 2}),
        Case("context", {"context": 4}, window=40),
        Case("context_fp64", {"context": 4}, loops=3, dtype=torch.float64),
        Case("shard_context", CONTEXT, loops=3),
        Case("shard_context_once", {"context": 2, "regather": False, "context_keys": "gather"}),
        Case("shard_tensor", TENSOR, loops=3),
        Case("data_tensor", {"data": 2, "tensor": 2}),
        Case("context_tensor", {"context": 2, "tensor": 2}, loops=3),
        Case("context_tensor_fp64", {"context": 2, "tensor": 2, "regather": False}, dtype=torch.float64),
        Case("data_context", {"data": 2, "context": 2}, loss={"checkpoint_blocks": True, "z_loss": 1e-3}),
    ],
}


def check(n_ranks: int, cases: list[Case], folder: Path) -> None:
    run_ranks(n_ranks, folder, train_all, cases, folder)
    for case in cases:
        for name, difference in differences(case, folder).items():
            assert difference <= case.tolerance, f"{case.name} on {n_ranks} processes: {name}"


def test_two_processes_that_share_rows_train_as_one(tmp_path: Path) -> None:
    check(2, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", CASES)
def test_all_layouts_train_as_one(n_ranks: int, tmp_path: Path) -> None:
    check(n_ranks, CASES[n_ranks], tmp_path)
