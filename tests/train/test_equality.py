"""One, two and four processes give the same losses and gradients over five steps, whatever the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from codeflow.parallel import checkpoint
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.mesh import world
from codeflow.parallel.place import place, whole
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective
from codeflow.train.optimizer import Optimizer
from tests.ranks import run_ranks
from tests.train.equality import Case, differences, make_model, own_batches, train_all

CONTEXT, TENSOR = {"context": 2}, {"tensor": 2}
HEADS = {"context": 2, "context_exchange": "all_to_all"}
FOUR_GROUPS = {"num_key_value_heads": 4}
QUICK = [
    Case("context", CONTEXT),
    Case("context_fp64", CONTEXT, loops=3, dtype=torch.float64),
    Case("tensor", TENSOR, loss={"z_loss": 1e-3}),
    Case("heads", HEADS),
    Case("heads_fp64", HEADS, loops=3, dtype=torch.float64),
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
        Case("context_recomputed", CONTEXT, loss={"checkpointing": "full"}, micro_rows=1),
        Case("context_strict", CONTEXT, window=1, model={"research": {"strict_local_mask": True}}),
        Case("context_tied", {"context": 2, "regather": False}, model={"tie_word_embeddings": True}),
        Case("tensor_dense", TENSOR, loops=1),
        Case("tensor_fp64", TENSOR, loops=3, dtype=torch.float64, loss={"z_loss": 1e-3}),
        Case("tensor_tied", {"tensor": 2, "regather": False}, model={"tie_word_embeddings": True}, micro_rows=2),
        Case("shard_selective", {}, loops=3, loss={"checkpointing": "selective"}, micro_rows=1),
        Case("context_selective", CONTEXT, loss={"checkpointing": "selective"}),
        Case("tensor_recomputed", TENSOR, loss={"checkpointing": "full"}),
        Case("tensor_selective", TENSOR, loss={"checkpointing": "selective"}),
        Case("shard_compiled", {}, loops=3, compiler="aot_eager", micro_rows=1),
        Case("replicas_compiled", {"data": 2, "shard": 1}, compiler="inductor", loss={"checkpointing": "full"}),
        Case("context_compiled", CONTEXT, compiler="aot_eager"),
        Case("tensor_gates", TENSOR, model={"research": {"gate_input": "hidden", "gate_per_element": True}}),
        Case("heads_dense", HEADS, loops=1),
        Case("heads_whole_rows", HEADS, packed=False),
        Case("heads_three_loops", HEADS, loops=3, window=3),
        Case("heads_recomputed", HEADS, loss={"checkpointing": "full"}, micro_rows=1),
        Case("heads_selective", HEADS, loops=3, loss={"checkpointing": "selective"}),
        Case("heads_strict", HEADS, window=1, model={"research": {"strict_local_mask": True}}),
        Case("heads_gates", HEADS, model={"research": {"gate_input": "hidden", "gate_per_element": True}}),
        Case("heads_tied", {**HEADS, "regather": False}, model={"tie_word_embeddings": True}),
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
        Case("data_context", {"data": 2, "context": 2}, loss={"checkpointing": "full", "z_loss": 1e-3}),
        Case("heads", {**HEADS, "context": 4}, window=40, model=FOUR_GROUPS),
        Case("heads_dense", {**HEADS, "context": 4}, loops=1, model=FOUR_GROUPS),
        Case("heads_fp64", {**HEADS, "context": 4}, loops=3, dtype=torch.float64, model=FOUR_GROUPS),
        Case("shard_heads", HEADS, loops=3),
        Case("heads_tensor", {**HEADS, "tensor": 2}, loops=3, model=FOUR_GROUPS),
        Case("heads_tensor_fp64", {**HEADS, "tensor": 2}, dtype=torch.float64, model=FOUR_GROUPS),
        Case("data_heads", {**HEADS, "data": 2}, loss={"checkpointing": "full", "z_loss": 1e-3}),
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


def reshard(layouts: list[dict[str, Any]], folder: Path) -> None:
    """Train two steps on the first layout and save; every other layout must hold the same, and save it alike."""
    case = Case("reshard", {}, micro_rows=2)
    expected: dict[str, torch.Tensor] = {}
    for number, axes in enumerate(layouts):
        config = MeshConfig.model_validate(axes)
        with world(config) as here:
            model = make_model(case)
            objective = Objective(model, NextToken())
            placed = place(model, objective, model.layers, here.mesh, torch.float32, config)
            optimizer = Optimizer(placed.masters, OptimizerConfig(), torch.float32)
            masters = {name: master.detach() for name, master in placed.masters.items()}
            state = {**masters, **optimizer.tensors()}
            if number:
                checkpoint.load(folder / f"{number - 1}", state)
            else:
                trainee = Trainee(objective, placed, optimizer, here)
                for step in range(2):
                    train_step(trainee, own_batches(case, here, step), 1.0, 1e9)
                expected = {name: whole(tensor).clone() for name, tensor in state.items()}
            for name, tensor in state.items():
                assert torch.equal(whole(tensor), expected[name]), (axes, name)
            checkpoint.save(folder / f"{number}", 2, state, {}, here)


@pytest.mark.slow
def test_a_checkpoint_of_one_layout_fits_every_other(tmp_path: Path) -> None:
    layouts = [{"context": 2, "tensor": 2}, {"data": 2}, {"tensor": 2}, {"data": 2, "context": 2}, {}, {"context": 4}]
    run_ranks(4, tmp_path, reshard, [*layouts, layouts[0]], tmp_path)
