"""One phase of pre-training: general, code, annealing are configurations of it (Code-Flow §1).

    run(config, {tokens, tokenizer, [parent], [mixture], [tokens_NAME]}, output) -> checkpoint artifact
        model/           Hugging Face directory with tokenizer.json
        checkpoints/     states of the steps that `keep_every_steps` names
        plan.json        which rows were read when (row_plan.py)
        state/           masters, optimizer state, step: what a child phase goes on from
        metrics.jsonl    one row per step (reproducible; timings are in .timing.jsonl)

Works alone or under torchrun (every process calls `run`); where the mesh asks for more processes and torchrun has not
started them, `run` does. A run that was killed goes on from its last good checkpoint
and gives the same losses and the same bytes as an undisturbed one with equal threads and processes.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from codeflow.core.config import validate
from codeflow.core.errors import InfrastructureError, Preempted, UserError
from codeflow.core.freed_memory import sparing
from codeflow.core.manifest import Counts, Manifest, read_manifest, seal
from codeflow.core.metrics import read_metrics
from codeflow.core.progress import say
from codeflow.kernels.payload import PayloadWatch
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel import checkpoint
from codeflow.parallel.checkpoint import Complete
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.context import ContextAttention
from codeflow.parallel.faults import RankFault, diagnoses
from codeflow.parallel.integrity import Integrity, Watched
from codeflow.parallel.launch import cores_per_process, launch, must_launch, with_roll_backs
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place, whole
from codeflow.parallel.preemption import Preemption, preemption
from codeflow.parallel.saver import Saver
from codeflow.tokens.loader import LoaderPlan
from codeflow.tokens.mixture import Blend, flatten, read_plan, with_plan, without
from codeflow.tokens.token_shard import read_index
from codeflow.tokens.tokenizer import Tokenizer
from codeflow.train import schedule
from codeflow.train.allocator import kept_memory
from codeflow.train.config import TrainConfig
from codeflow.train.curriculum import three_phases
from codeflow.train.export import export_model
from codeflow.train.loop import StepReport, Trainee, held_out_loss, train_step
from codeflow.train.loop_gradients import LoopGradients
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.mixture import MixtureFollower, MixtureState
from codeflow.train.monitor import METRICS, Monitor, measured_peak_flops, training_flops_per_token
from codeflow.train.optimizer import Optimizer
from codeflow.train.profiler import ProfiledSteps
from codeflow.train.row_plan import RowPlan, SeenSet, going_on, seen_in_all, token_folders
from codeflow.train.rows import TrainingRows, absent
from codeflow.train.spikes import SpikeGuard
from codeflow.train.watch_config import WatchConfig

STATE, MODEL, CHECKPOINTS = "state", "model", "checkpoints"
_TAIL_STEPS = 10  # of the mean in the manifest
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class _Origin:
    """Where a phase starts from."""

    model: ModelConfig
    tokens: int  # trained on in earlier phases
    state: Path | None  # of the parent
    complete: Complete | None
    seen: tuple[SeenSet, ...] = ()  # of token sets, in earlier phases


@dataclass
class _Progress:
    """What changes from step to step beside the tensors."""

    step: int
    tokens: int
    skipped_in_a_row: int = 0


def run(config: TrainConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Train one phase on `inputs["tokens"]`, from `inputs["parent"]` if given; a mixture plan deals the sets it names.

    Sets of a further tokens artifact `tokens_NAME` are called `NAME/set` in the mixture. Raises UserError for a
    mixture, model or parent that does not fit the tokens, InfrastructureError when more than `max_skips` updates in a
    row were not finite, and RankFault for bits that changed in silence.
    """

    def attempt(mesh: MeshConfig) -> Manifest:
        placed = config.model_copy(update={"mesh": mesh})
        if not must_launch(mesh):
            return _run_here(placed, inputs, output)
        launch(mesh, _run_here, placed, inputs, output)
        return read_manifest(output)

    return with_roll_backs(config.integrity, config.mesh, config.batch_rows, attempt)


