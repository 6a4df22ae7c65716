"""`codeflow plan`: what a published shape, a model directory, or each phase of a recipe needs before it starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from codeflow.core.config import Config, apply_overrides, validate
from codeflow.core.errors import UserError, suggest
from codeflow.execute.chain import Stage, resolve
from codeflow.model.config import PRESETS, ModelConfig, preset
from codeflow.model.flops import count_parameters
from codeflow.parallel.layouts import fastest
from codeflow.parallel.plan import Layout, Plan, PlanConfig, Traffic, make_plan, parse_layout, step_seconds
from codeflow.recipes.runner import recipes
from codeflow.tokens.pack import PackConfig
from codeflow.train.config import TrainConfig
from codeflow.train.fold import FoldConfig

_RECOMPUTED = {"none": "", "full": ", blocks recomputed", "selective": ", norms and SwiGLU recomputed"}
_PIPE_COLUMNS = 200  # a pipe has no width: nothing may be cut there


class PlanRequest(Config):
    """What the command line says beside the name; None: the recipe's own, or the planner's default."""

    gpus: int | None = None
    parallel: str | None = None
    context_tokens: int | None = None
    micro_rows: int | None = None
    step_tokens: int | None = None
    tokens: float | None = None
    hardware: str | None = None
    precision: str | None = None
    matrices: str | None = None
    mfu: float | None = None
    checkpointing: str | None = None
    context_exchange: str | None = None
    simulate: bool = False


def plans(name: str, request: PlanRequest, overrides: Sequence[str] = ()) -> dict[str, tuple[PlanConfig, Plan]]:
    """Return the plan of a shape, or of every training phase of a recipe, by name.

    `name` is a preset, a Hugging Face directory or config.json, or a recipe; `overrides` change its fields.
    Raises UserError for a name that is none of these and for a layout that does not fit.
    """
    found: dict[str, tuple[PlanConfig, Plan]] = {}
    for label, fields in _named(name, overrides):
        tree = fields | request.model_dump(exclude={"parallel", "gpus", "simulate"}, exclude_none=True)
        config = _laid_out(tree, request, label)
        found[label] = (config, make_plan(config))
    return found


def _laid_out(tree: Mapping[str, Any], request: PlanRequest, label: str) -> PlanConfig:
    """Return the plan in the layout that is asked for; in the fastest that fits where only the devices are."""
    if request.parallel or request.gpus in (None, 1):
        layout = parse_layout(request.parallel) if request.parallel else Layout()
        gpus = request.gpus or layout.n_ranks
        return validate(PlanConfig, {**tree, "gpus": gpus, "layout": layout.model_dump()}, label)
    any_layout = {"gpus": request.gpus, "layout": {"data": request.gpus}}
    step_tokens = tree.get("step_tokens")
    config = validate(PlanConfig, {**tree, **any_layout, "step_tokens": None}, label)
    return fastest(config.model_copy(update={"step_tokens": step_tokens}))


def _named(name: str, overrides: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    shape = name.removeprefix("dense_")
    if shape in PRESETS:
        model = apply_overrides(preset(shape), overrides)
        yield name, {"model": model.model_dump()}
    elif name in recipes():
        yield from _phases(apply_overrides(resolve(recipes()[name])(), overrides).chain())
    elif Path(name).exists():
        from codeflow.model.huggingface import CONFIG, read_config

        folder = Path(name).parent if Path(name).name == CONFIG else Path(name)
        yield name, {"model": apply_overrides(read_config(folder), overrides).model_dump()}
    else:
        known = suggest(name, [*PRESETS, *recipes()])
        raise UserError(f"plan: '{name}' is no published shape, recipe or model directory{known}")


def _phases(stages: Sequence[Stage]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk a chain: a phase has the shape of its parent, a fold changes it, rows are as long as they were packed."""
    shapes: dict[str, ModelConfig] = {}
    contexts = {stage.name: stage.config.context_tokens for stage in stages if isinstance(stage.config, PackConfig)}
    for stage in stages:
        config = stage.config
        if isinstance(config, FoldConfig):
            shapes[stage.name] = _folded(shapes[stage.inputs["checkpoint"]], config)
        if not isinstance(config, TrainConfig):
            continue
        shapes[stage.name] = config.model or shapes[stage.inputs["parent"]]
        context_tokens = contexts[stage.inputs["tokens"]]
        yield (
            stage.name,
            {
                "model": shapes[stage.name].model_dump(),
                "context_tokens": context_tokens,
                "micro_rows": config.micro_rows or config.batch_rows,
                "step_tokens": config.batch_rows * context_tokens,
                "tokens": config.steps * config.batch_rows * context_tokens,
                "precision": config.precision,
                "matrices": config.optimizer.matrices,
                "checkpointing": config.checkpointing,
                "loss_chunk_rows": config.loss_chunk_rows,
                "hardware": "cpu",
            },
        )


def _folded(dense: ModelConfig, config: FoldConfig) -> ModelConfig:
    from codeflow.model.fold import FoldSettings, folded_config

    shared = config.model_dump(include={"strategy", "loop_num", "loop_window_size", "research"})
    return folded_config(dense, validate(FoldSettings, shared))


