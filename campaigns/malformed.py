"""Malformed inputs: every one ends in counted drops or one clear error, none in a crash, a hang or a traceback.

Whole inputs of every format are made first: crawl files, git repositories with packs and loose objects, notebooks,
Parquet and JSON lines tables, source files in many encodings, pages of HTML, and what looks like a PDF. Each trial
takes one of them, damages it by one to four seeded mutations (bytes flipped, cut off, deleted, doubled, overwritten by
noise, hostile tokens put in, spliced with another input) and runs the stage that reads it, and `clean` on what came
out, in a process that is ended when a trial hangs. A trial is well when the stages finished and their counts add up,
or one ended in an error of one line that its code raises on purpose.

    python -m campaigns malformed --inputs 5000 --seed 0 --table docs/campaigns/malformed.md
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from campaigns._malformed_inputs import HOSTILE, SUFFIXES, VERBS_OF, whole_inputs
from codeflow.core.config import validate
from codeflow.core.errors import CodeFlowError
from codeflow.core.manifest import Counts, Manifest
from codeflow.core.storage import make_folder
from codeflow.execute.chain import Stage, make, resolve, stage_key
from codeflow.execute.local import LocalPool
from codeflow.recipes.verbs import VERBS

_LIMIT_SECONDS = 120  # of one trial, on a machine that may be busy; whole inputs take well under one


@dataclass(frozen=True)
class Trial:
    """One malformed input: how it is made, and where it is read."""

    name: str
    form: str
    seed: int
    inputs: Path  # the folder of whole inputs
    folder: Path  # to work in

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return f"{self.form}, seed {self.seed}"


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return `data` damaged by one to four mutations; `other` is what it may be spliced with."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + int(rng.paretovariate(0.6)))
        kind = rng.randrange(7)
        if kind == 0:  # flip some bytes
            changed = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                if changed:
                    changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
            data = bytes(changed)
        elif kind == 1:
            data = data[:start]
        elif kind == 2:
            data = data[:start] + data[stop:]
        elif kind == 3:
            data = data[:start] + data[start:stop] * rng.choice((2, 3, 100)) + data[stop:]
        elif kind == 4:
            data = data[:start] + rng.randbytes(stop - start) + data[stop:]
        elif kind == 5:
            data = data[:start] + rng.choice(HOSTILE) + data[start:]
        else:
            data = data[:start] + other[rng.randrange(len(other) + 1) :]
    return data


def attempt(trial: Trial) -> Counts:
    """Damage an input and read it; return the outcome as a note. A hang ends this process."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # also within a parser that never comes back to Python
    signal.alarm(_LIMIT_SECONDS)
    place = trial.folder / trial.name
    try:
        source = _damaged(trial, place)
        manifest = _run(VERBS_OF[trial.form], source, place / "run")
        outcome = _judge(manifest)
    except CodeFlowError as error:
        # A cause that is not ours is an exception nobody had thought of, reported with its shard.
        clear = (error.__cause__ is None or isinstance(error.__cause__, CodeFlowError)) and "\n" not in str(error)
        outcome = "clear error" if clear else f"other error: {str(error)[:300]}"
    finally:
        shutil.rmtree(place, ignore_errors=True)
        signal.alarm(0)
    return Counts(read=1, notes={outcome: 1})


def _damaged(trial: Trial, place: Path) -> Path:
    """Write the damaged input; return the folder to be read."""
    rng = random.Random(trial.seed)
    choices = sorted((trial.inputs / trial.form).iterdir())
    chosen, other = rng.choice(choices), rng.choice(choices)
    source = place / "source"
    if chosen.is_dir():
        shutil.copytree(chosen, source)
        files = sorted(path for path in source.rglob("*") if path.is_file() and path.suffix != ".sample")
        weighty = [path for path in files if path.suffix in (".pack", ".idx") or "objects" in path.parts]
        victim = rng.choice(weighty if weighty and rng.random() < 0.7 else files)
        victim.chmod(0o644)
        victim.write_bytes(mutate(victim.read_bytes(), rng.choice(files).read_bytes(), rng))
    else:
        make_folder(source)
        name = f"input{rng.choice(SUFFIXES.get(trial.form, (''.join(chosen.suffixes),)))}"
        (source / name).write_bytes(mutate(chosen.read_bytes(), other.read_bytes(), rng))
    return source


