"""Flip single bits at every place that docs/integrity.md names, and see who notices, when, and whom it blames.

Small worlds of gloo processes train a small looped model with every check at every step. Each trial flips one random
bit of one random tensor on one random rank, makes the step, and asks: was it refused before the update, and was the
right rank named? Masters and optimizer state are put back after each trial. Then clean steps, for false alarms;
computation faults, against the sampling rate of recomputation; and what the checks cost.

    python -m campaigns bit_flips --flips 1000 --clean 10000 --seed 0 --table docs/campaigns/bit_flips.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from codeflow.core.errors import UserError
from codeflow.kernels.payload import PayloadWatch
from codeflow.model import huggingface
from codeflow.model.config import ModelConfig
from codeflow.model.looped import LoopCoder
from codeflow.parallel import checkpoint
from codeflow.parallel.checkpoint_index import read_index
from codeflow.parallel.config import IntegrityConfig, MeshConfig
from codeflow.parallel.context import ContextAttention
from codeflow.parallel.faults import RankFault
from codeflow.parallel.fingerprints import local
from codeflow.parallel.integrity import Integrity, Watched
from codeflow.parallel.mesh import World, world
from codeflow.parallel.place import place
from codeflow.parallel.saver import Saver
from codeflow.parallel.working import WorkingWeights
from codeflow.train.config import OptimizerConfig
from codeflow.train.loop import Trainee, train_step
from codeflow.train.losses import NextToken, Objective, TensorBatch
from codeflow.train.optimizer import Optimizer

N_RANKS = 4
ROWS, LENGTH, VOCABULARY = 8, 32, 64
N_PASSES = 2  # micro-batches of a step
REPLICAS, HYBRID, RING = {"data": 4, "shard": 1}, {"data": 2, "shard": 2}, {"context": 4}
PLACES = {  # of flips in a training step: on which layout, and which part of all flips
    "parameters": (REPLICAS, 0.2),
    "gradients": (REPLICAS, 0.2),
    "state": (REPLICAS, 0.15),
    "state, sharded": (HYBRID, 0.1),
    "payloads": (RING, 0.15),
}


@dataclass
class Tally:
    """What became of the flips at one place."""

    flips: int = 0
    caught: int = 0  # before the update, the load or the use
    named: int = 0  # with the right rank alone, tensor and step


def flip(tensor: Tensor, place: int, bit: int) -> None:
    """Flip one bit of one element of a plain tensor, in place."""
    raw = tensor.detach().view(-1) if tensor.is_contiguous() else tensor.detach().reshape(-1)
    assert raw.data_ptr() == tensor.data_ptr(), "a copy would be flipped"
    words = raw.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
    sign = 1 << (8 * tensor.element_size() - 1)
    mask = 1 << bit
    words[place % len(words)] ^= mask - 2 * sign if mask == sign else mask


@dataclass
class Flip:
    """One flip that waits for its moment; every rank draws the same."""

    rank: int
    tensor: int  # number among those that are there, modulo
    place: int
    bit: int

    @classmethod
    def draw(cls, rng: random.Random) -> Flip:
        """Draw a flip anywhere."""
        return cls(rng.randrange(N_RANKS), rng.randrange(1 << 30), rng.randrange(1 << 30), rng.randrange(64))

    def apply(self, named: dict[str, Tensor]) -> str:
        """Flip in one of the tensors that have elements here and return its name, on the rank that it is meant for."""
        if dist.get_rank() != self.rank:
            return ""
        names = sorted(name for name, tensor in named.items() if local(tensor).numel())
        name = names[self.tensor % len(names)]
        part = local(named[name])
        flip(part, self.place, self.bit % (8 * part.element_size()))
        return name


class _FlippingPayloads(PayloadWatch):
    """Flips a bit of a payload between its arrival and its use."""

    waiting: Flip | None = None

    def check(self, payload: Tensor, claimed: Tensor, sender: int, group: dist.ProcessGroup) -> None:
        if self.waiting and dist.get_rank() == self.waiting.rank and self.n_checked == self.waiting.tensor % 6:
            flip(payload, self.waiting.place, self.waiting.bit % (8 * payload.element_size()))
            self.waiting = None
        super().check(payload, claimed, sender, group)


@dataclass
class _Moments:
    """The watch of a rig, with a moment at which gradients may be flipped."""

    integrity: Integrity
    masters: dict[str, torch.nn.Parameter]
    moment: dict[str, Callable[[dict[str, Tensor]], None]]

    def compute(self, number: int, batch: Any, run: Callable[[Any], float]) -> float:
        return self.integrity.compute(number, batch, run)

    def before_update(self) -> None:
        if "gradients" in self.moment:
            self.moment["gradients"]({name: x.grad for name, x in self.masters.items() if x.grad is not None})
        self.integrity.before_update()

    def after_update(self) -> None:
        self.integrity.after_update()


@dataclass
class Rig:
    """A model in training on one layout, with hooks at which bits may flip."""

    here: World
    trainee: Trainee
    integrity: Integrity
    payloads: PayloadWatch
    output: Path
    moment: dict[str, Callable[[dict[str, Tensor]], None]] = field(default_factory=dict)
    step: int = 0

    @classmethod
    def make(cls, here: World, mesh: MeshConfig, output: Path, integrity: IntegrityConfig) -> Rig:
        """Place the model and start to watch."""
        model = LoopCoder(_shape(), seed=1)
        objective = Objective(model, NextToken())
        placed = place(model, objective, model.layers, here.mesh, torch.float32, mesh)
        optimizer = Optimizer(placed.masters, OptimizerConfig(matrices="adamw"), torch.float32)
        payloads = PayloadWatch()
        if isinstance(model.attention_backend, ContextAttention):
            payloads = _FlippingPayloads()
            model.attention_backend = dataclasses.replace(model.attention_backend, payloads=payloads)
        moment: dict[str, Callable[[dict[str, Tensor]], None]] = {}
        weights = WorkingWeights(objective, model.layers)
        for unit in weights.units:  # before the watch's own hook, behind FSDP2's

            def used(unit: torch.nn.Module, _: Any) -> None:
                if f"parameters {weights.units.index(unit)}" in moment:
                    moment[f"parameters {weights.units.index(unit)}"](dict(weights.of(unit)))

            unit.register_forward_pre_hook(used)
        watched = Watched(placed.masters, optimizer.tensors, objective, model.layers, payloads)
        watch = _Moments(Integrity(integrity, watched, here, output), placed.masters, moment)
        watch.after_update()
        return cls(
            here, Trainee(objective, placed, optimizer, here, None, watch), watch.integrity, payloads, output, moment
        )

    def state(self) -> dict[str, Tensor]:
        """Return masters and optimizer state by name."""
        masters = {f"masters.{name}": x.detach() for name, x in self.trainee.placed.masters.items()}
        return masters | {f"optimizer.{name}": x for name, x in self.trainee.optimizer.tensors().items()}

    def make_step(self) -> None:
        """Make the next step."""
        self.step += 1
        rows = ROWS // self.here.n_readers
        parts = batch(self.step).split(rows)[self.here.reader].part(self.here.own_part).split(rows // N_PASSES)
        self.integrity.begin(self.step, len(parts))
        train_step(self.trainee, parts, 1.0, 1.0)


def _shape() -> ModelConfig:
    return ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=LENGTH,
        loop_num=2,
        loop_window_size=8,
    )


def batch(step: int) -> TensorBatch:
    """Return the whole batch of a step."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=generator)
    starts = torch.zeros_like(ids)
    positions = torch.arange(LENGTH).expand_as(ids).contiguous()
    return TensorBatch(ids, ids.roll(-1, 1), torch.ones(ids.shape), positions, starts)


