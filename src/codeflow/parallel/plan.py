"""What a training run needs before it starts: memory by part, operations, bytes sent, time. Pure functions, no torch.

Memory is that of the most loaded rank, in the order of `parallel/place.py`: fp32 masters and optimizer state are
sharded over `fsdp` x `cp`, matrices are divided by `tp`, and with `tp` the residual stream between blocks is divided
along the sequence too. Attention is counted as a fused kernel that keeps q, k, v and its output. Not counted: what the
framework itself takes, and the allocator's fragmentation.

Time is a roofline: products run at `Hardware.efficiency` of the peak; gathers, reductions and the ring overlap with
them, what tensor parallelism and an all-to-all over `cp` send does not. It is an estimate, to choose between layouts; a
measured MFU replaces it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError, suggest
from codeflow.model.config import Checkpointing, ModelConfig
from codeflow.model.flops import cache_bytes, count_parameters, training_flops

_FP32 = 4  # bytes
_LOSS_CHUNK_BYTES, _LOSS_BLOCK_ROWS = 48 * 2**20, 64  # in train/losses.py: logits; rows of fp32 probabilities
_ITEM_BYTES = {"bf16": 2, "fp32": 4}


@dataclass(frozen=True, slots=True)
class Hardware:
    """One device. Peaks are dense operations per second, bandwidths bytes per second in one direction."""

    peak: dict[str, float]  # by precision
    memory_bytes: float
    link: float  # to devices of the same node
    network: float  # to other nodes
    per_node: int
    efficiency: float  # of the peak that large matrix products with attention reach; an assumption


HARDWARE = {
    "h100": Hardware({"bf16": 989e12, "fp32": 494e12}, 80e9, 450e9, 50e9, 8, 0.6),  # SXM; fp32 is TF32
    "h200": Hardware({"bf16": 989e12, "fp32": 494e12}, 141e9, 450e9, 50e9, 8, 0.6),
    "a100": Hardware({"bf16": 312e12, "fp32": 156e12}, 80e9, 300e9, 25e9, 8, 0.65),
    "cpu": Hardware({"bf16": 4e11, "fp32": 9.5e10}, 8e9, 5e9, 1e9, 2, 0.6),  # a core of an AVX512-BF16 server
}


class Layout(Config):
    """Sizes of the mesh axes, outermost first; `tp` is innermost, so that it stays within a node."""

    data: PositiveInt = 1  # groups that hold the same parameters
    fsdp: PositiveInt = 1  # ranks that share one copy
    cp: PositiveInt = 1  # parts of a row
    tp: PositiveInt = 1  # parts of a matrix

    @property
    def n_ranks(self) -> int:
        """The product of the axes."""
        return self.data * self.fsdp * self.cp * self.tp

    @property
    def n_groups(self) -> int:
        """How many ranks (or groups of ranks) read rows of their own."""
        return self.data * self.fsdp

    @property
    def n_shards(self) -> int:
        """How many ranks share the masters of one tensor-parallel part."""
        return self.fsdp * self.cp


def parse_layout(text: str) -> Layout:
    """Read `fsdp=8,tp=8`. Raises UserError for an unknown axis or a size that is no whole number."""
    sizes: dict[str, str] = {}
    for part in text.split(","):
        axis, equals, size = part.strip().partition("=")
        if not equals or axis not in Layout.model_fields:
            known = suggest(axis, Layout.model_fields)
            raise UserError(f"--parallel {text}: '{part}' is no axis=size{known}; write e.g. fsdp=8,tp=8")
        sizes[axis] = size
    return validate(Layout, sizes, f"--parallel {text}")


class PlanConfig(Config):
    """A training run to be planned."""

    model: ModelConfig
    gpus: PositiveInt = 1
    layout: Layout = Layout()
    context_tokens: PositiveInt = 4096
    micro_rows: PositiveInt = 1  # rows of one backward pass of a group of ranks
    step_tokens: PositiveInt | None = None  # of one update; None: one backward pass per group
    tokens: float = Field(default=1e12, gt=0)  # of the whole run
    precision: Literal["bf16", "fp32"] = "bf16"
    matrices: Literal["muon", "adamw"] = "adamw"
    checkpointing: Checkpointing = "full"
    loss_chunk_rows: PositiveInt = 512
    context_exchange: Literal["ring", "all_to_all"] = "ring"  # along `cp`; as in parallel/config.py
    hardware: str = "h100"
    mfu: float | None = Field(default=None, gt=0, le=1)  # measured; None: estimated

    @field_validator("hardware")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in HARDWARE:
            raise ValueError(f"no such hardware{suggest(name, HARDWARE)}")
        return name

    @model_validator(mode="after")
    def _divides(self) -> PlanConfig:
        layout, model = self.layout, self.model
        if layout.n_ranks != self.gpus:
            axes = " x ".join(f"{axis}={size}" for axis, size in layout if size > 1) or "no axis"
            raise ValueError(
                f"{axes} makes {layout.n_ranks} ranks, gpus={self.gpus}; "
                f"change gpus to {layout.n_ranks} or the axes (data=N repeats the whole layout)"
            )
        for field in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
            if getattr(model, field) % layout.tp:
                raise ValueError(f"tp={layout.tp} does not divide {field}={getattr(model, field)}; use a divisor of it")
        if self.context_tokens % layout.cp:
            raise ValueError(f"cp={layout.cp} does not divide context_tokens={self.context_tokens}; use a divisor")
        kv_heads = model.num_key_value_heads // layout.tp
        if self.context_exchange == "all_to_all" and kv_heads % layout.cp:
            left = f" / tp={layout.tp}" if layout.tp > 1 else ""
            raise ValueError(
                f"cp={layout.cp} does not divide num_key_value_heads={model.num_key_value_heads}{left}, which "
                "context_exchange=all_to_all needs; use a divisor of it, or context_exchange=ring"
            )
        if self.context_tokens > model.max_position_embeddings:
            raise ValueError(
                f"context_tokens={self.context_tokens} exceeds max_position_embeddings="
                f"{model.max_position_embeddings}; shorten the rows or raise it"
            )
        if self.step_tokens is not None and self.step_tokens % self.pass_tokens:
            raise ValueError(
                f"step_tokens={self.step_tokens} is no multiple of the {self.pass_tokens} tokens of one backward "
                "pass over all ranks (data x fsdp x micro_rows x context_tokens)"
            )
        return self

    @property
    def pass_tokens(self) -> int:
        """Tokens of one backward pass over all ranks."""
        return self.layout.n_groups * self.micro_rows * self.context_tokens

    @property
    def n_passes(self) -> int:
        """Backward passes of one update."""
        return (self.step_tokens or self.pass_tokens) // self.pass_tokens

    @property
    def exchanges_heads(self) -> bool:
        """Whether ranks that share rows exchange their positions for heads."""
        return self.layout.cp > 1 and self.context_exchange == "all_to_all"

    @property
    def rank_tokens(self) -> int:
        """Tokens whose residual stream one rank holds in one pass, before `tp` divides it."""
        return self.micro_rows * self.context_tokens // self.layout.cp


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of one rank; `when` they are there: always, during the backward pass, or during the update."""

    name: str
    n_bytes: int
    when: Literal["always", "pass", "update"]