def _run_here(config: TrainConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Train on the processes that are there."""
    with world(config.mesh) as here, kept_memory(), sparing(config.spare_memory), threads(config.n_threads):
        origin = _origin(config, inputs, here)
        tokens = token_folders(inputs)
        plan = _loader_plan(config, inputs)
        rows = TrainingRows(plan, tokens, config.validation_rows)
        _check_fit(origin.model, rows, inputs)
        plan, remarks = going_on(rows, origin.seen) if config.go_on else (plan, [])
        phase = _Phase(config, RowPlan(output, plan, tokens, config.validation_rows, here), origin, here, output)
        phase.remarks += remarks
        with preemption() as noted:
            try:
                phase.train(noted)
            except RankFault as fault:
                phase.integrity.diagnose(fault.faults)
                raise
            finally:
                phase.saver.close()
        weights = {name: whole(master.detach()) for name, master in phase.trainee.placed.masters.items()}
        if here.is_first:
            _finish(phase, weights, inputs, output)
        here.barrier()
        return read_manifest(output)


def _origin(config: TrainConfig, inputs: Mapping[str, Path], here: World) -> _Origin:
    """Return the model's shape and the parent's state. Raises UserError when both or none are given."""
    parent = inputs.get("parent")
    if parent is None:
        if config.model is None:
            raise UserError(f"phase '{config.phase}' has neither a model nor a parent; set model or give a parent")
        return _Origin(config.model, 0, None, None)
    if config.model is not None:
        raise UserError(f"phase '{config.phase}' has a model and a parent; set model=null, the parent's shape is used")
    found = checkpoint.newest([parent / STATE], here)
    if found is None:
        raise UserError(f"{parent / STATE} is no good checkpoint; delete {parent} to have it made again")
    state, complete = found
    model = validate(ModelConfig, complete.about["model"], origin=str(state))
    seen = tuple(validate(SeenSet, record, origin=str(state)) for record in complete.about.get("seen", ()))
    return _Origin(model, int(complete.about["tokens"]), state, complete, seen)


def _loader_plan(config: TrainConfig, inputs: Mapping[str, Path]) -> LoaderPlan:
    """Return the configuration's plan, with its optional sets left out where the tokens hold none."""
    left_out = absent(config.optional_sets, token_folders(inputs))

    def present(mixture: Mapping[str, float | Blend], what: str) -> dict[str, float | Blend]:
        left = without(mixture, left_out)
        if not left:
            raise UserError(f"{what} names optional sets only, and the tokens hold none of them: {', '.join(left_out)}")
        return left

    mixture: Mapping[str, float | Blend] = config.mixture
    if "mixture" in inputs:
        mixture = with_plan(flatten(mixture), read_plan(inputs["mixture"]))
    scheduled = config.changes
    if config.curriculum:
        mixture, scheduled = three_phases(config.curriculum, mixture, config.steps)
    changes = [{"step": c.step, "weights": present(c.weights, f"changes at step {c.step}")} for c in scheduled]
    fields = {
        "weights": present(mixture, "mixture"),
        "batch_rows": config.batch_rows,
        "context_tokens": read_index(inputs["tokens"]).context_tokens,
        "seed": config.seed,
        "changes": changes,
        "once": config.once,
    }
    return validate(LoaderPlan, fields)


def _check_fit(model: ModelConfig, rows: TrainingRows, inputs: Mapping[str, Path]) -> None:
    model.check_vocabulary(rows.vocab_size)
    fingerprint = Tokenizer.load(inputs["tokenizer"]).fingerprint
    if fingerprint != rows.tokenizer_fingerprint:
        raise UserError(f"{inputs['tokens']} was packed with another tokenizer than {inputs['tokenizer']}; pack again")
    if rows.plan.context_tokens > model.max_position_embeddings:
        raise UserError(
            f"rows of {rows.plan.context_tokens} tokens exceed max_position_embeddings="
            f"{model.max_position_embeddings}; raise it or pack shorter rows"
        )


@contextmanager
def threads(n_threads: int | None) -> Iterator[None]:
    """Compute with so many threads while the block runs; None: one for each core that is this process's."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads or cores_per_process())
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Phase:
    """One phase on this process: the trainee, its rows and its place on disk."""

    def __init__(self, config: TrainConfig, row_plan: RowPlan, origin: _Origin, here: World, output: Path) -> None:
        self.config, self.row_plan, self.origin, self.here, self.output = config, row_plan, origin, here, output
        self.remarks: list[str] = []
        dtype = _DTYPES[config.precision]
        model = LoopCoder(origin.model, config.seed)
        loss = NextToken(config.z_loss, config.loss_chunk_rows, config.checkpointing)
        objective = Objective(model, loss)
        placed = place(model, objective, model.layers, here.mesh, dtype, config.mesh, config.compile)
        loops = origin.model.loop_num
        watched = loops > 1 and (config.loop_norms_every_steps or config.loop_clip_norm)
        loop_gradients = LoopGradients(loops, config.loop_clip_norm) if watched else None
        optimizer = Optimizer(placed.masters, config.optimizer, dtype)
        backend = model.attention_backend
        payloads = backend.payloads if isinstance(backend, ContextAttention) else PayloadWatch()
        observed = Watched(placed.masters, optimizer.tensors, objective, model.layers, payloads)
        self.integrity = Integrity(config.integrity, observed, here, output)
        self.spikes = SpikeGuard(config.spikes) if config.spikes else None
        self.trainee = Trainee(objective, placed, optimizer, here, loop_gradients, self.integrity, self.spikes)
        self.dtype = dtype
        self.saver = Saver(here)
        self.mixture_state = MixtureState()
        self.progress = self._restore()
        dynamic = config.dynamic_mixture
        self.follower = MixtureFollower(dynamic, row_plan, here, self.mixture_state) if dynamic else None

    @property
    def rows(self) -> TrainingRows:
        """The rows by the plan as it is now."""
        return self.row_plan.rows

    def tensors(self, with_optimizer: bool = True) -> dict[str, torch.Tensor]:
        """Return all state by name."""
        state = {f"masters.{name}": master.detach() for name, master in self.trainee.placed.masters.items()}
        if with_optimizer:
            state |= {f"optimizer.{name}": tensor for name, tensor in self.trainee.optimizer.tensors().items()}
        return state

    def _restore(self) -> _Progress:
        """Go on from the newest good checkpoint of this phase, or start from the parent or from the seed."""
        candidates = [self.output / STATE, *checkpoint.step_folders(self.output / CHECKPOINTS)]
        found = checkpoint.restore([folder for folder in candidates if folder.exists()], self.tensors(), self.here)
        optimizer = self.trainee.optimizer
        progress = _Progress(step=-1, tokens=self.origin.tokens)
        if found:
            folder, complete = found
            optimizer.resume(int(complete.about["updates"]))
            progress = _Progress(complete.step, int(complete.about["tokens"]), int(complete.about["skipped_in_a_row"]))
            if self.spikes:
                self.spikes.restore(complete.about.get("spikes", {}))
            self.mixture_state = validate(MixtureState, complete.about.get("mixture", {}), origin=str(folder))
            if self.here.is_first:
                say(f"  {self.config.phase}: going on after step {complete.step}")
        elif self.origin.state and self.origin.complete:
            checkpoint.load(self.origin.state, self.tensors(self.config.inherit_optimizer))
            if self.config.inherit_optimizer:
                optimizer.resume(int(self.origin.complete.about["updates"]))
        self.trainee.placed.publish()
        return progress

    def train(self, noted: Preemption) -> None:
        """Run the steps that are left and save the final state. Raises Preempted when asked to end before."""
        config, progress = self.config, self.progress
        if progress.step == config.steps:
            return
        monitor = self._monitor()
        profiled = ProfiledSteps(config.watch if monitor else WatchConfig(), self.output, config.steps)
        self._set_second_pass(max(progress.step, 0))
        if progress.step < 0:
            values = self._validation_at(0)
            self._mixture_after(0, values.get("validation", {}))
            if monitor:
                monitor.start({"tokens": progress.tokens, **values, "mixture": self.row_plan.weights_at(0)})
            progress.step = 0
        self.integrity.start(progress.step)
        saved = progress.step
        for step in range(progress.step + 1, config.steps + 1):
            started = time.perf_counter()
            factor = schedule.factor(config.schedule, step, config.steps)
            self._set_second_pass(step)
            self._watch_loops(step)
            self.row_plan.take_request(step - 1)
            batches = self._batches(step)
            tapped = self.trainee.objective.model.loop_tap is not None  # it keeps gradients of its own
            self.integrity.begin(step, 0 if tapped else len(batches))
            with profiled.around(step):
                report = train_step(self.trainee, batches, factor, config.optimizer.clip_norm)
            seconds = time.perf_counter() - started
            self._count(step, report)
            values: dict[str, Any] = {
                "loss": report.loss,
                "lr": factor,
                "grad_norm": report.grad_norm,
                "tokens": progress.tokens,
            }
            values |= {"loop_gradients": report.loops.values()} if report.loops else {}
            values |= {"skipped": report.skipped} if report.skipped else {}
            values |= self._validation_at(step)
            values |= self._mixture_after(step, values.get("validation", {}))
            if monitor:
                monitor.step(step, values, config.batch_rows * self.rows.plan.context_tokens, seconds)
            if step % config.checkpoint_every_steps == 0 and step < config.steps:
                self._save(checkpoint.step_folder(self.output / CHECKPOINTS, step), monitor)
                saved = step
            if step < config.steps and self.here.any(noted.asked):
                if saved != step:
                    self._save(checkpoint.step_folder(self.output / CHECKPOINTS, step), monitor)
                self.saver.wait()
                raise Preempted(f"phase '{config.phase}' saved after step {step}; the same command goes on from there")
        self._save(self.output / STATE, monitor)
        self.saver.wait()
        if monitor:
            monitor.close()

    def _monitor(self) -> Monitor | None:
        peak = measured_peak_flops(self.dtype)
        (peak,) = self.here.sum_all(peak)
        if not self.here.is_first:
            return None
        flops = training_flops_per_token(self.origin.model, self.rows.plan.context_tokens)
        monitor = Monitor(
            self.output,
            self.config.phase,
            self.config.steps,
            flops,
            self.progress.step,
            self.config.watch,
            self.here.n_ranks,
        )
        monitor.peak(peak)
        return monitor

    def _set_second_pass(self, step: int) -> None:
        ramp = self.config.second_pass_ramp_steps
        self.trainee.objective.model.second_pass_scale = min(1.0, step / ramp) if ramp else 1.0

    def _watch_loops(self, step: int) -> None:
        every = self.config.loop_norms_every_steps
        due = self.config.loop_clip_norm is not None or (every is not None and step % every == 0)
        self.trainee.objective.model.loop_tap = self.trainee.loop_gradients if due else None

    def _batches(self, step: int) -> list[TensorBatch]:
        batch = TensorBatch.of(self.rows.batch(step - 1, self.here.reader, self.here.n_readers))
        return batch.part(self.here.own_part).split(self.config.micro_rows or len(batch.ids))

    def _count(self, step: int, report: StepReport) -> None:
        progress = self.progress
        progress.step = step
        progress.tokens += 0 if report.skipped else round(report.weight)
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if report.skipped else 0
        if progress.skipped_in_a_row > self.config.max_skips:
            raise InfrastructureError(
                f"phase '{self.config.phase}': {progress.skipped_in_a_row} updates in a row were skipped at step "
                f"{step} ({report.skipped}); lower the learning rates, or raise max_skips={self.config.max_skips}"
            )

    def _validation_at(self, step: int) -> dict[str, Any]:
        """Return {"validation": set -> loss} at the steps at which it is measured, else nothing."""
        config = self.config
        every = config.validation_every_steps
        if not (step in (0, config.steps) or (every and step % every == 0)):
            return {}
        losses: dict[str, float] = {}
        for name in self.row_plan.sets_at(step):
            batch = self.rows.held_out(name, self.here.reader, self.here.n_readers)
            if batch is not None:
                rows = config.micro_rows or max(config.batch_rows // self.here.n_readers, 1)
                parts = TensorBatch.of(batch).part(self.here.own_part).split(rows)
                losses[name] = held_out_loss(self.trainee, parts)
        return {"validation": losses} if losses else {}

    def _mixture_after(self, step: int, losses: Mapping[str, float]) -> dict[str, Any]:
        """Let the mixture follow the losses; return why it moves, and the weights of this step's batch if they are new.

        What is told of a step is then the same when the step is done again after a kill, whoever asked for weights.
        """
        told = self.follower.look(step, losses, step == self.config.steps) if self.follower and losses else {}
        if step > 1 and self.row_plan.weights_at(step - 1) != self.row_plan.weights_at(step - 2):
            told["mixture"] = self.row_plan.weights_at(step - 1)
        return told

    def _save(self, folder: Path, monitor: Monitor | None) -> None:
        """Begin to save; a checkpoint is never ahead of the metrics on disk."""
        if monitor:
            monitor.sync()
        about = {
            "phase": self.config.phase,
            "model": self.origin.model.model_dump(mode="json"),
            "tokens": self.progress.tokens,
            "updates": self.trainee.optimizer.updates,
            "skipped_in_a_row": self.progress.skipped_in_a_row,
            "tokenizer_fingerprint": self.rows.tokenizer_fingerprint,
            "spikes": self.spikes.state() if self.spikes else {},
            "mixture": (self.follower.state if self.follower else self.mixture_state).model_dump(),
            "seen": [r.model_dump() for r in seen_in_all(self.origin.seen, self.rows, self.progress.step)],
        }
        kept = self.config.keep, self.here, self.config.keep_every_steps
        prune = partial(checkpoint.prune, self.output / CHECKPOINTS, *kept)
        self.saver.save(folder, self.progress.step, self.tensors(), about, prune)


def _finish(phase: _Phase, weights: Mapping[str, torch.Tensor], inputs: Mapping[str, Path], output: Path) -> None:
    export_model(phase.origin.model, weights, phase.dtype, inputs["tokenizer"], output / MODEL)
    checkpoint.prune(output / CHECKPOINTS, 0, phase.here, phase.config.keep_every_steps)
    for left in itertools.chain(output.glob(".*.tmp"), output.glob(".*.deleted")):
        shutil.rmtree(left, ignore_errors=True)
    rows = list(read_metrics(output / METRICS))
    n_skipped = sum("skipped" in row for row in rows)
    n_rows = phase.config.steps * phase.config.batch_rows
    counts = Counts(read=n_rows, kept=n_rows, notes={"skipped_updates": n_skipped} if n_skipped else {})
    seal(output, counts, _summary(phase, rows))


def _summary(phase: _Phase, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest's metrics, all of them reproducible."""
    config = phase.config
    losses = [row["loss"] for row in rows if "loss" in row]
    validations = [row["validation"] for row in rows if "validation" in row]
    tail = losses[-_TAIL_STEPS:]
    left_out = [
        name for name in config.optional_sets if name in flatten(config.mixture) and name not in phase.rows.sets
    ]
    remarks = [f"set '{name}' is empty: left out of the mixture, the other weights share its part" for name in left_out]
    remarks += [f"a silent error was found and rolled back: {path.name}" for path in diagnoses(phase.output)]
    changes = [change.model_dump() for change in phase.row_plan.changes]
    return {
        "remarks": remarks + phase.remarks,
        **({"weight_changes": changes} if changes else {}),
        "phase": config.phase,
        "steps": config.steps,
        "tokens": phase.progress.tokens - phase.origin.tokens,
        "tokens_in_all": phase.progress.tokens,
        "n_parameters": sum(master.numel() for master in phase.trainee.placed.masters.values()),
        "attention_backend": str(phase.trainee.objective.model.backend),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "mean_loss_of_last_steps": sum(tail) / len(tail) if tail else None,
        "validation_before": validations[0] if validations else {},
        "validation_after": validations[-1] if validations else {},
        "sets": {name: asdict(use) for name, use in phase.rows.describe(config.steps).items()},
    }
