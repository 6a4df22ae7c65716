"""Batches as a pure function of (plan, step, rank): nothing to save, any step at once, the same for any ranks.

Row g of training (step * batch_rows + place in the batch) comes from the set that the mixture deals to g. It is the
k-th row taken from that set, so row k mod n of a permutation of the set's n rows which differs by epoch, k div n. All
of that is computed, not remembered. Ranks take equal neighbouring parts of the batch: joined in order of rank they are
the same batch for any number of ranks. A change of weights is appended to the plan with the step from which it holds.

A set may be packed for a part of the context (32k within 128k): a row of training then joins the next rows of the set.
Sets of several artifacts that share names are told apart by a prefix: `32k/reasoning` is set `reasoning` of the folder
given as `32k`, in the order that it has under its own name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, model_validator

from codeflow.core.config import Config, validate
from codeflow.core.errors import UserError, suggest
from codeflow.tokens.batch import Batch, batch_from_rows
from codeflow.tokens.mixture import Blend, Deal, WeightChange, deal, flatten
from codeflow.tokens.token_shard import TokenIndex, TokenSet, read_index

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEISTEL_ROUNDS = 4
Folders = Path | Sequence[Path] | Mapping[str, Path]  # tokens artifacts; by prefix of their sets' names, "" for none


class Seen(Config):
    """What earlier plans have taken of a set: the first rows of its order, which depends on seed and number of rows."""

    rows: int = Field(ge=0)
    of_rows: int = Field(ge=1)  # that the set had
    seed: int
    content: str = ""  # hash of the set's tokens; "": not known


@dataclass(frozen=True, slots=True)
class SetUse:
    """What a number of steps takes from one set."""

    rows: int  # of the set, so of the context that it is packed for
    tokens: int  # places, padding included
    epochs: float


class LoaderPlan(Config):
    """All that decides which rows are read when. Weights are shares of rows; groups of sets may nest."""

    weights: dict[str, float | Blend]
    batch_rows: int = Field(8, ge=1)  # of the global batch
    context_tokens: int = Field(512, ge=2)
    seed: int = 0
    changes: tuple[WeightChange, ...] = ()
    once: tuple[str, ...] = ()  # sets that must never be seen twice
    seen: dict[str, Seen] = Field(default_factory=dict)  # sets that go on where an earlier plan has left them

    @model_validator(mode="after")
    def _same_seed(self) -> LoaderPlan:
        for name, seen in self.seen.items():
            if seen.seed != self.seed:
                raise ValueError(
                    f"set '{name}' was read in the order of seed {seen.seed}, the plan has {self.seed}; use the same"
                )
        return self

    @model_validator(mode="after")
    def _changes_in_order(self) -> LoaderPlan:
        steps = [change.step for change in self.changes]
        if steps != sorted(set(steps)):
            raise ValueError(f"steps of changes must grow: {steps}; order them")
        return self

    @property
    def phases(self) -> tuple[tuple[int, dict[str, float | Blend]], ...]:
        """First steps and weights, changes included."""
        return ((0, self.weights), *((change.step, change.weights) for change in self.changes))

    def changed(self, step: int, weights: Mapping[str, float | Blend]) -> LoaderPlan:
        """Return the plan with a later change of weights appended."""
        change = WeightChange(step=step, weights=dict(weights))
        return LoaderPlan.model_validate({**dict(self), "changes": (*self.changes, change)})

    def after(self, earlier: Loader, steps: int) -> LoaderPlan:
        """Return this plan so that every set goes on where `steps` steps of an earlier loader have left it.

        A set in `once` then gives fresh rows only, none that an earlier phase has seen. Raises UserError for another
        seed: it has another order of rows.
        """
        seen = {**self.seen, **earlier.seen_after(steps)}
        return validate(LoaderPlan, {**self.model_dump(), "seen": {name: seen[name].model_dump() for name in seen}})


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Rows from `first_row` on are dealt by `deal`; each of its sets was dealt `taken` rows of this plan before."""

    first_row: int
    deal: Deal
    taken: NDArray[np.int64]