def memory(plan: PlanConfig) -> list[Part]:
    """Return what the most loaded rank holds, part by part."""
    root, block = _unit_parameters(plan)
    total = root + plan.model.num_hidden_layers * block
    mine = math.ceil(total / plan.layout.n_shards)
    item = _ITEM_BYTES[plan.precision]
    sharded = plan.layout.n_groups * plan.layout.cp > 1
    if sharded:  # the root stays gathered from forward to backward, blocks come and go: one in use, one on its way
        weights, gradients = item * (root + 2 * block), (item + _FP32) * max(root, block)
        if plan.model.looped:  # autograd holds the later loops' share of every block until the first loop's is there
            gradients += item * plan.model.num_hidden_layers * block
    else:
        weights = item * total if plan.precision == "bf16" else 0  # in fp32 the masters are the weights
        gradients = weights
    parts = [
        Part("masters (fp32)", _FP32 * mine, "always"),
        Part("optimizer state (fp32)", _optimizer_bytes(plan, mine), "always"),
        Part("weights", weights, "pass" if sharded else "always"),
        Part("gradients (fp32)", _FP32 * mine, "always"),
        Part("gradients being reduced" if sharded else "gradients of the weights", gradients, "pass"),
        Part("activations", activation_bytes(plan), "pass"),
        Part("logits of a chunk, gradients of the head", _loss_bytes(plan), "pass"),
        Part("optimizer workspace", _workspace_bytes(plan), "update"),
    ]
    return [part for part in parts if part.n_bytes]


