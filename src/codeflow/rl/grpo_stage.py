"""Stage `grpo`: reinforcement learning with verifiable rewards in the sandbox (Code-Flow §7; DAPO), synchronous.

    run(config, {checkpoint, tasks, tokenizer}, output) -> checkpoint artifact
        model/, state/           as every checkpoint
        metrics.jsonl            one row per step (reproducible; timings are in .timing.jsonl)
        rollouts-NNNNN.parquet   every rollout of step NNNNN with its verdict

A step samples from the weights that the step before left. A run that was killed goes on from its last good checkpoint
and gives the same rollouts, metrics and weights as an undisturbed one with equal threads, as long as no verdict hangs
on the machine (a program that needs about all of its time limit). Not covered: several processes, and sampling that
runs ahead of training.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from codeflow.core.config import validate
from codeflow.core.errors import InfrastructureError, UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.metrics import MetricsLog, read_metrics
from codeflow.core.progress import say
from codeflow.core.records import read_shards, shards, write_records
from codeflow.core.types import Rollout, Task
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel import checkpoint
from codeflow.parallel.checkpoint import Complete
from codeflow.parallel.config import MeshConfig
from codeflow.parallel.integrity import Integrity, Watched
from codeflow.parallel.launch import with_roll_backs
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place
from codeflow.rl import grpo
from codeflow.rl.config import GrpoConfig
from codeflow.rl.loss import PolicyBatch, PolicyLoss, batch_logprobs
from codeflow.rl.reward import rewards
from codeflow.solve.rollout import Rolled, Source, prompt_ids, roll_out
from codeflow.tokens.batch import Batch
from codeflow.tokens.tokenizer import Tokenizer
from codeflow.train import schedule
from codeflow.train.allocator import kept_memory
from codeflow.train.export import export_model
from codeflow.train.loop import StepReport, Trainee, train_step
from codeflow.train.losses import Objective
from codeflow.train.monitor import METRICS, TIMING
from codeflow.train.optimizer import Optimizer
from codeflow.train.pretrain import CHECKPOINTS, MODEL, STATE, threads

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_NO_SIGNAL = "no group has a signal"
_TAIL_STEPS = 10  # of the means in the manifest


def run(config: GrpoConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Train `inputs["checkpoint"]` on the tasks of `config.split` in `inputs["tasks"]`.

    Raises UserError for missing tasks, another tokenizer than the checkpoint's, or more than one process; RankFault
    for bits that changed in silence (no pass is made again to compare); InfrastructureError when no sandbox works here,
    when a whole step could not be judged, or when more than `max_skips` updates in a row were not finite.
    """
    return with_roll_backs(config.integrity, MeshConfig(), 1, lambda _: _run_here(config, inputs, output))