def _in_time(here: World, numbers: Iterable[int], seconds: float) -> Iterator[int]:
    """Yield `numbers` for so long, on all ranks alike."""
    end = time.monotonic() + seconds
    for number in numbers:
        if here.any(time.monotonic() > end):
            return
        yield number


def flips(rig: Rig, name: str, n: int, rng: random.Random, seconds: float = math.inf) -> Tally:
    """Make `n` trials at one place of a step; what is tallied counts on the first rank."""
    tally = Tally()
    rig.make_step()  # optimizer state that is not zero
    before = {key: local(x).clone() for key, x in rig.state().items()}
    for _ in _in_time(rig.here, range(n), seconds):
        drawn = Flip.draw(rng)
        flipped = _prepare(rig, name, drawn)
        updates = rig.trainee.optimizer.updates
        tally.flips += 1
        try:
            rig.make_step()
        except RankFault as fault:
            dist.broadcast_object_list(flipped, src=drawn.rank)
            if rig.here.is_first:
                tally.caught += rig.trainee.optimizer.updates == updates
                tally.named += fault.ranks == (drawn.rank,) and _named(rig, drawn, flipped[0])
        rig.moment.clear()
        _put_back(rig, before)
    return tally


def _prepare(rig: Rig, name: str, drawn: Flip) -> list[str]:
    """Let the flip happen now or in the next step; what is returned will hold the name of its tensor."""
    flipped = ["message"]
    if name.startswith("payloads"):
        assert isinstance(rig.payloads, _FlippingPayloads)
        rig.payloads.waiting = drawn
    elif name.startswith("state"):
        flipped[0] = drawn.apply(rig.state())
    else:
        waiting = [drawn]

        def apply(tensors: dict[str, Tensor]) -> None:
            for one in waiting:
                flipped[0] = one.apply(tensors)
            waiting.clear()

        rig.moment[f"parameters {drawn.bit % 3}" if name == "parameters" else name] = apply
    return flipped