def peak_bytes(parts: list[Part]) -> int:
    """Return the largest sum of parts that exist at one time."""
    at = {when: sum(part.n_bytes for part in parts if part.when == when) for when in ("always", "pass", "update")}
    return at["always"] + max(at["pass"], at["update"])


def _unit_parameters(plan: PlanConfig) -> tuple[int, int]:
    """Return the parameters of a tensor-parallel part of (embedding, head and final norm) and of one block."""
    model, count, tp = plan.model, count_parameters(plan.model), plan.layout.tp
    root = (count.embedding + count.head) // tp + model.hidden_size
    block = (count.attention + count.mlp + count.gates) // (model.num_hidden_layers * tp) + 2 * model.hidden_size
    return root, block


def _optimizer_bytes(plan: PlanConfig, mine: int) -> int:
    """Muon keeps one moment of the blocks' matrices, AdamW two of everything else."""
    if plan.matrices == "adamw":
        return 2 * _FP32 * mine
    count = count_parameters(plan.model)
    matrices = math.ceil((count.attention + count.mlp) / (plan.layout.tp * plan.layout.n_shards))
    return _FP32 * matrices + 2 * _FP32 * (mine - matrices)


def _workspace_bytes(plan: PlanConfig) -> int:
    """Muon's iteration over all matrices of one shape, whole on every rank: in, out and twice in the precision.

    AdamW works in place.
    """
    if plan.matrices == "adamw":
        return 0
    m, q_size = plan.model, plan.model.num_attention_heads * plan.model.head_dim
    kv_size, item = m.num_key_value_heads * m.head_dim, _ITEM_BYTES[plan.precision]
    sizes: dict[tuple[int, int], int] = {}
    both = [(m.intermediate_size, m.hidden_size)] * 2 + [(kv_size, m.hidden_size)] * 2
    for shape in [*both, (q_size, m.hidden_size), (m.hidden_size, q_size), (m.hidden_size, m.intermediate_size)]:
        sizes[shape] = sizes.get(shape, 0) + m.num_hidden_layers * shape[0] * shape[1]
    return (2 * _FP32 + 2 * item) * max(sizes.values())


def block_elements(model: ModelConfig, loop: int, selective: bool = False, exchanged: bool = False) -> int:
    """Return the elements per token that one run of a block keeps for its backward pass.

    Residual stream and its norm, twice; q, k, v and the attention's output; gate, up and product of the MLP. A later
    loop also keeps the two attentions' outputs. `selective` leaves norms and product out. Where heads are `exchanged`,
    the output (of a later loop: q) exists for the rank's positions and for its heads.
    """
    heads, groups = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    kept = 4 * model.hidden_size + 2 * heads + 2 * groups + 3 * model.intermediate_size
    if selective:
        kept -= 2 * model.hidden_size + model.intermediate_size
    return kept + (2 * heads if loop else 0) + (heads if exchanged else 0)


