"""`codeflow inspect`: one self-contained page to look at the documents of an artifact.

Kept documents beside dropped ones by reason, distributions, near-duplicate clusters side by side, and hits of benchmark
text with both texts. The same artifact and settings give the same bytes. Texts are inert: see `report/inert.py`; beyond
that the page allows no script but its own, by hash, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, require_kind
from codeflow.core.storage import write_text
from codeflow.report import charts, findings
from codeflow.report.inert import inert, plain
from codeflow.report.specimens import (
    LENGTH_BINS,
    InspectConfig,
    Side,
    Source,
    Specimen,
    Survey,
    Values,
    find,
    survey,
)

GENERATOR = "codeflow inspect"
_ID = re.compile(r"\b[0-9a-f]{64}\b")
_BARS = 14
_HISTOGRAM_BINS = 24


def inspect_artifact(folder: Path, output: Path | None, config: InspectConfig) -> Path:
    """Write the page and return its path. Raises UserError for what is no whole artifact of documents."""
    manifest = require_kind(folder, ["documents"])
    target = _target(folder, output)
    write_text(target, page(folder, manifest, config))
    return target


def _target(folder: Path, output: Path | None) -> Path:
    target = output or folder.resolve().with_name(f"{folder.resolve().name}.html")
    if target.is_dir():
        raise UserError(f"--output {target} is a folder; name a file, such as {target / 'page.html'}")
    if target.exists():
        with open(target, encoding="utf-8", errors="replace") as file:
            if GENERATOR not in file.read(600):
                raise UserError(
                    f"{target} exists and is no page of `codeflow inspect`; name another file with --output"
                )
    return target


def page(folder: Path, manifest: Manifest, config: InspectConfig) -> str:
    """Return the page's HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    source = Source(folder)
    found = survey(source, config)
    clusters = findings.clusters(folder, source, config)
    hits = findings.hits(folder, config)
    dropped = [one for group in found.dropped_samples.values() for one in group]
    named = {match[0] for one in dropped if (match := _ID.search(one.detail))}
    content: dict[str, Any] = {
        "name": folder.resolve().name,
        "fingerprint": manifest.fingerprint[:10],
        "generator": GENERATOR,
        "summary": _summary(manifest, found),
        "inputs": [(name, Path(record.path).name, record.fingerprint[:10]) for name, record in manifest.inputs.items()],
        "remarks": list(manifest.metrics.get("remarks", [])),
        "reasons": _shares(found.reasons, found.dropped.n),
        "notes": sorted(manifest.counts.notes.items(), key=lambda item: -item[1]),
        "languages": _sides(found.kept.languages, found.dropped.languages),
        "licences": _sides(found.kept.licences, found.dropped.licences),
        "lengths": _lengths(found),
        "tags": _tags(found.kept, found.dropped),
        "kept": _interleaved(found.kept_samples),
        "dropped": dropped,
        "filters": _filters(found),
        "instead": find(source, named, 80) if named else {},
        "clusters": clusters,
        "hits": hits,
        "config": config,
    }
    templates = Environment(
        loader=PackageLoader("codeflow", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"inert": inert, "plain": plain, "number": _number, "document_id": _document_id}
    script = templates.get_template("inspection.js.j2").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates.get_template("inspection.html.j2").render(**content, script=script, script_hash=digest)


def _document_id(detail: str) -> str:
    match = _ID.search(detail)
    return match[0] if match else ""


def _number(value: float) -> str:
    """Return a measurement in few characters."""
    whole = abs(value) < 1e12 and value == int(value)
    return f"{value:,.0f}" if whole else f"{value:.4g}"


def _summary(manifest: Manifest, found: Survey) -> list[tuple[str, str]]:
    kept, dropped = found.kept, found.dropped
    rows = [
        ("kept here", f"{kept.n:,} documents, {kept.n_characters / 1e6:,.2f} M characters"),
        ("dropped here", f"{dropped.n:,} documents, {dropped.n_characters / 1e6:,.2f} M characters"),
        ("the stage counted", f"{manifest.counts.read:,} read, {manifest.counts.kept:,} kept"),
        ("languages", f"{len(found.kept.languages):,} kept"),
    ]
    documented = sum(n for name, (n, _) in kept.licences.items() if name)
    rows.append(("with a licence", f"{documented / kept.n:.1%} of the kept" if kept.n else "nothing kept"))
    return rows


def _shares(counts: Mapping[str, int], total: int) -> list[tuple[str, int, float]]:
    return [(name, n, n / max(total, 1)) for name, n in counts.items()]


def _sides(kept: Mapping[str, Sequence[int]], dropped: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """Return rows of a table with two bars: documents kept and dropped by name, the most frequent first."""

    def row(name: str, k: Sequence[int], d: Sequence[int]) -> dict[str, Any]:
        return {"name": name, "kept": k[0], "dropped": d[0], "kept_characters": k[1]}

    rows = [row(name, kept.get(name, (0, 0)), dropped.get(name, (0, 0))) for name in {*kept, *dropped}]
    rows.sort(key=lambda r: (-r["kept"] - r["dropped"], r["name"]))
    if len(rows) > _BARS + 1:
        rest = rows[_BARS:]
        totals = {key: sum(r[key] for r in rest) for key in ("kept", "dropped", "kept_characters")}
        rows = [*rows[:_BARS], {"name": f"{len(rest)} more", **totals}]
    top = max((max(r["kept"], r["dropped"]) for r in rows), default=1) or 1
    return [{**r, "kept_width": 100 * r["kept"] / top, "dropped_width": 100 * r["dropped"] / top} for r in rows]


def _lengths(found: Survey) -> str:
    edges = np.append(np.maximum(LENGTH_BINS, 3), 2e7)
    return charts.two_histograms(edges, found.kept.lengths, found.dropped.lengths, "characters", log=True)


def _tags(kept: Side, dropped: Side) -> list[dict[str, Any]]:
    """Return a row per tag: how many documents carry it, its values, and a picture where they differ."""
    rows = []
    for name in sorted({*kept.tags, *dropped.tags}):
        left, right = kept.tags.get(name, Values()), dropped.tags.get(name, Values())
        low, high = min(left.low, right.low), max(left.high, right.high)
        picture = ""
        if high > low:
            edges = np.linspace(low, high, _HISTOGRAM_BINS + 1)
            if np.all(np.diff(edges) > 0) and np.isfinite(high - low):
                first, second = (np.histogram(side.sample, edges)[0] for side in (left, right))
                picture = charts.two_histograms(edges, first, second, "", small=True)
        row = {"name": name, "kept": _values(left, kept.n), "dropped": _values(right, dropped.n), "picture": picture}
        rows.append({**row, "low": low, "high": high} if low <= high else {**row, "low": None, "high": None})
    return rows


def _values(values: Values, n_documents: int) -> dict[str, Any]:
    median = float(np.median(values.sample)) if values.sample.size else None
    return {"share": values.n / max(n_documents, 1), "median": median}


def _interleaved(groups: Mapping[str, list[Specimen]]) -> list[Specimen]:
    """Return the samples of all groups, one of each in turn."""
    longest = max((len(group) for group in groups.values()), default=0)
    return [group[i] for i in range(longest) for group in groups.values() if i < len(group)]


def _filters(found: Survey) -> dict[str, list[str]]:
    specimens = [one for groups in (found.kept_samples, found.dropped_samples) for g in groups.values() for one in g]
    return {"languages": sorted({one.language for one in specimens}), "reasons": list(found.dropped_samples)}
