"""Triplets as training samples, with what matters of the repository before the change (Code-Flow §2, finding 1).

    transition  messages and files of R_start -> the patch, as a unified diff or as search/replace edits
    flow        files of R_start -> a plan (the subjects of the commits), then each commit's message and patch
    snapshot    the same files as of R_end, without messages and patches: the control for "flow against snapshots"

A sample never exceeds `max_sample_tokens` (4,096, 32,768 and 131,072 are the recipe's contexts). The touched files come
whole or, where the budget is too small for that, as runs of lines around the changes (`path:10-80`); a triplet that
does not fit even so is dropped. What is left of the budget goes to importers, tests and neighbours of the touched
files, the most relevant standing last, next to the touched ones.

Not covered: instructions in other words than the commits' own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from codeflow.core.config import Config
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.progress import say
from codeflow.core.types import Change, Commit, Sample, Segment, Triplet
from codeflow.execute.local import THIS_MACHINE
from codeflow.execute.pool import Pool
from codeflow.execute.shards import run_shards
from codeflow.tokens.special import END_OF_TEXT, FILE_SEP, REPO_NAME
from codeflow.transform.edits import make_edits
from codeflow.transform.fim import generator
from codeflow.transform.histories import commits_of, documents_of, holders
from codeflow.transform.line_diff import diff_blocks, lines_of
from codeflow.transform.relevant_files import KINDS, Tree, relevant_files
from codeflow.transform.samples import MESSAGE_NAME, PATCH_NAME
from codeflow.transform.spans import Composition, change_noise

Rendering = Literal["transition", "flow", "snapshot"]
SETS: tuple[Rendering, ...] = ("transition", "flow", "snapshot")
EDITS_NAME = "CHANGES.edits"
PLAN_NAME = "PLAN"
_MARKUP_TOKENS = 2  # `<|file_sep|>` and a line break, per file
_MARGINS_LINES = (None, 40, 10)  # of a touched file: whole, else this much around its changes
_MOST_CHARACTERS_PER_TOKEN = 12  # of a whole file; longer files are not worth counting


class EvolutionSamplesConfig(Config):
    """How triplets are rendered."""

    seed: int = 0
    renderings: tuple[Rendering, ...] = SETS
    max_sample_tokens: PositiveInt = 4096
    max_files: int = Field(default=24, ge=0)  # beside the touched ones
    edits_share: float = Field(default=0.5, ge=0, le=1)  # of transitions, where edits can be written
    train_on: Literal["all", "answer"] = "answer"  # of transition and flow: the context too, or what is to be written
    max_file_characters: PositiveInt = 100_000  # longer files are no context


@dataclass(frozen=True, slots=True)
class RenderJob:
    """The triplets of one repository."""

    number: int
    triplets: Path
    repository: str
    commits: tuple[Path, ...]
    documents: Path | None
    tokenizer: Path
    config: EvolutionSamplesConfig
    output: Path

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def reads(self) -> str:
        """Say what it reads, for messages."""
        return self.repository


def run(
    config: EvolutionSamplesConfig, inputs: Mapping[str, Path], output: Path, pool: Pool = THIS_MACHINE
) -> Manifest:
    """Render `triplets` with the history in `commits` into `<set>-NNNNN.parquet` of Sample; `tokenizer` counts.

    With `documents` (a split) no held-out document is shown. Counts: read and kept are triplets, kept those that gave a
    sample. Raises UserError when a triplet's commits are not in `commits`.
    """
    from codeflow.core.records import read_records, shards

    shards_of = holders(inputs["commits"])
    jobs = []
    for number, shard in enumerate(shards(inputs["triplets"], "triplets")):
        row = next(read_records(shard, Triplet, ["origin"]))
        assert isinstance(row, dict)
        repository = row["origin"]["repository"]
        found = shards_of.get(repository, ())
        read = (inputs.get("documents"), inputs["tokenizer"])
        jobs.append(RenderJob(number, shard, repository, found, *read, config, output))
    counts = run_shards(render_repository, jobs, output, "evolution samples", pool) if jobs else Counts()
    sets = {name: {"samples": counts.notes.get(f"samples {name}", 0)} for name in config.renderings}
    remarks = [f"set {name} is empty" for name, row in sets.items() if not row["samples"]]
    for remark in remarks:
        say(f"  evolution samples: {remark}")
    files = {kind: counts.notes.get(f"files {kind}", 0) for kind in ("touched", *KINDS)}
    return seal(output, counts, {"sets": sets, "files": files, "remarks": remarks})


def render_repository(job: RenderJob) -> Counts:
    """Replay the repository's history and render each triplet at its start."""
    from codeflow.core.records import read_records, write_records
    from codeflow.tokens.tokenizer import Tokenizer

    triplets: list[Triplet] = list(read_records(job.triplets, Triplet))
    tokenizer = Tokenizer.load(job.tokenizer)
    renderer = Renderer(job.config, lambda text: len(tokenizer.encode_array(text)))
    held_out, _ = documents_of(job.documents, job.repository)
    samples: dict[str, list[Sample]] = {}
    n_kept = 0
    for triplet, commits, context in _with_context(job, triplets, held_out):
        found = renderer.samples(triplet, commits, context)
        n_kept += bool(found)
        for sample in found:
            samples.setdefault(sample.phase, []).append(sample)
            renderer.notes[f"samples {sample.phase}"] += 1
    for name, members in sorted(samples.items()):
        write_records(job.output / f"{name}-{job.name}.parquet", members, Sample)
    dropped = {"touched_files_exceed_budget": len(triplets) - n_kept} if n_kept < len(triplets) else {}
    return Counts(read=len(triplets), kept=n_kept, dropped=dropped, notes=dict(sorted(renderer.notes.items())))