def activation_bytes(plan: PlanConfig) -> int:
    """Return what one rank keeps of a forward pass for the backward pass.

    With `tp` a rank has its positions of the residual stream, and its heads and columns of all positions; what enters
    attention and MLP, and the loss, it has gathered whole.
    """
    model, layers, tp = plan.model, plan.model.num_hidden_layers, plan.layout.tp
    selective = plan.checkpointing == "selective"
    gathered = 2 * model.hidden_size if tp > 1 else 0  # of one run of a block: both norms, which nothing else keeps
    runs = [block_elements(model, loop, selective, plan.exchanges_heads) for loop in range(model.loop_num)]
    runs = [kept - (0 if selective else gathered) for kept in runs]
    if plan.checkpointing == "full":  # each run's input, the first loop's keys and values, and one block computed again
        groups = model.num_key_value_heads * model.head_dim
        divided = layers * (model.loop_num * model.hidden_size + (2 * groups if model.looped else 0)) + max(runs)
    else:
        divided = layers * sum(runs)
        if selective:  # what is made again, one at a time
            divided += max(model.hidden_size, model.intermediate_size)
        gathered *= layers * model.loop_num
    divided, whole = divided + model.hidden_size, gathered + model.hidden_size  # the last norm and what it is of
    return _ITEM_BYTES[plan.precision] * plan.rank_tokens * (divided + whole * tp) // tp


