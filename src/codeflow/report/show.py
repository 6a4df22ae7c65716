"""`codeflow show`: what an artifact is, from what it was made, and its first records, on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from codeflow.core.errors import UserError
from codeflow.core.manifest import Manifest, check_files, read_manifest
from codeflow.core.metrics import read_metrics
from codeflow.core.progress import visible
from codeflow.core.records import read_shards, to_row
from codeflow.core.types import Commit, Document, Prompt, Sample, Score, Triplet

_LIMIT_CHARACTERS = 600
_RECORDS: dict[str, tuple[str, type]] = {
    "documents": ("documents", Document),
    "commits": ("commits", Commit),
    "prompts": ("prompts", Prompt),
    "triplets": ("triplets", Triplet),
    "scores": ("scores", Score),
}


def show_artifact(folder: Path, n_records: int, row: int, verify: bool) -> None:
    """Print an artifact. Raises UserError for a folder that is no whole artifact."""
    manifest = check_files(folder, deep=verify)
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{escape(str(folder))}[/]: {manifest.kind}, {manifest.n_bytes:,} bytes in {len(manifest.files)} files"
        + (", every SHA-256 verified" if verify else "")
    )
    tree = Tree("made from" if manifest.inputs else "made from the outside world")
    _grow(tree, manifest)
    console.print(tree)
    console.print(_counts(manifest))
    for key, value in manifest.metrics.items():
        console.print(f"{key}: {escape(visible(str(value)))}", style="dim")
    printer = _PRINTERS.get(manifest.kind, _print_records)
    for line in printer(folder, manifest, n_records, row):
        console.print(visible(line), markup=False)


def _grow(tree: Tree, manifest: Manifest) -> None:
    for name, record in manifest.inputs.items():
        branch = tree.add(f"{name}: {record.kind} {record.fingerprint[:12]}  {escape(record.path)}")
        try:
            _grow(branch, read_manifest(Path(record.path)))
        except UserError:
            branch.add("(no longer there)")


def _counts(manifest: Manifest) -> Table:
    table = Table("counted", "n", box=None)
    counts = manifest.counts
    table.add_row("read", f"{counts.read:,}")
    table.add_row("kept", f"{counts.kept:,}")
    for reason, n in sorted(counts.dropped.items(), key=lambda item: -item[1]):
        table.add_row(f"dropped: {escape(reason)}", f"{n:,}")
    for name, n in sorted(counts.notes.items()):
        table.add_row(escape(name), f"{n:,}")
    return table


def _print_records(folder: Path, manifest: Manifest, n: int, row: int) -> Iterator[str]:
    name, kind = _RECORDS.get(manifest.kind, ("", None))
    if kind is None:
        yield from (f"{file}  {record.n_bytes:,} bytes" for file, record in manifest.files.items())
        return
    for number, record in enumerate(read_shards(folder, name, kind)):
        if number == n:
            return
        yield f"--- {name} {number}"
        yield from _fields(to_row(record))


def _fields(row: dict[str, object]) -> Iterator[str]:
    for key, value in row.items():
        text = value if isinstance(value, str) else str(value)
        cut = text[:_LIMIT_CHARACTERS] + (f"… ({len(text):,} characters)" if len(text) > _LIMIT_CHARACTERS else "")
        yield f"{key}: {cut}"


def _print_samples(folder: Path, manifest: Manifest, n: int, row: int) -> Iterator[str]:
    for name in sorted({file.rsplit("-", 1)[0] for file in manifest.files if file.endswith(".parquet")}):
        for number, sample in enumerate(read_shards(folder, name, Sample)):
            if number == n:
                break
            yield f"--- {name} {number}: {sample.id}"
            yield "".join(s.text if s.role == "text" else f"⟦{s.text}⟧" for s in sample.segments)[:_LIMIT_CHARACTERS]


def _print_tokens(folder: Path, manifest: Manifest, n: int, row: int) -> Iterator[str]:
    from codeflow.tokens.describe import describe_row
    from codeflow.tokens.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(Path(manifest.inputs["tokenizer"].path))
    for name in manifest.metrics["sets"]:
        yield f"--- {name}, row {row}"
        yield describe_row(folder, name, row, tokenizer)


def _print_checkpoint(folder: Path, manifest: Manifest, n: int, row: int) -> Iterator[str]:
    path = folder / "metrics.jsonl"
    rows = list(read_metrics(path)) if path.exists() else []
    for row_ in rows[:n] + rows[-n:] if len(rows) > 2 * n else rows:
        yield "  ".join(f"{key} {value}" for key, value in row_.items())


_PRINTERS: dict[str, Callable[[Path, Manifest, int, int], Iterator[str]]] = {
    "samples": _print_samples,
    "tokens": _print_tokens,
    "checkpoint": _print_checkpoint,
}
