"""Split real files at every level of every language; prefix + middle + suffix must be the file, byte for byte.

Files come from folders that you name (checkouts of any repositories) and from this Python's standard library. Languages
take turns until enough files are drawn, so a language with few files gives all of them. Besides the property, the table
says on how many files each level found a place.

    python -m campaigns fim --folders ~/checkouts --files 10000 --table docs/campaigns/fim.md
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from codeflow.core.languages import BY_EXTENSION
from codeflow.transform.fim import LEVELS, Source, generator, window
from codeflow.transform.fim_nodes import TABLES

MAX_FILE_BYTES, MAX_MIDDLE, MAX_WINDOW = 500_000, 4_000, 6_000


@dataclass
class Row:
    """What the files of one language gave."""

    files: int = 0
    n_bytes: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def draw(folders: list[Path], n_files: int, seed: int) -> dict[str, list[Path]]:
    """Return files by language, languages in turns, in an order that depends on the seed."""
    found: dict[str, list[Path]] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            language = BY_EXTENSION.get(path.suffix.lower())
            if language and language.name in TABLES and path.is_file() and not path.is_symlink():
                found.setdefault(language.name, []).append(path)
    for name, paths in found.items():
        random.Random(f"{seed} {name}").shuffle(paths)
    drawn: dict[str, list[Path]] = {name: [] for name in sorted(found)}
    while sum(map(len, drawn.values())) < n_files and any(found.values()):
        for name, paths in drawn.items():
            if found[name] and sum(map(len, drawn.values())) < n_files:
                paths.append(found[name].pop())
    return drawn


def check(text: str, language: str, name: str, seed: int, row: Row) -> None:
    """Split one text at every level and note what does not hold."""
    source = Source(text, language)
    for level in LEVELS:
        fim = source.split(level, generator(seed, name, level), 1, MAX_MIDDLE)
        if fim is None:
            continue
        row.splits[level] += 1
        cut = window(fim, MAX_WINDOW)
        holds = (
            (fim.prefix + fim.middle + fim.suffix).encode() == text.encode()
            and 1 <= len(fim.middle) <= MAX_MIDDLE
            and cut.middle == fim.middle
            and fim.prefix.endswith(cut.prefix)
            and fim.suffix.startswith(cut.suffix)
            and len(cut.prefix) + len(cut.middle) + len(cut.suffix) <= MAX_WINDOW
        )
        if not holds:
            row.failures.append(f"{name} at {level}")


def run(folders: list[Path], n_files: int, seed: int) -> dict[str, Row]:
    """Return a row per language."""
    rows: dict[str, Row] = {}
    for language, paths in draw(folders, n_files, seed).items():
        row = rows[language] = Row()
        for path in paths:
            data = path.read_bytes()
            try:
                text = data.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if 0 < len(data) <= MAX_FILE_BYTES:
                row.files, row.n_bytes = row.files + 1, row.n_bytes + len(data)
                check(text, language, path.as_posix(), seed, row)
    return rows


def table(rows: dict[str, Row]) -> str:
    """Return the table in Markdown: per language and level the share of files with a place."""
    lines = [f"| language | files | MB | {' | '.join(LEVELS)} | failures |", "|" + "---|" * (len(LEVELS) + 4)]
    for name, row in rows.items():
        shares = " | ".join(f"{100 * row.splits[level] / max(row.files, 1):.0f} %" for level in LEVELS)
        lines.append(f"| {name} | {row.files} | {row.n_bytes / 1e6:.1f} | {shares} | {len(row.failures)} |")
    files, n_bytes = sum(row.files for row in rows.values()), sum(row.n_bytes for row in rows.values())
    splits = [sum(row.splits[level] for row in rows.values()) for level in LEVELS]
    counts = " | ".join(f"{n:,}" for n in splits)
    failures = sum(len(row.failures) for row in rows.values())
    lines.append(f"| all (splits) | {files:,} | {n_bytes / 1e6:.1f} | {counts} | {failures} |")
    return "\n".join(lines)


def main() -> int:
    """Run, print the table, write it where asked; exit code 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="campaigns fim", description="Split real files at every level")
    parser.add_argument("--folders", type=Path, nargs="*", default=[])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = run([*arguments.folders, Path(sysconfig.get_path("stdlib"))], arguments.files, arguments.seed)
    text = table(rows)
    print(text)
    failures = [failure for row in rows.values() for failure in row.failures]
    print(*failures[:20], sep="\n", file=sys.stderr)
    if arguments.table:
        sources = sorted(child.name for folder in arguments.folders for child in folder.iterdir() if child.is_dir())
        note = f"Files of {', '.join(sources)} and of the standard library." if sources else "The standard library."
        head = "# Completion campaign\n\nShare of files on which a level found a place; a failure is a split that does"
        head += " not give its file back,\nor breaks a bound. `make campaign NAME=fim`, "
        head += f"seed {arguments.seed}, {date.today():%B %Y}.\n\n"
        arguments.table.write_text(f"{head}{text}\n\n{note}\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
