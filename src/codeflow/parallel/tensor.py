"""Tensor parallelism: the matrices of a model in parts on the processes of a group (Shoeybi et al. 2019, Megatron-LM).

The projections to queries, keys, values, gates and into the MLP make this process's heads and columns; the projections
back make its share of a sum over the group. Between them hidden states are cut along the sequence (Korthikanti et al.
2022): they are gathered before attention and MLP, and the shares are added up and cut again behind them. Embedding and
output head are cut by words; the loss (`train.losses`) reads from the head which words are here, and gets whole hidden
states. Norms are whole on every process and see its positions only, so their gradients are added up.

Parameters become DTensors, so that FSDP2, optimizer and checkpoints know the layout; a module computes with its plain
local part.

Not covered: `research.shift`, which moves hidden states by one position.

Legend: B rows, S positions of the group, n processes of the group, C hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor

from codeflow.core.errors import UserError
from codeflow.model.block import Block
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder

_BY_ROW = ("q_proj", "k_proj", "v_proj", "gate_projection", "gate_proj", "up_proj", "embed_tokens", "lm_head")
_BY_COLUMN = ("o_proj", "down_proj")
_DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


def split_matrices(model: LoopCoder, mesh: DeviceMesh) -> None:
    """Keep this process's parts of the parameters (equal on all) and compute with them. `mesh` has one axis.

    Raises UserError for a model whose heads or sizes the group does not divide, or that looks beyond its positions.
    """
    _check_divides(model.config, mesh.size())
    parts: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay one
    for name, module in model.named_modules():
        leaf = name.rpartition(".")[2]
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and parameter not in parts:
                part = distribute_tensor(parameter.detach(), mesh, [_placement(leaf)], src_data_rank=None)
                parts[parameter] = nn.Parameter(part)
            if parameter is not None:
                module._parameters[key] = parts[parameter]
        if module._parameters and leaf not in ("lm_head", "embed_tokens"):
            _compute_locally(module)
    group = mesh.get_group()
    _wrap(model.embed_tokens, lambda _, ids: _embed(model.embed_tokens, ids, group))
    _wrap(model.norm, lambda forward, x: _Whole.apply(forward(x), group))
    for block in model.layers:
        assert isinstance(block, Block)
        for branch in (block.self_attn, block.mlp):
            _wrap(branch, lambda forward, x, *rest: forward(_Enter.apply(x, group), *rest))
        for back in (block.self_attn.o_proj, block.mlp.down_proj):
            _wrap(back, lambda forward, x: _Leave.apply(forward(x), group))


def _check_divides(config: ModelConfig, n_parts: int) -> None:
    if config.research.shift:
        raise UserError("research.shift moves hidden states across the ranks of mesh.tensor; set one of them off")
    for field in _DIVIDED:
        if getattr(config, field) % n_parts:
            raise UserError(
                f"mesh.tensor={n_parts} does not divide {field}={getattr(config, field)}; use a divisor of it"
            )


def _placement(leaf: str) -> Placement:
    return Shard(0) if leaf in _BY_ROW else Shard(1) if leaf in _BY_COLUMN else Replicate()


def _wrap(module: nn.Module, call: Callable[..., Any]) -> None:
    """Let `call(forward, *arguments)` stand in for the module's forward."""
    forward = module.forward
    module.forward = lambda *arguments: call(forward, *arguments)


def _compute_locally(module: nn.Module) -> None:
    def call(forward: Callable[..., Any], *arguments: Any) -> Any:
        with _local_parameters(module):
            return forward(*arguments)

    _wrap(module, call)


@contextmanager
def _local_parameters(module: nn.Module) -> Iterator[None]:
    """Show the module the local parts of what stands for its parameters now.

    An attribute of the instance hides the parameter of its name; `model.block` may have put one there itself.
    """
    before = dict(module.__dict__)
    try:
        for key in module._parameters:
            shown = getattr(module, key)
            module.__dict__[key] = _local(shown) if isinstance(shown, DTensor) else shown
        yield
    finally:
        for key in module._parameters:
            module.__dict__.pop(key, None)
            if key in before:
                module.__dict__[key] = before[key]


def _local(weight: DTensor) -> Tensor:
    """Return the local part; whole weights are norms', whose gradient here is that of some positions."""
    return weight.to_local(grad_placements=[Partial() if p.is_replicate() else p for p in weight.placements])


def _embed(module: nn.Embedding, ids: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the embeddings (B, S / n, C) of ids (B, S): each process looks its own words up.

    Raises UserError when the positions cannot be cut.
    """
    if ids.shape[1] % group.size():
        raise UserError(
            f"mesh.tensor={group.size()} does not divide the {ids.shape[1]} tokens of a row that each of its groups "
            "holds; use longer rows or another size"
        )
    with _local_parameters(module):
        words = module.weight
        places = ids - group.rank() * words.shape[0]
        here = (places >= 0) & (places < words.shape[0])
        found = nn.functional.embedding(places.masked_fill(~here, 0), words)
        result = _Leave.apply(found.masked_fill(~here[..., None], 0), group)
    assert isinstance(result, Tensor)
    return result


class _Enter(torch.autograd.Function):
    """Hidden states (B, S / n, C) into (B, S, C), of which every process makes something of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _summed_and_cut(gradients[0], ctx.group), None


class _Leave(torch.autograd.Function):
    """This process's share (B, S, C) of a sum into the sum's positions (B, S / n, C) of this process."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _summed_and_cut(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _gathered(gradients[0], ctx.group), None


class _Whole(torch.autograd.Function):
    """Hidden states (B, S / n, C) into (B, S, C), with which all processes do the same: gradients are equal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _gathered(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].chunk(ctx.group.size(), 1)[ctx.group.rank()].contiguous(), None


def _gathered(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    n_rows, length, size = x.shape
    parts = x.new_empty((group.size() * n_rows, length, size))
    dist.all_gather_into_tensor(parts, x.contiguous(), group=group)
    return parts.unflatten(0, (-1, n_rows)).transpose(0, 1).flatten(1, 2)


def _summed_and_cut(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    parts = torch.cat(x.chunk(group.size(), 1))
    total = x.new_empty((x.shape[0], x.shape[1] // group.size(), x.shape[2]))
    dist.reduce_scatter_tensor(total, parts, group=group)
    return total