def print_plans(name: str, request: PlanRequest, overrides: Sequence[str], as_json: bool) -> None:
    """Print the plans as tables, or as one JSON object by name."""
    found = plans(name, request, overrides)
    if as_json:
        trees = {
            label: {"config": config.model_dump(mode="json"), "n_parameters": _n_parameters(config)}
            | asdict(plan)
            | {"fits": plan.fits}
            | ({"simulated": _simulated(config)} if request.simulate else {})
            for label, (config, plan) in found.items()
        }
        print(json.dumps(trees, indent=2))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPE_COLUMNS
    if len(found) > 1:
        _print_phases(console, found)
    else:
        for label, (config, plan) in found.items():
            _print(console, label, config, plan)
    for label, (config, plan) in found.items() if request.simulate else ():
        _print_simulation(console, label, config, plan)


def _simulated(config: PlanConfig) -> dict[str, Any]:
    """Return what a rank is found to hold and send in a step without data, and the time estimated from it."""
    from codeflow.train.simulate import simulate

    trace = simulate(config)
    sent = Traffic(**{axis: trace.sent[axis] for axis in ("fsdp", "data", "cp", "tp")})
    seconds = step_seconds(config, sent)
    return {**asdict(trace), "peak": trace.peak, "step_seconds": seconds}


def _print_simulation(console: Any, label: str, config: PlanConfig, plan: Plan) -> None:
    """What the planner says beside what the code does."""
    from rich.table import Table

    found, planned = _simulated(config), {part.name: part.n_bytes for part in plan.parts}
    always = sum(part.n_bytes for part in plan.parts if part.when == "always")
    during = {when: always + sum(p.n_bytes for p in plan.parts if p.when == when) for when in ("pass", "update")}
    rows = [
        ("masters", planned["masters (fp32)"], found["masters"]),
        ("optimizer state", planned["optimizer state (fp32)"], found["optimizer"]),
        ("peak of the passes", during["pass"], found["pass_peak"]),
        ("peak of the update", during["update"], found["update_peak"]),
        *((f"sent, {axis}", n, found["sent"][axis]) for axis, n in asdict(plan.traffic).items() if n),
    ]
    table = Table(f"{label}: rank 0 of {config.gpus}", "planned", "simulated", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, expected, seen in rows:
        table.add_row(name, _size(expected), _size(seen))
    table.add_row("time of an update", f"{plan.step_seconds:.3g} s", f"{found['step_seconds']:.3g} s")
    console.print()
    console.print(table)
    calls = ", ".join(f"{name.strip('_')} {n:,}" for name, n in sorted(found["n_calls"].items()))
    console.print(f"\none step without data in {found['seconds']:.0f} s; {calls or 'nothing sent'}")


def _n_parameters(config: PlanConfig) -> int:
    return count_parameters(config.model).total


def _print_phases(console: Any, found: Mapping[str, tuple[PlanConfig, Plan]]) -> None:
    """One row per phase of a recipe."""
    from rich.table import Table

    names = ("phase", "parameters", "loops", "row", "tokens", "memory", "operations", "hours")
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, (config, plan) in found.items():
        table.add_row(
            label,
            f"{_n_parameters(config):,}",
            str(config.model.loop_num),
            f"{config.context_tokens:,}",
            f"{config.tokens:,.0f}",
            _size(plan.peak_bytes) + ("" if plan.fits else " DOES NOT FIT"),
            f"{plan.step_flops * config.tokens / plan.step_tokens:.3g}",
            f"{24 * plan.days:.3g}",
        )
    console.print(table)
    hours = 24 * sum(plan.days for _, plan in found.values())
    hardware = ", ".join(sorted({f"{config.gpus} x {config.hardware}" for config, _ in found.values()}))
    console.print(f"\n{hardware}: {hours:.3g} hours of training in all, as estimated")


def _print(console: Any, label: str, config: PlanConfig, plan: Plan) -> None:
    """One plan in full."""
    from rich.table import Table

    model, layout = config.model, config.layout
    loops = f", {model.loop_num} loops with window {model.loop_window_size}" if model.looped else ""
    axes = ", ".join(f"{axis}={size}" for axis, size in layout if size > 1) or "one rank"
    axes += ", all-to-all along cp" if config.exchanges_heads else ""
    console.print(f"{label}: {_n_parameters(config):,} parameters, {model.num_hidden_layers} layers{loops}")
    console.print(
        f"{config.gpus} x {config.hardware}, {axes}; rows of {config.context_tokens:,} tokens, "
        f"{config.micro_rows} per pass, passes per update: {config.n_passes}; {config.precision}, {config.matrices}"
        f"{_RECOMPUTED[config.checkpointing]}\n"
    )
    table = Table("memory of one rank", "size", "when", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for part in plan.parts:
        table.add_row(part.name, _size(part.n_bytes), part.when)
    table.add_row("peak", _size(plan.peak_bytes), "fits" if plan.fits else "DOES NOT FIT")
    table.add_row("of the device", _size(plan.memory_bytes), "a tenth is kept free")
    console.print(table)
    sent = {axis: n for axis, n in asdict(plan.traffic).items() if n}
    rows = {
        "tokens of an update": f"{plan.step_tokens:,}",
        "operations of an update": f"{plan.step_flops:.3e}",
        "sent by a rank per update": ", ".join(f"{axis} {_size(n)}" for axis, n in sent.items()) or "nothing",
        "time of an update": f"{plan.step_seconds:.3g} s",
        "MFU": f"{plan.mfu:.1%} ({'given' if config.mfu else 'estimated'})",
        f"days for {config.tokens:.3g} tokens": f"{plan.days:.3g}",
        "KV cache of a served sequence, bf16": _size(plan.cache_bytes_per_sequence),
    }
    facts = Table(box=None, pad_edge=False, show_header=False)
    for key, value in rows.items():
        facts.add_row(key, value)
    console.print()
    console.print(facts)


def _size(n_bytes: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 2**10:,.1f} KiB"