class Loader:
    """Reads the rows that a plan asks for from tokens artifacts."""

    def __init__(self, plan: LoaderPlan, folders: Folders) -> None:
        """Map the sets of `folders` that have weight and are packed for the plan's context or a whole part of it.

        Raises UserError for a set with weight that is missing, empty or packed for another context, for a set that
        two folders hold, for one whose rows have changed since they were seen, and for folders of different
        tokenizers; the message names it.
        """
        self.plan = plan
        sources = [_Source(prefix, folder, read_index(folder)) for prefix, folder in by_prefix(folders)]
        self.tokenizer_fingerprint, self.vocab_size = _one_tokenizer(sources)
        phases = [(step, flatten(weights)) for step, weights in plan.phases]
        wanted = sorted({name for _, weights in phases for name, weight in weights.items() if weight > 0})
        places = {name: _place(name, sources, plan.context_tokens) for name in wanted}
        self._sets = {name: self._opened(*places[name], name) for name in wanted}
        self._parts = {name: plan.context_tokens // rows.context_tokens for name, rows in self._sets.items()}
        self._keys = {name: _key(plan.seed, rows.name) for name, rows in self._sets.items()}
        self._stretches = self._lay_out(phases)

    @property
    def sets(self) -> Mapping[str, TokenSet]:
        """The sets that have weight; `n_rows` counts the rows that are read."""
        return self._sets

    def _n_read(self, rows: TokenSet) -> int:
        """Return how many of a set's rows, from its first, are read."""
        return rows.n_rows

    def _opened(self, folder: Path, own_name: str, name: str) -> TokenSet:
        rows = TokenSet(folder, own_name)
        rows.n_rows = self._n_read(rows)
        seen = self.plan.seen.get(name)
        if seen and seen.of_rows != rows.n_rows:
            raise UserError(
                f"set '{name}' had {seen.of_rows} rows when it was seen and has {rows.n_rows} now, so another order; "
                "read the artifact of the earlier phase, with as many rows held out"
            )
        if seen and seen.content not in ("", rows.index.token_multiset_hash):
            raise UserError(
                f"set '{name}' held other tokens when it was seen, so which of its rows are new is unknown; "
                "read the artifact of the earlier phase"
            )
        return rows

    def _lay_out(self, phases: Sequence[tuple[int, dict[str, float]]]) -> list[_Stretch]:
        stretches: list[_Stretch] = []
        taken = dict.fromkeys(self._sets, 0)
        for number, (step, weights) in enumerate(phases):
            first_row = step * self.plan.batch_rows
            if stretches:
                last = stretches[-1]
                counts = last.deal.rows_of_sets(first_row - last.first_row)
                for name, count in zip(last.deal.names, counts, strict=True):
                    taken[name] += int(count)
            dealt = deal(weights, _key(self.plan.seed, f"deal {number}"))
            stretches.append(_Stretch(first_row, dealt, np.array([taken[name] for name in dealt.names], np.int64)))
        return stretches

    def batch(self, step: int, rank: int = 0, n_ranks: int = 1) -> Batch:
        """Return this rank's rows (batch_rows / n_ranks, T) of a step. Steps count from 0.

        Raises UserError when the ranks cannot share the batch equally, or a set of `once` has no unseen rows left.
        """
        rows_per_rank, rest = divmod(self.plan.batch_rows, n_ranks)
        if rest:
            raise UserError(
                f"batch_rows={self.plan.batch_rows} cannot be shared equally by {n_ranks} ranks; use a multiple"
            )
        if not 0 <= rank < n_ranks or step < 0:
            raise UserError(f"no batch for step {step}, rank {rank} of {n_ranks}; both count from 0")
        first = step * self.plan.batch_rows + rank * rows_per_rank
        names, numbers = self._locate(step, np.arange(first, first + rows_per_rank, dtype=np.int64))
        shape = (rows_per_rank, self.plan.context_tokens)
        ids, flags = np.empty(shape, np.uint32), np.empty(shape, np.uint8)
        for name in dict.fromkeys(names):
            mine = [place for place, other in enumerate(names) if other == name]
            found = self._sets[name].rows(np.concatenate([numbers[place] for place in mine]))
            ids[mine], flags[mine] = (part.reshape(len(mine), shape[1]) for part in found)
        return batch_from_rows(ids, flags, names)

    def rows(self, step: int) -> list[tuple[str, int]]:
        """Return set and row number of every row that a step's global batch reads: the audit trail of training."""
        first = step * self.plan.batch_rows
        names, numbers = self._locate(step, np.arange(first, first + self.plan.batch_rows, dtype=np.int64))
        return [(name, row) for name, part in zip(names, numbers, strict=True) for row in part.tolist()]

    def _locate(self, step: int, rows: NDArray[np.int64]) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
        """Return set names (R,) of the global rows of one step, and for each the row numbers in its set."""
        stretch = next(s for s in reversed(self._stretches) if s.first_row <= step * self.plan.batch_rows)
        which, before = stretch.deal.at(rows - stretch.first_row)
        names = tuple(stretch.deal.names[index] for index in which.tolist())
        parts = np.array([self._parts[name] for name in names], np.int64)
        ends = np.cumsum(parts)
        seen = np.array([self.plan.seen[name].rows if name in self.plan.seen else 0 for name in names], np.int64)
        first = seen + (stretch.taken[which] + before) * parts
        taken = np.repeat(first - (ends - parts), parts) + np.arange(ends[-1], dtype=np.int64)
        n_rows = np.repeat(np.array([self._sets[name].n_rows for name in names], np.int64), parts)
        keys = np.repeat(np.array([self._keys[name] for name in names], np.uint64), parts)
        epochs, places = np.divmod(taken, n_rows)
        for name, epoch in zip(names, epochs[ends - 1].tolist(), strict=True):
            if epoch and name in self.plan.once:
                raise UserError(
                    f"set '{name}' must be seen once, but its {self._sets[name].n_rows} rows end at step {step}; "
                    "lower its weight or train fewer steps"
                )
        return names, np.split(permuted(places, epochs, n_rows, keys), ends[:-1])

    def seen_after(self, steps: int) -> dict[str, Seen]:
        """Return what this plan and the ones before it have taken of each set after `steps` steps."""
        found: dict[str, Seen] = {}
        for name, use in self.describe(steps).items():
            before = self.plan.seen[name].rows if name in self.plan.seen else 0
            rows = self._sets[name]
            content = rows.index.token_multiset_hash
            found[name] = Seen(rows=before + use.rows, of_rows=rows.n_rows, seed=self.plan.seed, content=content)
        return found

    def describe(self, steps: int) -> dict[str, SetUse]:
        """Return what the first `steps` steps take from each set: rows, tokens, epochs."""
        taken = dict.fromkeys(self._sets, 0)
        last_row = steps * self.plan.batch_rows
        ends = [stretch.first_row for stretch in self._stretches[1:]] + [last_row]
        for stretch, end in zip(self._stretches, ends, strict=True):
            n_rows = max(0, min(end, last_row) - stretch.first_row)
            for name, count in zip(stretch.deal.names, stretch.deal.rows_of_sets(n_rows), strict=True):
                taken[name] += int(count)
        uses = {}
        for name, n in taken.items():
            n_rows = n * self._parts[name]
            uses[name] = SetUse(n_rows, n * self.plan.context_tokens, n_rows / self._sets[name].n_rows)
        return uses


def _key(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big")


@dataclass(frozen=True, slots=True)
class _Source:
    """A tokens artifact whose sets are named with a prefix."""

    prefix: str
    folder: Path
    index: TokenIndex

    def own_name(self, name: str) -> str | None:
        """Return what a set of the plan is called in the artifact; None when it cannot be one of its sets."""
        if not self.prefix:
            return name
        return name.removeprefix(f"{self.prefix}/") if name.startswith(f"{self.prefix}/") else None

    def holds(self, name: str) -> bool:
        """Whether a set of the plan is one of this artifact."""
        return self.own_name(name) in self.index.sets

    def names(self) -> list[str]:
        """Return its sets as a plan names them."""
        return [f"{self.prefix}/{name}" if self.prefix else name for name in self.index.sets]


def by_prefix(folders: Folders) -> tuple[tuple[str, Path], ...]:
    """Return pairs of a prefix of sets' names and the tokens artifact that it stands for."""
    if isinstance(folders, Mapping):
        return tuple(folders.items())
    return tuple(("", folder) for folder in ((folders,) if isinstance(folders, Path) else folders))


def set_names(folders: Folders) -> list[str]:
    """Return the names that a plan has for the sets of tokens artifacts."""
    return [
        name for prefix, folder in by_prefix(folders) for name in _Source(prefix, folder, read_index(folder)).names()
    ]


def _one_tokenizer(sources: Sequence[_Source]) -> tuple[str, int]:
    if not sources:
        raise UserError("no tokens artifact given to the loader; name at least one folder")
    first, *others = sources
    for other in others:
        if other.index.tokenizer_fingerprint != first.index.tokenizer_fingerprint:
            raise UserError(
                f"{first.folder} and {other.folder} were packed with different tokenizers; pack them again with one"
            )
    return first.index.tokenizer_fingerprint, first.index.vocab_size


def _place(name: str, sources: Sequence[_Source], context_tokens: int) -> tuple[Path, str]:
    """Return the folder of a wanted set and its name there."""
    holders = [source for source in sources if source.holds(name)]
    fitting = [source for source in holders if context_tokens % source.index.context_tokens == 0]
    if not holders:
        existing = sorted({other for source in sources for other in source.names()})
        raise UserError(f"set '{name}' has weight but is in none of the token folders{suggest(name, existing)}")
    if not fitting:
        packed = sorted({source.index.context_tokens for source in holders})
        raise UserError(
            f"set '{name}' is packed for context_tokens={packed}, the plan has {context_tokens}; pack it for that "
            "or for a whole part of it"
        )
    if len(fitting) > 1:
        raise UserError(
            f"set '{name}' is in both {fitting[0].folder} and {fitting[1].folder}; give the loader one of them, or "
            "one under a prefix"
        )
    (source,) = fitting
    own_name = source.own_name(name)
    assert own_name is not None
    if not source.index.sets[own_name].n_rows:
        filled = sorted(other for other, row in source.index.sets.items() if row.n_rows)
        raise UserError(
            f"set '{name}' has weight but no rows in {source.folder}; sets with rows: {', '.join(filled) or 'none'}"
        )
    return source.folder, own_name


def permuted(
    places: NDArray[np.int64], epochs: NDArray[np.int64], n_rows: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return where each place (R,) goes in the permutation of 0..n_rows-1 (R,) of its epoch (R,) and key (R,).

    Each is computed by itself: a Feistel network permutes the next power of 4, and a result beyond `n_rows` is sent
    through again until it lies within (less than 4 rounds on average).
    """
    limits, values = n_rows.astype(np.uint64), places.astype(np.uint64)
    half_bits = np.array([max(1, ((n - 1).bit_length() + 1) // 2) for n in n_rows.tolist()], np.uint64)
    keys = _mix(epochs.astype(np.uint64) + (keys << np.uint64(32)))
    values = _feistel(values, keys, half_bits)
    while (outside := values >= limits).any():
        values[outside] = _feistel(values[outside], keys[outside], half_bits[outside])
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], half_bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for round_number in range(_FEISTEL_ROUNDS):
        mixed = _mix(right + keys + np.uint64(round_number * 0x9E3779B97F4A7C15 % 2**64))
        left, right = right, left ^ (mixed & mask)
    return (left << half_bits) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser; array arithmetic on uint64 wraps."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