def _named(rig: Rig, drawn: Flip, flipped: str) -> bool:
    """Whether the diagnosis names the rank, the step and the tensor."""
    tree = json.loads((rig.output / f"diagnosis-{rig.step:08d}.json").read_text())
    ours = [fault for fault in tree["faults"] if fault["ranks"] == [drawn.rank] and flipped in fault["tensor"]]
    return bool(ours) and tree["step"] == rig.step and [who["rank"] for who in tree["suspects"]] == [drawn.rank]


@torch.no_grad()
def _put_back(rig: Rig, before: dict[str, Tensor]) -> None:
    for key, x in rig.state().items():
        local(x).copy_(before[key])
    rig.trainee.optimizer.clear_gradients()
    rig.trainee.placed.publish()
    rig.integrity.after_update()


def on_the_way_to_disk(rig: Rig, n: int, rng: random.Random) -> Tally:
    """Save `n` checkpoints, each with a flip in the copy that is written, after the live tensors' fingerprints."""
    tally = Tally()
    saver, whole = Saver(rig.here), Saver._copy
    first = rig.output / "step-first"
    saver.save(first, 0, rig.state(), {})
    saver.wait()
    writers = {
        (name, int(part.file.split("_")[2])) for name, x in read_index(first).tensors.items() for part in x.parts
    }
    for number in range(1, n + 1):
        drawn = Flip.draw(rng)
        victim, drawn.rank = sorted(writers)[drawn.tensor % len(writers)]

        def copy(self: Saver, name: str, tensor: Tensor, victim: str = victim, drawn: Flip = drawn) -> Tensor:
            copied = whole(self, name, tensor)
            if name == victim:
                drawn.apply({name: copied})
            return copied

        Saver._copy = copy
        folder = rig.output / f"step-{number:08d}"
        tally.flips += 1
        try:
            saver.save(folder, number, rig.state(), {})
            saver.wait()
        except RankFault as fault:
            tally.caught += not folder.exists()
            tally.named += fault.ranks == (drawn.rank,) and f"'{victim}' of rank {drawn.rank} at step {number}" in str(
                fault
            )
        finally:
            Saver._copy = whole
    saver.close()
    return tally


def in_files(rig: Rig, n: int, rng: random.Random) -> dict[str, Tally]:
    """Flip `n` bits in the files of a checkpoint, and as many in published weights; one process looks at them."""
    tallies = {"checkpoint, on disk": Tally(), "published weights, on disk": Tally()}
    folder, published = rig.output / "step-99999999", rig.output / "published"
    checkpoint.save(folder, 1, rig.state(), {}, rig.here)
    if not rig.here.is_first:
        return tallies
    model = LoopCoder(_shape(), seed=1)
    huggingface.save(model, published)
    n_header = 8 + int.from_bytes((published / huggingface.WEIGHTS).read_bytes()[:8], "little")
    places: list[tuple[str, list[Path], int, Callable[[], object]]] = [
        ("checkpoint, on disk", sorted(folder.iterdir()), 0, lambda: checkpoint.read(folder)),
        (
            "published weights, on disk",
            [published / huggingface.WEIGHTS],
            n_header,
            lambda: huggingface.load(published),
        ),
    ]
    for name, files, begin, use in places:
        tally = tallies[name]
        for _ in range(n):
            file = rng.choice(files)
            data = file.read_bytes()
            bit = rng.randrange(8 * begin, 8 * len(data))
            file.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :])
            tally.flips += 1
            try:
                use()
            except UserError as error:
                tally.caught += 1
                tally.named += file.name in str(error)
            file.write_bytes(data)
        use()  # undamaged again
    return tallies