Context = list[tuple[str, str, str]]  # kind, path, text: most relevant first


def _with_context(
    job: RenderJob, triplets: Sequence[Triplet], held_out: Callable[[Change], bool]
) -> Iterator[tuple[Triplet, list[Commit], Context]]:
    """Yield each triplet with its span's commits and the files that matter at its start, in order of their ends."""
    starts: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        starts.setdefault(triplet.origin.revision.partition("..")[0], []).append(triplet)
    open_spans: list[tuple[Triplet, list[Commit], Context]] = []
    tree = Tree(job.config.max_file_characters)
    for commit in commits_of(job.commits, job.repository):
        for triplet in starts.pop(commit.parent, []):
            open_spans.append((triplet, [], _context(tree, triplet, held_out, job.config.max_sample_tokens)))
        tree.apply(commit)
        for triplet, commits, context in open_spans:
            commits.append(commit)
            if triplet.origin.revision.endswith(f"..{commit.sha}"):
                yield triplet, commits, context
        open_spans = [span for span in open_spans if not span[0].origin.revision.endswith(f"..{commit.sha}")]
        if not starts and not open_spans:
            return
    raise UserError(
        f"the commits artifact does not hold the spans of {job.repository}'s triplets; give the one they were made from"
    )


def _context(tree: Tree, triplet: Triplet, held_out: Callable[[Change], bool], max_tokens: int) -> Context:
    """Return the files that matter and may be shown, as many as could fit."""
    found: Context = []
    n_characters = 0
    for kind, path in relevant_files(tree, {*triplet.before, *triplet.after}):
        text = tree.files[path]
        if n_characters > _MOST_CHARACTERS_PER_TOKEN * max_tokens:
            break
        if text.strip() and not change_noise(Change(path, path, "M", text, text, False), held_out):
            found.append((kind, path, text))
            n_characters += len(text)
    return found