def _run(verb: str, source: Path, folder: Path) -> list[Manifest]:
    """Run the stage that reads the input and, on documents, the stage that cleans them."""
    fields = {"repositories": [str(source)]} if verb in ("history", "collect") else {"files": [str(source)]}
    if verb == "collect":
        fields |= {"include_stdlib": False, "include_packages": False}
    first = VERBS[verb]
    stages = [first.stage(validate(resolve(first.config), fields))]
    if first.kind == "documents":
        cleaner = VERBS["clean_web" if verb == "web" else "clean"]
        stages.append(cleaner.stage(resolve(cleaner.config)(), {"documents": verb}))
    return [_make(stage, folder) for stage in stages]


def _make(stage: Stage, folder: Path) -> Manifest:
    return make(stage, folder, stage_key(stage, folder), LocalPool(1))[0]


def _judge(manifests: Sequence[Manifest]) -> str:
    """Return how a finished trial ended."""
    dropped = 0
    for manifest in manifests:
        counts = manifest.counts
        if counts.read != counts.kept + sum(counts.dropped.values()) and manifest.kind == "documents":
            return f"counts do not add up: {counts.model_dump_json()[:300]}"
        dropped += sum(counts.dropped.values()) + sum(counts.notes.values())
    return "finished, something counted" if dropped else "finished"


def campaign(n_inputs: int, seed: int, workers: int | None, folder: Path) -> dict[str, Counter[str]]:
    """Run the trials; return the outcomes by format. Crashes and hangs are those of the trial's process."""
    inputs = folder / "inputs"
    whole_inputs(inputs)
    forms = sorted(VERBS_OF)
    trials = [
        Trial(f"t{n:05d}", forms[n % len(forms)], seed * 1_000_003 + n, inputs, folder / "work")
        for n in range(n_inputs)
    ]
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for trial, outcome in LocalPool(workers).outcomes(attempt, trials):
        if isinstance(outcome, Counts):
            said = next(iter(outcome.notes))
        else:  # the process ended under it, or a bug's exception came through
            said = f"crash or hang: {type(outcome).__name__}: {outcome}"
        outcomes[trial.form][said] += 1
        if said not in GOOD:
            print(f"{trial.form}, seed {trial.seed}: {said}", file=sys.stderr)
    return dict(sorted(outcomes.items()))


GOOD = ("finished", "finished, something counted", "clear error")


def table(outcomes: dict[str, Counter[str]]) -> str:
    """Return the Markdown table of a campaign."""
    lines = [
        "| input | malformed | finished, nothing to count | drops or repairs counted | clear error | anything else |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for form, found in outcomes.items():
        bad = sum(n for said, n in found.items() if said not in GOOD)
        cells = [form, f"{found.total():,}", *(f"{found[said]:,}" for said in GOOD), f"{bad:,}"]
        lines.append("| " + " | ".join(cells) + " |")
    n = sum(found.total() for found in outcomes.values())
    lines.append(f"\n{n:,} malformed inputs, {n_bad(outcomes)} with a crash, a hang or an unclear error.")
    return "\n".join(lines)


def n_bad(outcomes: dict[str, Counter[str]]) -> int:
    """Return how many trials ended in neither a finished stage nor a clear error."""
    return sum(n for found in outcomes.values() for said, n in found.items() if said not in GOOD)


def main() -> int:
    """Run the campaign; exit with 1 when any input ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="processes; one per core if not given")
    parser.add_argument("--table", type=Path, help="write the table, with date and machine, to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malformed-") as folder:
        outcomes = campaign(options.inputs, options.seed, options.workers, Path(folder))
    text = table(outcomes)
    print(text)
    if options.table:
        command = f"python -m campaigns malformed --inputs {options.inputs} --seed {options.seed}"
        machine = (
            f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
        )
        options.table.write_text(
            f"# Campaign of malformed inputs\n\n{date.today().isoformat()}, {machine}; `{command}`\n\n{text}\n"
        )
    return int(n_bad(outcomes) > 0)


if __name__ == "__main__":
    sys.exit(main())
