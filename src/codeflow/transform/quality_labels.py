"""Labelled documents: what quality classifiers are trained on, whoever gave the labels.

A labels artifact holds `labels-*.parquet` of LabelledDocument and has one source: "history" (what became of a file's
text) or "teacher NAME" (what a model said of it). Several artifacts of one source may be read together; different
sources never are, since a classifier of a mixture would be a classifier of nothing that can be named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from codeflow.core.errors import UserError, suggest
from codeflow.core.types import Document

Side = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class LabelledDocument:
    """A document with its labels by target ("survival", "educational_value", ...), each 0..1."""

    document: Document
    source: str  # "history" or "teacher NAME"
    domain: str  # "code", "general" or "mathematics"
    targets: dict[str, float]
    facts: dict[str, float] = field(default_factory=dict)  # what the labels were derived from


def read_labels(folders: Sequence[Path], domain: str, target: str) -> tuple[list[LabelledDocument], str]:
    """Return the documents of a domain that have a label for `target`, ordered by id, and the labels' source.

    A text that occurs several times keeps its first place. Raises UserError for labels of several sources, a target
    or domain that no document has.
    """
    from codeflow.core.records import read_shards

    found: dict[str, LabelledDocument] = {}
    sources: set[str] = set()
    domains: set[str] = set()
    targets: set[str] = set()
    for folder in folders:
        for item in read_shards(folder, "labels", LabelledDocument):
            sources.add(item.source)
            domains.add(item.domain)
            targets.update(item.targets)
            if item.domain == domain and target in item.targets:
                found.setdefault(item.document.id, item)
    if len(sources) > 1:
        raise UserError(f"labels of several sources ({', '.join(sorted(sources))}); train a classifier on each")
    if domain not in domains:
        raise UserError(f"domain={domain!r}: the labels have {', '.join(sorted(domains)) or 'no documents'}")
    if not found:
        raise UserError(f"target={target!r}: no such label{suggest(target, targets)}")
    return [found[key] for key in sorted(found)], sources.pop()


def folds_by_repository(repositories: Iterable[str], n_folds: int, seed: int) -> dict[str, int]:
    """Return the fold 0 .. n_folds - 1 of each repository, as equal in number of repositories as can be.

    The order is that of a hash of (seed, name). Raises UserError for fewer repositories than folds.
    """
    names = sorted(set(repositories), key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).hexdigest())
    if len(names) < n_folds:
        raise UserError(f"labels of {len(names)} repositories make no {n_folds} folds; give more, or lower n_folds")
    return {name: number % n_folds for number, name in enumerate(names)}


def side_of(fold: int, tested: int, n_folds: int) -> Side:
    """Return what a repository's fold is for while fold `tested` is tested: the next one validates, the rest trains."""
    return "test" if fold == tested else "validation" if fold == (tested + 1) % n_folds else "train"