class Renderer:
    """Makes the samples of triplets and counts what they show."""

    def __init__(self, config: EvolutionSamplesConfig, n_tokens: Callable[[str], int]) -> None:
        """`n_tokens` counts the tokens of a text."""
        self.notes: Counter[str] = Counter()
        self._config, self._n_tokens = config, n_tokens
        self._train = config.train_on == "all"

    def samples(self, triplet: Triplet, commits: Sequence[Commit], context: Context) -> list[Sample]:
        """Return the triplet's samples, of the renderings that fit the budget; a flow needs two commits."""
        found = []
        for name in self._config.renderings:
            files = triplet.after if name == "snapshot" else triplet.before
            if (name == "flow" and len(commits) < 2) or (name == "snapshot" and not files):
                continue
            others = triplet.before if name == "snapshot" else triplet.after
            opening, ending = self._ends(name, triplet, commits)
            room = self._config.max_sample_tokens - self._cost([*opening, *ending])
            for margin in _MARGINS_LINES:
                shown = [part for path, text in sorted(files.items()) for part in excerpts(path, text, others, margin)]
                touched = [part for path, text in shown for part in self._file(path, text, name)]
                if (used := self._cost(touched)) <= room:
                    break
            else:
                self.notes[f"{name} too long"] += 1
                continue
            self.notes["files touched"] += len(files)
            self.notes[f"{name} with excerpts"] += margin is not None
            parts = [*opening, *self._fill(context, room - used, name), *touched, *ending]
            found.append(Sample(f"{name}/{triplet.id}", tuple(parts), (triplet.origin,), name))
        return found

    def _ends(
        self, name: Rendering, triplet: Triplet, commits: Sequence[Commit]
    ) -> tuple[list[Segment], list[Segment]]:
        """Return what stands before and behind the files."""
        train = self._train or name == "snapshot"
        opening = [Segment("special", REPO_NAME, train), Segment("text", f"{triplet.origin.repository}\n", train)]
        end = Segment("special", END_OF_TEXT)
        if name == "snapshot":
            return opening, [end]
        if name == "flow":
            return opening, [*_flow(commits), end]
        messages = "\n\n".join(message.strip() for message in triplet.messages)
        opening += self._file(MESSAGE_NAME, messages, name)
        edits = None
        if generator(self._config.seed, triplet.id, "form").random() < self._config.edits_share:
            renames = _renames(commits)
            edits = make_edits(triplet.before, triplet.after, renames)
            self.notes["edits" if edits is not None else "edits cannot be written"] += 1
        answer_name, answer = (PATCH_NAME, triplet.patch) if edits is None else (EDITS_NAME, edits)
        separator = [Segment("special", FILE_SEP, train), Segment("text", f"{answer_name}\n", train)]
        return opening, [*separator, Segment("text", answer), end]

    def _file(self, path: str, text: str, name: Rendering) -> list[Segment]:
        train = self._train or name == "snapshot"
        ending = "" if text.endswith("\n") else "\n"
        return [Segment("special", FILE_SEP, train), Segment("text", f"{path}\n{text}{ending}", train)]

    def _cost(self, parts: Sequence[Segment]) -> int:
        return sum(self._n_tokens(part.text) if part.role == "text" else 1 for part in parts)

    def _fill(self, context: Context, room_tokens: int, name: Rendering) -> list[Segment]:
        """Return the files of the context that fit, the most relevant last."""
        chosen: list[list[Segment]] = []
        for kind, path, text in context:
            if len(chosen) == self._config.max_files or room_tokens < 2 * _MARKUP_TOKENS:
                break
            if len(text) > _MOST_CHARACTERS_PER_TOKEN * room_tokens:
                continue
            file = self._file(path, text, name)
            cost = self._cost(file)
            if cost <= room_tokens:
                room_tokens -= cost
                chosen.append(file)
                self.notes[f"files {kind}"] += 1
        return [part for file in reversed(chosen) for part in file]


def excerpts(path: str, text: str, others: Mapping[str, str], margin_lines: int | None) -> list[tuple[str, str]]:
    """Return (label, text) of the runs of lines within `margin_lines` of where `text` differs from the other side.

    None gives the whole file, and so does a file that the other side does not have.
    """
    lines = lines_of(text)
    if margin_lines is None or path not in others:
        return [(path, text)]
    runs: list[tuple[int, int]] = []
    for block in diff_blocks(lines, lines_of(others[path])):
        start, stop = max(block.old_start - margin_lines, 0), min(block.old_stop + margin_lines, len(lines))
        if runs and runs[-1][1] >= start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    return [(f"{path}:{start + 1}-{stop}", "".join(lines[start:stop])) for start, stop in runs]


def _renames(commits: Sequence[Commit]) -> dict[str, str]:
    composition = Composition()
    for commit in commits:
        composition.add(commit)
    return composition.renames


def _flow(commits: Sequence[Commit]) -> Iterator[Segment]:
    """Yield a plan of the commits, then each commit's message and patch, all of it to be learnt."""
    subjects = [commit.message.strip().partition("\n")[0] for commit in commits]
    plan = "".join(f"{number}. {subject}\n" for number, subject in enumerate(subjects, 1))
    yield from (Segment("special", FILE_SEP), Segment("text", f"{PLAN_NAME}\n{plan}"))
    for commit in commits:
        composition = Composition()
        composition.add(commit)
        yield from (Segment("special", FILE_SEP), Segment("text", f"{MESSAGE_NAME}\n{commit.message.strip()}\n"))
        yield from (Segment("special", FILE_SEP), Segment("text", f"{PATCH_NAME}\n{composition.patch()}"))
