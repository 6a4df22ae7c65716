"""Verdicts beside those of their references: Python's own parser, enry, and Linguist's labelled samples.

Syntax: what `MeasureSyntax` says (`ast_ok`) of installed Python files, of each also cut in half and with its first
colon taken out, beside what a fresh interpreter's `ast.parse` says. Language: what `language_of` says of installed
files of all kinds beside `enry.get_language`, and of Linguist's samples beside the folder that each lies in. Where the
project's own table decides otherwise than enry, the pair of languages is counted.

    python -m campaigns verdicts [--files 10000] [--samples LINGUIST/samples] [--table docs/campaigns/verdicts.md]

The samples are those of github.com/github-linguist/linguist, which enry's rules come from; without them that part is
left out. Dialects that Linguist tells apart by their content and the table does not (PL/SQL and T-SQL are SQL, kinds of
YAML are YAML) stand among the differences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from codeflow.core.languages import BY_NAME
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.corpus.detect import language_of
from codeflow.transform.syntax import MeasureSyntax

_MOST_BYTES = 200_000
_PARSER = """
import ast, json, sys, warnings
warnings.simplefilter("ignore")
for line in sys.stdin:
    try:
        ast.parse(json.loads(line))
        verdict = 1
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        verdict = 0
    print(verdict)
"""


@dataclass
class Languages:
    """How often two judges of a file's language agree."""

    n: int = 0
    equal: int = 0
    known: int = 0  # of these: files whose right language is in the project's table
    known_equal: int = 0
    others: Counter[tuple[str, str]] = field(default_factory=Counter)  # (reference, ours)

    def add(self, reference: str, ours: str) -> None:
        """Count one file."""
        self.n += 1
        self.equal += reference == ours
        if reference in BY_NAME:
            self.known += 1
            self.known_equal += reference == ours
        if reference != ours:
            self.others[reference, ours] += 1


def installed(pattern: str, n: int) -> list[Path]:
    """Return up to `n` files of the standard library and the installed packages, in an order by hash of their paths."""
    roots = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}
    paths = {path for root in roots for path in root.rglob(pattern) if path.is_file() and not path.is_symlink()}
    small = (path for path in paths if 0 < path.stat().st_size <= _MOST_BYTES)
    return sorted(small, key=lambda path: hashlib.sha256(str(path).encode()).digest())[:n]


def variants(text: str) -> tuple[str, str, str]:
    """Return a file's text whole, cut in half, and without its first colon."""
    return text, text[: len(text) // 2], text.replace(":", "", 1)


def syntax_differences(paths: Sequence[Path]) -> tuple[int, int, list[str]]:
    """Return (texts judged, accepted by the parser, descriptions of unequal verdicts)."""
    measure = MeasureSyntax()
    texts = [text for path in paths for text in variants(path.read_bytes().decode("utf-8", "replace"))]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([sys.executable, "-c", _PARSER], input=lines, capture_output=True, text=True, check=True)
    expected = [line == "1" for line in done.stdout.splitlines()]
    assert len(expected) == len(texts)
    unequal = []
    for at, (text, accepted) in enumerate(zip(texts, expected, strict=True)):
        result = measure(Document(sha256_text(text), text, "Python", Origin("local", "", "", "a.py", "", "")))
        assert isinstance(result, Document)
        if bool(result.tags["ast_ok"]) != accepted:
            unequal.append(f"{paths[at // 3]}, variant {at % 3}: ast.parse {accepted}")
    return len(texts), sum(expected), unequal


def beside_enry(paths: Sequence[Path]) -> Languages:
    """Judge installed files beside enry."""
    import enry

    found = Languages()
    for path in paths:
        content = path.read_bytes()
        found.add(enry.get_language(path.name, content), language_of(path.as_posix(), content))
    return found


def beside_labels(samples: Path) -> tuple[Languages, Languages]:
    """Judge Linguist's samples beside their labels: (ours, enry's)."""
    import enry

    ours, enrys = Languages(), Languages()
    for label, path in labelled(samples):
        content = path.read_bytes()
        ours.add(label, language_of(path.relative_to(samples).as_posix(), content))
        enrys.add(label, enry.get_language(path.name, content))
    return ours, enrys


def labelled(samples: Path) -> Iterator[tuple[str, Path]]:
    """Yield (language, path) of each sample; those in a folder `filenames` are told by their names."""
    for folder in sorted(path for path in samples.iterdir() if path.is_dir()):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield folder.name, path


def language_row(name: str, found: Languages) -> str:
    """Return one row of the table of languages."""
    return f"| {name} | {found.n:,} | {found.equal:,} | {found.known:,} | {found.known_equal:,} |"


def main() -> int:
    """Run the campaign; exit with 1 when a syntax verdict differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--samples", type=Path, help="the folder `samples` of a checkout of Linguist")
    parser.add_argument("--table", type=Path, help="write the table, with date and machine, to this file")
    options = parser.parse_args()
    paths = installed("*.py", options.files)
    n_texts, n_accepted, unequal = syntax_differences(paths)
    lines = [
        "## Syntax of Python files\n",
        f"{len(paths):,} files, each whole, halved and without its first colon: {n_texts:,} texts, of which "
        f"`ast.parse` accepts {n_accepted:,}; {len(unequal)} verdicts differ.\n",
        "## Languages\n",
        "| judged, beside | files | equal | in a language of the table | of these equal |",
        "|---|--:|--:|--:|--:|",
    ]
    everything = beside_enry(installed("*.*", options.files))
    lines.append(language_row("installed files of all kinds, beside enry", everything))
    shown = [("Installed files, enry's and ours", everything.others)]
    if options.samples:
        ours, enrys = beside_labels(options.samples)
        lines += [
            language_row("Linguist's samples, beside their labels", ours),
            language_row("the same by enry alone", enrys),
        ]
        shown.append(
            ("Samples, label and ours", Counter({p: n for p, n in ours.others.items() if set(p) & set(BY_NAME)}))
        )
    for name, others in shown:
        named = ", ".join(f"{a or 'none'} and {b or 'none'} {n}" for (a, b), n in others.most_common(30))
        lines.append(f"\n{name}, where they differ: {named or 'nowhere'}.")
    text = "\n".join(lines)
    print(text)
    for description in unequal[:20]:
        print(description, file=sys.stderr)
    if options.table:
        where = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        options.table.parent.mkdir(parents=True, exist_ok=True)
        options.table.write_text(
            f"# Verdicts beside their references\n\n{date.today().isoformat()}, {where}.\n\n{text}\n"
        )
    return int(bool(unequal))


if __name__ == "__main__":
    sys.exit(main())