def clean(rig: Rig, n_steps: int, seconds: float = math.inf) -> tuple[int, int]:
    """Make clean steps; return the checks made (one place at one step) and the false alarms."""
    places = 4 if isinstance(rig.payloads, _FlippingPayloads) else 3
    alarms = n = 0
    for _ in _in_time(rig.here, range(n_steps), seconds):
        n += 1
        try:
            rig.make_step()
        except RankFault:
            alarms += 1
            rig.trainee.optimizer.clear_gradients()
            rig.integrity.after_update()
    return n * places, alarms


@dataclass
class Computation:
    """Faults of one kind in the arithmetic of one rank."""

    kind: str
    every_steps: int
    faults: int = 0
    sampled: int = 0  # of which in a pass that was made again, or whose result was compared with it
    caught: int = 0
    named: int = 0


class _Miscomputing:
    """Flips a bit in what a block gives back, on one rank in one pass of a step, or in all passes alike."""

    def __init__(self, blocks: Sequence[torch.nn.Module]) -> None:
        self._blocks = list(blocks)
        self._n_calls = 0
        self.waiting: tuple[Flip, int | None] | None = None  # the number of the pass; None: every one
        for block in blocks:
            block.register_forward_hook(self)

    def begin(self, drawn: Flip, number: int | None) -> None:
        self.waiting, self._n_calls = (drawn, number), 0

    def __call__(self, block: torch.nn.Module, _: Any, result: tuple[Tensor, Any]) -> None:
        if self.waiting is None:
            return
        drawn, number = self.waiting
        now = self._n_calls // (len(self._blocks) * 2)  # two loops
        call, self._n_calls = self._n_calls % (len(self._blocks) * 2), self._n_calls + 1
        if dist.get_rank() == drawn.rank and number in (None, now) and drawn.tensor % (len(self._blocks) * 2) == call:
            bit = drawn.bit % 32 if number is not None else 12 + drawn.bit % 8  # small enough to go on with
            flip(result[0].data, drawn.place, bit)


def computation(
    here: World, what: tuple[str, int, int], rng: random.Random, output: Path, seconds: float = math.inf
) -> Computation:
    """Let a rank miscompute: `what` is the kind, how many times, and every how many steps a pass is made again.

    "once" in one pass of a random step, or "always" alike until it is noticed.

    The layout has 4 replicas; one of the 2 passes of each `every`-th step is made again, on the next rank too.
    """
    kind, n, every = what
    config = IntegrityConfig(checks=(), every_steps=None, recompute_every_steps=every, recompute_on="both")
    rig = Rig.make(here, MeshConfig.model_validate(REPLICAS), output, config)
    wrong = _Miscomputing(list(rig.trainee.objective.model.layers))
    rig.make_step()
    before = {key: local(x).clone() for key, x in rig.state().items()}
    tally = Computation(kind, every)
    for _ in _in_time(here, range(n), seconds):
        drawn = Flip.draw(rng)
        tally.faults += 1
        first = rng.randrange(every)
        for step in range(first, first + (1 if kind == "once" else every)):
            rig.step = step + every - 1  # the next one is step + every
            due, chosen = (rig.step + 1) % every == 0, (rig.step + 1) // every % N_PASSES
            number = rng.randrange(N_PASSES + 2 if due else N_PASSES) if kind == "once" else None
            tally.sampled += due and (number is None or chosen <= number <= chosen + 2)
            wrong.begin(drawn, number)
            try:
                rig.make_step()
            except RankFault as found:
                tally.caught += 1
                tally.named += found.ranks == (drawn.rank,)
                break
            finally:
                wrong.waiting = None
                _put_back(rig, before)
    return tally