def _run_here(config: GrpoConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    tasks = _tasks(config, inputs["tasks"])
    with world(MeshConfig()) as here, kept_memory(), threads(config.n_threads):
        if here.n_ranks > 1:
            raise UserError(f"grpo runs in one process, {here.n_ranks} are running; start it without torchrun")
        phase = _Phase(config, _start(inputs, here), Tokenizer.load(inputs["tokenizer"]), here, output)
        usable = phase.usable(tasks)
        phase.train(usable)
        _finish(phase, inputs, output)
        return _seal(phase, len(tasks), len(tasks) - len(usable), output)


def _tasks(config: GrpoConfig, folder: Path) -> list[Task]:
    name = f"tasks-{config.split}"
    tasks = list(read_shards(folder, name, Task))
    if not tasks:
        found = sorted({path.name.split("-")[1] for path in shards(folder, "tasks")})
        raise UserError(f"{folder} holds no {name}-*.parquet; set split to one of: {', '.join(found) or 'none there'}")
    return tasks


@dataclass(frozen=True)
class _Start:
    """The checkpoint that the phase starts from."""

    state: Path
    complete: Complete
    model: ModelConfig


def _start(inputs: Mapping[str, Path], here: World) -> _Start:
    folder = inputs["checkpoint"]
    found = checkpoint.newest([folder / STATE], here)
    if found is None:
        raise UserError(f"{folder / STATE} is no good checkpoint; delete {folder} to have it made again")
    state, complete = found
    fingerprint = Tokenizer.load(inputs["tokenizer"]).fingerprint
    if complete.about.get("tokenizer_fingerprint") != fingerprint:
        raise UserError(f"{folder} was trained with another tokenizer than {inputs['tokenizer']}; give its own")
    return _Start(state, complete, validate(ModelConfig, complete.about["model"], origin=str(state)))


class _Phase:
    """The phase on this process: the policy in training, its progress and its place on disk."""

    def __init__(self, config: GrpoConfig, start: _Start, tokenizer: Tokenizer, here: World, output: Path) -> None:
        self.config, self.start, self.tokenizer, self.here, self.output = config, start, tokenizer, here, output
        self.dtype = _DTYPES[config.precision]
        self.model = LoopCoder(start.model)
        self.loss = PolicyLoss(config.clip_low, config.clip_high, config.loss_chunk_rows)
        objective = Objective(self.model, self.loss)
        placed = place(self.model, objective, self.model.layers, here.mesh, self.dtype)
        optimizer = Optimizer(placed.masters, config.optimizer, self.dtype)
        watched = Watched(placed.masters, optimizer.tensors, objective, self.model.layers)
        self.integrity = Integrity(config.integrity, watched, here, output)
        self.trainee = Trainee(objective, placed, optimizer, here, None, self.integrity)
        self.step, self.tokens, self.skipped_in_a_row = 0, int(start.complete.about["tokens"]), 0
        self._restore()

    def masters(self) -> dict[str, torch.Tensor]:
        """Return the fp32 parameters by name."""
        return {name: master.detach() for name, master in self.trainee.placed.masters.items()}

    def _tensors(self) -> dict[str, torch.Tensor]:
        state = {f"masters.{name}": master for name, master in self.masters().items()}
        return state | {f"optimizer.{name}": tensor for name, tensor in self.trainee.optimizer.tensors().items()}

    def _restore(self) -> None:
        candidates = [self.output / STATE, *checkpoint.step_folders(self.output / CHECKPOINTS)]
        found = checkpoint.newest([folder for folder in candidates if folder.exists()], self.here)
        if found:
            folder, complete = found
            checkpoint.load(folder, self._tensors())
            self.trainee.optimizer.resume(int(complete.about["updates"]))
            self.step, self.tokens = complete.step, int(complete.about["tokens"])
            self.skipped_in_a_row = int(complete.about["skipped_in_a_row"])
            say(f"  {self.config.phase}: going on after step {complete.step}")
        else:
            checkpoint.load(self.start.state, {f"masters.{name}": master for name, master in self.masters().items()})
        self.trainee.placed.publish()

    def train(self, tasks: Sequence[Task]) -> None:
        """Run the steps that are left and save the final state."""
        config = self.config
        if self.step == config.steps:
            return
        self.integrity.start(self.step * config.updates_per_step)
        log, timing = (MetricsLog(self.output / name, self.step) for name in (METRICS, TIMING))
        for step in range(self.step + 1, config.steps + 1):
            started = time.perf_counter()
            indices = grpo.chosen_tasks(len(tasks), config.prompts_per_step, config.seed, step)
            source = Source(self.model, self.tokenizer, config.phase, config.seed, step)
            self.integrity.begin((step - 1) * config.updates_per_step + 1, 0)
            self.integrity.before_sampling()
            rolled = roll_out(source, [tasks[i] for i in indices], config.samples_per_prompt, config.rollout)
            values = self._learn(step, rolled)
            write_records(self.output / f"rollouts-{step:05d}.parquet", rolled.rollouts, Rollout)
            log.write(step, phase=config.phase, **values)
            seconds = time.perf_counter() - started
            timing.write(
                step,
                seconds=seconds,
                generate_seconds=rolled.generate_seconds,
                verify_seconds=rolled.verify_seconds,
                verdicts_per_second=len(rolled.rollouts) / max(rolled.verify_seconds, 1e-9),
                sampled_tokens_per_second=sum(len(r.ids) for r in rolled.rollouts) / max(rolled.generate_seconds, 1e-9),
            )
            self._say(step, values, seconds)
            self.step = step
            if step % config.checkpoint_every_steps == 0 and step < config.steps:
                log.sync()
                self._save(checkpoint.step_folder(self.output / CHECKPOINTS, step))
        log.close()
        timing.close()
        self._save(self.output / STATE)

    def usable(self, tasks: Sequence[Task]) -> list[Task]:
        """Return the tasks whose prompts leave room for an answer."""
        rollout = self.config.rollout
        room = self.start.model.max_position_embeddings - rollout.max_new_tokens
        found = [task for task in tasks if len(prompt_ids(task, self.tokenizer, rollout.thinking)) <= room]
        if not found:
            raise UserError(
                f"no task leaves room for rollout.max_new_tokens={rollout.max_new_tokens} in the model's context of "
                f"{self.start.model.max_position_embeddings}; lower it"
            )
        return found

    def _learn(self, step: int, rolled: Rolled) -> dict[str, Any]:
        """Make the updates of one step; return its reproducible measurements."""
        config = self.config
        given = rewards(rolled.rollouts, config.reward, config.seed, step)
        if all(reward is None for reward in given):
            raise InfrastructureError(f"step {step}: no rollout could be judged: {rolled.rollouts[0].verdict.reason}")
        found = grpo.groups(rolled.rollouts, given, config.divide_by_std)
        used = grpo.with_signal(found) if config.skip_groups_without_signal else [group for group in found if group]
        factor = schedule.factor(config.schedule, step, config.steps)
        values: dict[str, Any] = {"lr": factor, **grpo.told(found, rolled.rollouts)}
        if not grpo.with_signal(found):  # momentum alone would move the weights
            return {"loss": 0.0, "grad_norm": 0.0, "tokens": self.tokens, "skipped": _NO_SIGNAL, **values}
        parts = [grpo.distinct(part) for part in grpo.divided(used, config.updates_per_step)]
        updates = [grpo.batches(part, config.row_tokens, config.micro_rows) for part in parts]
        if config.updates_per_step > 1:
            updates = [[self._with_old(batch) for batch in update] for update in updates]
            members = [member for part in parts for member in part]
            values["sampler_gap"] = grpo.sampler_gap(members, [batch for update in updates for batch in update])
        self.loss.tally.reset()
        first = (step - 1) * config.updates_per_step + 1
        reports = [self._update(number, update, factor) for number, update in enumerate(updates, first)]
        clipped = self.loss.tally.n_clipped / max(self.loss.tally.n_tokens, 1)
        weight = sum(report.weight for report in reports)
        loss = sum(report.loss * report.weight for report in reports) / weight if weight else 0.0
        skipped = next((report.skipped for report in reports if report.skipped), "")
        values = {"loss": loss, "grad_norm": max(r.grad_norm for r in reports), "clipped": clipped, **values}
        return {"tokens": self.tokens, **({"skipped": skipped} if skipped else {}), **_finite(values)}

    def _with_old(self, batch: Batch) -> Batch:
        old = batch_logprobs(self.model, PolicyBatch.of(batch), self.config.loss_chunk_rows)
        return replace(batch, old_logprobs=old)

    def _update(self, number: int, made: Sequence[Batch], factor: float) -> StepReport:
        """Make update `number` of the phase, counted from 1 and whether it is skipped or not."""
        config = self.config
        if (number - 1) % config.updates_per_step:
            self.integrity.begin(number, 0)  # a step's first one has begun before the sampling
        report = train_step(self.trainee, [PolicyBatch.of(b) for b in made], factor, config.optimizer.clip_norm)
        self.tokens += 0 if report.skipped else round(report.weight)
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if report.skipped else 0
        if self.skipped_in_a_row > config.max_skips:
            raise InfrastructureError(
                f"phase '{config.phase}': {self.skipped_in_a_row} updates in a row were skipped ({report.skipped}); "
                f"lower the learning rates, or raise max_skips={config.max_skips}"
            )
        return report

    def _say(self, step: int, values: Mapping[str, Any], seconds: float) -> None:
        say(
            f"  {self.config.phase} {step:>{len(str(self.config.steps))}}/{self.config.steps}"
            f"  reward {values['reward']:.3f}  passed {values['passed']:.3f}  signal {values['groups_with_signal']:.2f}"
            f"  loss {values['loss']:+.4f}  grad {values['grad_norm']:.3f}  entropy {values['entropy']:.2f}"
            f"  {values['length_tokens']:.0f} tokens  {seconds:.1f} s"
            + (f"  SKIPPED: {values['skipped']}" if "skipped" in values else "")
        )

    def _save(self, folder: Path) -> None:
        about = {
            "phase": self.config.phase,
            "model": self.start.model.model_dump(mode="json"),
            "tokens": self.tokens,
            "updates": self.trainee.optimizer.updates,
            "skipped_in_a_row": self.skipped_in_a_row,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "seen": self.start.complete.about.get("seen", []),  # of token sets, by the phases before
        }
        checkpoint.save(folder, self.step, self._tensors(), about, self.here)
        checkpoint.prune(self.output / CHECKPOINTS, self.config.keep, self.here, self.config.keep_every_steps)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what JSON has no word for."""
    return {name: value for name, value in values.items() if not isinstance(value, float) or value - value == 0}


def _finish(phase: _Phase, inputs: Mapping[str, Path], output: Path) -> None:
    """Write the model directory in the working precision, and remove what only an unfinished run needs."""
    export_model(phase.start.model, phase.masters(), phase.dtype, inputs["tokenizer"], output / MODEL)
    checkpoint.prune(output / CHECKPOINTS, 0, phase.here, phase.config.keep_every_steps)
    for left in itertools.chain(output.glob(".*.tmp"), output.glob(".*.deleted")):
        shutil.rmtree(left, ignore_errors=True)


def _seal(phase: _Phase, n_tasks: int, n_too_long: int, output: Path) -> Manifest:
    """Count what all steps sampled, and seal the artifact. All numbers are reproducible."""
    config = phase.config
    rows = list(read_metrics(output / METRICS))
    n_rollouts = sum(row["n_rollouts"] for row in rows)
    n_faults = sum(row["n_infrastructure_faults"] for row in rows)
    first, last = rows[:_TAIL_STEPS], rows[-_TAIL_STEPS:]
    notes = {"skipped_updates": sum("skipped" in row for row in rows), "tasks_too_long": n_too_long}
    counts = Counts(
        read=n_rollouts, kept=n_rollouts - n_faults, dropped={"infrastructure fault": n_faults}, notes=notes
    )
    metrics = {
        "phase": config.phase,
        "steps": config.steps,
        "reward": config.reward,
        "tasks": n_tasks,
        "tokens": phase.tokens - int(phase.start.complete.about["tokens"]),
        "tokens_in_all": phase.tokens,
        "mean_passed_of_first_steps": sum(row["passed"] for row in first) / len(first),
        "mean_passed_of_last_steps": sum(row["passed"] for row in last) / len(last),
        "tail_steps": _TAIL_STEPS,
    }
    return seal(output, counts, metrics)