def _loss_bytes(plan: PlanConfig) -> int:
    model, item = plan.model, _ITEM_BYTES[plan.precision]
    words = model.vocab_size // plan.layout.tp
    rows = min(plan.loss_chunk_rows, plan.rank_tokens, max(1, _LOSS_CHUNK_BYTES // (words * item)))
    logits = rows * words * item + min(_LOSS_BLOCK_ROWS, rows) * words * _FP32
    head = words * model.hidden_size * (_FP32 + item)
    return logits + head + plan.rank_tokens * model.hidden_size * item


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes that one rank sends in one update, by axis."""

    fsdp: int
    data: int
    cp: int
    tp: int


def traffic(plan: PlanConfig) -> Traffic:
    """Return the bytes that one rank sends in one update, with rings for gathers and reductions.

    Every run of a block gathers it in the forward and in the backward pass; its gradient, summed over the loops, is
    reduced once, in fp32. The root is gathered once and reduced once. For `cp` see `_context_traffic`. A block's two
    pairs of gather and scatter over `tp` run forward, backward and, but for the last scatter, when recomputed;
    embedding, final norm and loss send as much as five more.
    """
    model, layout, item = plan.model, plan.layout, _ITEM_BYTES[plan.precision]
    root, block = _unit_parameters(plan)
    runs = model.num_hidden_layers * model.loop_num
    part = (layout.n_shards - 1) / layout.n_shards
    gradient = _FP32 * (root + model.num_hidden_layers * block)
    gathered = (2 * runs * block + root) * item + gradient
    stream = plan.rank_tokens * model.hidden_size * item
    crossings = runs * (11 if plan.checkpointing == "full" else 8) + 5
    return Traffic(
        fsdp=round(plan.n_passes * part * gathered),
        data=round(2 * (layout.data - 1) / layout.data * gradient / layout.n_shards),
        cp=plan.n_passes * _context_traffic(plan) if layout.cp > 1 else 0,
        tp=round(plan.n_passes * crossings * (layout.tp - 1) / layout.tp * stream),
    )


def _context_traffic(plan: PlanConfig) -> int:
    """Return the bytes that one rank sends along `cp` in one pass.

    Ring: keys and values go around in each loop, forward, backward and when recomputed, and their fp32 gradients once,
    a whole turn; of the window's keys and values the last window - 1 of both chunks travel (a rank at a row's end sends
    less). All-to-all: of q, k, v and the output, and of a later loop's gate logits, the other ranks' parts, each time.
    """
    model, n, item = plan.model, plan.layout.cp, _ITEM_BYTES[plan.precision]
    runs, turns = model.num_hidden_layers * model.loop_num, 3 if plan.checkpointing == "full" else 2
    later_runs = runs - model.num_hidden_layers
    heads, kv = model.num_attention_heads // plan.layout.tp, 2 * model.num_key_value_heads // plan.layout.tp
    if plan.exchanges_heads:
        gates = heads * (model.head_dim if model.research.gate_per_element else 1)
        elements = runs * (2 * heads + kv) * model.head_dim + later_runs * gates
        return turns * elements * plan.rank_tokens // n * (n - 1) * item
    position = kv * model.head_dim  # elements of its keys and values
    ring = position * plan.rank_tokens * (turns * (n - 1) * item + n * _FP32)
    halo = position * plan.micro_rows * 2 * (model.loop_window_size - 1) * turns * item
    return runs * ring + later_runs * halo


@dataclass(frozen=True, slots=True)
class Plan:
    """The result: what a rank holds, and what an update and the run cost."""

    parts: list[Part]
    peak_bytes: int
    memory_bytes: float  # of the device
    step_tokens: int
    step_flops: int  # of the model; recomputation is not counted, so that MFU means the same everywhere
    step_seconds: float
    mfu: float
    days: float
    traffic: Traffic
    cache_bytes_per_sequence: int  # when the model is served at this context, in bf16

    @property
    def fits(self) -> bool:
        """Whether the counted parts fit the device, a tenth kept free for what is not counted."""
        return self.peak_bytes <= 0.9 * self.memory_bytes


def make_plan(plan: PlanConfig) -> Plan:
    """Plan one run."""
    hardware, layout = HARDWARE[plan.hardware], plan.layout
    peak = hardware.peak[plan.precision] * plan.gpus
    n_rows = plan.n_passes * layout.n_groups * plan.micro_rows
    flops = n_rows * training_flops(plan.model, plan.context_tokens)
    sent = traffic(plan)
    seconds = step_seconds(plan, sent) if plan.mfu is None else flops / (peak * plan.mfu)
    parts, step_tokens = memory(plan), plan.n_passes * plan.pass_tokens
    return Plan(
        parts=parts,
        peak_bytes=peak_bytes(parts),
        memory_bytes=hardware.memory_bytes,
        step_tokens=step_tokens,
        step_flops=flops,
        step_seconds=seconds,
        mfu=flops / (seconds * peak),
        days=plan.tokens / step_tokens * seconds / 86400,
        traffic=sent,
        cache_bytes_per_sequence=cache_bytes(plan.model, plan.context_tokens).total,
    )


def step_seconds(plan: PlanConfig, sent: Traffic) -> float:
    """Return the estimated time of an update in which a rank sends so much."""
    hardware, layout = HARDWARE[plan.hardware], plan.layout
    n_rows = plan.n_passes * layout.n_groups * plan.micro_rows
    computed = n_rows * training_flops(plan.model, plan.context_tokens, recomputed=plan.checkpointing == "full")
    products = computed / (hardware.peak[plan.precision] * plan.gpus * hardware.efficiency)
    inner = layout.tp * layout.cp
    gathers = sent.fsdp / _bandwidth(hardware, inner * layout.fsdp)
    shared = sent.cp / _bandwidth(hardware, inner)
    waits = sent.tp / _bandwidth(hardware, layout.tp) + sent.data / hardware.network
    if plan.exchanges_heads:  # attention waits for it
        return max(products, gathers) + shared + waits
    return max(products, gathers + shared) + waits


def _bandwidth(hardware: Hardware, span: int) -> float:
    """Return the bandwidth between ranks that span so many devices."""
    return hardware.link if span <= hardware.per_node else hardware.network