def run_world(folder: Path, n_flips: int, n_checks: int, seed: int, minutes: float = math.inf) -> dict[str, Any]:
    """Run the whole campaign on this process and its three peers; parts that would need longer end early."""
    share = minutes * 60 / (2 * len(PLACES) + 3)  # seconds of a part
    found: dict[str, Any] = {"flips": {}, "checks": 0, "alarms": 0, "computation": []}
    config = IntegrityConfig(every_steps=1, recompute_every_steps=None)
    for name, (axes, part) in PLACES.items():
        mesh = MeshConfig.model_validate(axes)
        with world(mesh) as here:
            rig = Rig.make(here, mesh, folder, config)
            rng = random.Random(f"{seed} {name}")
            found["flips"][name] = flips(rig, name, round(n_flips * part), rng, share)
            if name == "state":
                found["flips"]["checkpoint, on its way to disk"] = on_the_way_to_disk(rig, round(n_flips * 0.05), rng)
                found["flips"] |= in_files(rig, round(n_flips * 0.075), rng)
            rig = Rig.make(here, mesh, folder, config)
            checks, alarms = clean(rig, -(-n_checks // (len(PLACES) * 3)), share)
            found["checks"] += checks
            found["alarms"] += alarms
    with world(MeshConfig.model_validate(REPLICAS)) as here:
        for kind, n, every in (("once", n_flips // 4, 2), ("once", n_flips // 4, 5), ("always", n_flips // 40, 5)):
            rng = random.Random(f"{seed} {kind} {every}")
            found["computation"].append(computation(here, (kind, n, every), rng, folder, share))
    return found


def _rank(rank: int, folder: Path, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), N_RANKS)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=N_RANKS)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # a thousand silent errors are told
        found = run_world(folder, options.flips, options.clean, options.seed, options.minutes)
    if rank == 0:
        tree = {**found, "flips": {name: dataclasses.asdict(tally) for name, tally in found["flips"].items()}}
        tree["computation"] = [dataclasses.asdict(each) for each in found["computation"]]
        (folder / "found.json").write_text(json.dumps(tree))
    dist.destroy_process_group()


def in_four_processes(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run `run_world` on four processes of this machine; return what the first one found."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(rank, folder, options)) for rank in range(N_RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * N_RANKS, "a rank died"
    return json.loads((folder / "found.json").read_text())


def table(found: dict[str, Any]) -> str:
    """Return the Markdown tables of a campaign."""
    lines = [
        "| flips in | flips | caught before they spread | right rank, tensor and step, or file |",
        "|---|--:|--:|--:|",
    ]
    lines += [f"| {name} | {t['flips']} | {t['caught']} | {t['named']} |" for name, t in found["flips"].items()]
    flips, caught, named = (sum(t[key] for t in found["flips"].values()) for key in ("flips", "caught", "named"))
    lines.append(f"| all | {flips} | {caught} ({caught / flips:.2%}) | {named} ({named / flips:.2%}) |")
    lines.append(f"\nFalse alarms in {found['checks']:,} clean checks (one place at one step): {found['alarms']}.\n")
    lines += ["| a rank miscomputes | one pass made again every | faults | in a sampled pass | caught | right rank |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    lines += [
        f"| {c['kind']} | {c['every_steps']} steps | {c['faults']} | {c['sampled']} ({c['sampled'] / c['faults']:.1%}) "
        f"| {c['caught']} ({c['caught'] / c['faults']:.1%}) | {c['named']} |"
        for c in found["computation"]
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the campaign; exit with 1 when flips go unseen, a rank is wrongly named or a clean check raises an alarm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--clean", type=int, default=10_000, help="clean checks, of one place at one step each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="parts that would need longer end early")
    parser.add_argument("--table", type=Path, help="write the tables, with date and machine, to this file")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bit-flips-") as folder:
        found = in_four_processes(options, Path(folder))
    text = table(found)
    print(text)
    if options.table:
        command = f"python -m campaigns bit_flips --flips {options.flips} --clean {options.clean} --seed {options.seed}"
        command += f" --minutes {options.minutes:g}"
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, torch {torch.__version__}"
        head = f"# Bit-flip campaign\n\n{date.today().isoformat()}, {machine}; `{command}`; "
        options.table.write_text(f"{head}{time.monotonic() - started:.0f} s\n\n{text}\n")
    tallies = found["flips"].values()
    n = sum(t["flips"] for t in tallies)
    good = sum(t["caught"] for t in tallies) >= 0.999 * n and sum(t["named"] for t in tallies) >= 0.99 * n
    return int(not good or found["alarms"] > 0)


if __name__ == "__main__":
    sys.exit(main())
