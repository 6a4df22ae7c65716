"""Model cards: what a published checkpoint is, from what it was made, how it scored, and what not to expect of it.

All facts are read from artifacts: phases and their tokens from the chain of checkpoints, licences from the documents,
scores from the artifact that scored this very checkpoint. Nothing is computed that they do not hold, save shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeflow.core.manifest import MANIFEST, Manifest, read_manifest
from codeflow.core.types import Score

TEMPLATE = "model_card.md.j2"
_CHAT_SETS = ("instruct", "thinking")
_SHORT = 12  # characters of a fingerprint


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One artifact of a lineage. `inputs` name the artifacts it was made from."""

    name: str
    kind: str
    fingerprint: str
    inputs: tuple[str, ...]
    manifest: Manifest | None  # None: the artifact is no longer there, or holds something else now

    @property
    def short(self) -> str:
        """The start of the fingerprint, as the card cites it."""
        return self.fingerprint[:_SHORT]


@dataclass(frozen=True, slots=True)
class Phase:
    """One training phase on the way to a checkpoint."""

    name: str
    phase: str
    steps: int | None
    tokens: int | None
    tokens_in_all: int | None
    sets: Mapping[str, float]  # share of the phase's tokens by set of samples


@dataclass(frozen=True, slots=True)
class LicenceShare:
    """Documents of one licence."""

    licence: str
    n_documents: int
    n_bytes: int
    share: float  # of the bytes


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that the template shows."""

    title: str
    licence: str  # of the weights, as the Hugging Face hub names licences
    model_type: str
    shape: Mapping[str, Any]  # config.json
    n_parameters: int
    phases: Sequence[Phase]
    lineage: Sequence[Ancestor]
    licences: Sequence[LicenceShare]
    languages: Mapping[str, float]  # share of the documents' bytes
    documents: Ancestor
    scores: Sequence[Score]

    @property
    def looped(self) -> bool:
        """Whether the layers run more than once, so that remote code is needed."""
        return self.shape.get("loop_num", 1) > 1

    @property
    def tokens(self) -> int:
        """Tokens that carried loss, over all phases that say so."""
        return max((phase.tokens_in_all or 0 for phase in self.phases), default=0)

    @property
    def chats(self) -> bool:
        """Whether any phase trained on conversations."""
        return any(name in _CHAT_SETS for phase in self.phases for name in phase.sets)


def lineage(folder: Path) -> list[Ancestor]:
    """Return an artifact and all it was made from, each once, every artifact before those that it was made from.

    An input is looked for where the manifest says, then beside `folder`; one that is gone, or whose fingerprint has
    changed since, is listed without its manifest and without ancestors.
    """
    found: dict[str, Ancestor] = {}
    _walk(folder.name, folder, read_manifest(folder), found)
    return sorted(found.values(), key=lambda item: -_depths(found)[item.name])


def _walk(name: str, folder: Path, manifest: Manifest, found: dict[str, Ancestor]) -> None:
    names: list[str] = []
    for record in manifest.inputs.values():
        path = Path(record.path)
        names.append(path.name)
        if path.name in found:
            continue
        places = [place for place in (path, folder.parent / path.name) if (place / MANIFEST).exists()]
        manifests = [(place, read_manifest(place)) for place in places]
        here = [(place, one) for place, one in manifests if one.fingerprint == record.fingerprint]
        if here:
            _walk(path.name, *here[0], found)
        else:
            found[path.name] = Ancestor(path.name, record.kind, record.fingerprint, (), None)
    found[name] = Ancestor(name, manifest.kind, manifest.fingerprint, tuple(dict.fromkeys(names)), manifest)


def _depths(found: Mapping[str, Ancestor]) -> dict[str, int]:
    """Return how many steps each artifact is from the sources (`found` holds inputs before what is made of them)."""
    depths: dict[str, int] = {}
    for ancestor in found.values():
        depths[ancestor.name] = 1 + max((depths[name] for name in ancestor.inputs), default=-1)
    return depths


def phases(ancestors: Sequence[Ancestor]) -> list[Phase]:
    """Return the phases of the checkpoints in a lineage, the first one first."""
    found: list[Phase] = []
    for ancestor in reversed(ancestors):
        if ancestor.kind != "checkpoint":
            continue
        metrics = ancestor.manifest.metrics if ancestor.manifest else {}
        sets = {name: float(use["tokens"]) for name, use in metrics.get("sets", {}).items() if use.get("tokens")}
        total = sum(sets.values())
        found.append(
            Phase(
                name=ancestor.name,
                phase=str(metrics.get("phase", ancestor.name)),
                steps=metrics.get("steps"),
                tokens=metrics.get("tokens"),
                tokens_in_all=metrics.get("tokens_in_all"),
                sets={name: n / total for name, n in sorted(sets.items())},
            )
        )
    return found


def licence_shares(table: Mapping[str, Sequence[int]]) -> list[LicenceShare]:
    """Turn {licence: [documents, bytes]} into shares, the largest first."""
    total = sum(n_bytes for _, n_bytes in table.values())
    rows = [LicenceShare(name, n, n_bytes, n_bytes / max(total, 1)) for name, (n, n_bytes) in table.items()]
    return sorted(rows, key=lambda row: (-row.n_bytes, row.licence))


def render(card: Card) -> str:
    """Return the card as Markdown with the hub's front matter."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("codeflow.recipes", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["cell"] = _cell
    templates.filters["mixture"] = _mixture
    return templates.get_template(TEMPLATE).render(card=card, settings=_settings(card.scores))


def _cell(value: Any) -> str:
    """Return `value` fit for a cell of a table: texts of foreign files stand in some."""
    if value is None:
        return "not recorded"
    if isinstance(value, int):
        return f"{value:,}"
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _mixture(sets: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in sets.items()) or "not recorded"


def _settings(scores: Sequence[Score]) -> dict[str, str]:
    """Return the settings of each benchmark in one line."""
    return {
        score.benchmark: ", ".join(f"{key} {value}" for key, value in sorted(score.settings.items()))
        for score in scores
    }
