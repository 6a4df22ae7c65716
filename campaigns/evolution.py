"""Choose triplets from real histories, hold every one against git, and say what histories give.

For each repository: the history stage, then `evolution` twice. Checked of every triplet: our patch applied by us gives
the files after; the files of both sides are git's at those commits, byte for byte; `git apply` on the tree of R_start
gives the tree of R_end, modes included (symbolic links, submodules and names that are not UTF-8 aside, which a history
leaves out); R_start lies in its part of the life; no two spans share a commit; the second run writes the same bytes.

    python -m campaigns evolution --repositories ~/checkouts/* --table docs/campaigns/evolution.md
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from codeflow.core.manifest import Manifest, begin
from codeflow.core.records import read_shards
from codeflow.core.storage import sha256_file
from codeflow.core.types import Triplet
from codeflow.corpus import git_history
from codeflow.transform import evolution
from codeflow.transform.evolution import EvolutionConfig
from codeflow.transform.patch import PatchError, apply_patch

_LEFT_OUT_MODES = {"120000", "160000"}  # symbolic links and submodules
_COLUMNS = (
    "| repository | commits | spans considered | triplets | patch lines | files | commits each "
    "| starts by tenth, from the fifth |"
)


@dataclass
class Row:
    """What one history gave."""

    name: str
    n_commits: int
    manifest: Manifest
    failures: list[str]


class Objects:
    """A repository to read, with an index and new objects in a folder of their own: it is never written to."""

    def __init__(self, repository: Path, scratch: Path) -> None:
        self.repository = repository
        found = self.git("rev-parse", "--git-path", "objects").decode().strip()
        (scratch / "objects").mkdir()
        self._environment = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((repository / found).resolve()),
        }

    def git(self, *arguments: str, given: bytes = b"") -> bytes:
        """Run git; return what it prints. Raises CalledProcessError."""
        environment = {**os.environ, **getattr(self, "_environment", {})}
        command = ["git", "-C", str(self.repository), *arguments]
        return subprocess.run(command, input=given, capture_output=True, env=environment, check=True).stdout

    def texts(self, revision: str, paths: list[str]) -> dict[str, bytes]:
        """Return the contents of files at a commit; those that are not there are left out."""
        names = "".join(f"{revision}:{path}\n" for path in paths).encode()
        data, place = self.git("cat-file", "--batch", given=names), 0
        found: dict[str, bytes] = {}
        for path in paths:
            head, _, _ = data[place:].partition(b"\n")
            place += len(head) + 1
            if not head.endswith(b" missing"):
                size = int(head.split()[2])
                found[path] = data[place : place + size]
                place += size + 1
        return found

    def patched(self, start: str, patch: str) -> str:
        """Return the tree that `git apply` makes of the tree of `start`, of which a partial clone may lack files."""
        self.git("read-tree", start)
        self.git("apply", "--cached", "--whitespace=nowarn", "-", given=patch.encode())
        return self.git("write-tree", "--missing-ok").decode().strip()

    def differences(self, left: str, right: str) -> list[str]:
        """Return the paths that differ between two trees, less what a history leaves out."""
        rows = self.git("diff-tree", "-r", "-z", "--raw", "--no-renames", left, right).split(b"\0")
        found: list[str] = []
        for head, path in zip(rows[::2], rows[1::2], strict=False):
            if not _LEFT_OUT_MODES & set(head[1:].decode().split()[:2]) and _is_utf8(path):
                found.append(path.decode())
        return found


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def faults(triplet: Triplet, objects: Objects, config: EvolutionConfig) -> Iterator[str]:
    """Yield what does not hold of one triplet."""
    start, end = triplet.origin.revision.split("..")
    try:
        if apply_patch(triplet.before, triplet.patch) != triplet.after:
            yield "the patch does not lead to R_end"
    except PatchError as error:
        yield f"the patch does not apply: {error}"
    for revision, files in ((start, triplet.before), (end, triplet.after)):
        if objects.texts(revision, sorted(files)) != {path: text.encode() for path, text in files.items()}:
            yield f"files are not those of {revision}"
    try:
        if found := objects.differences(objects.patched(start, triplet.patch), end):
            yield f"git apply gives another tree, at {', '.join(found[:3])}"
    except subprocess.CalledProcessError as error:
        yield f"git apply fails: {error.stderr.decode('utf-8', 'replace')[:200]}"
    if not config.start_low <= triplet.position <= config.start_high:
        yield f"position {triplet.position}"


def overlaps(triplets: list[Triplet], line: list[str]) -> list[str]:
    """Return the spans that share a commit with one before; `line` is the first-parent line, oldest first."""
    place = {sha: number for number, sha in enumerate(line)}
    spans = sorted(tuple(place[sha] for sha in triplet.origin.revision.split("..")) for triplet in triplets)
    return [f"spans {left} and {right} overlap" for left, right in itertools.pairwise(spans) if right[0] < left[1]]


def _choose(config: EvolutionConfig, commits: Path, output: Path) -> Manifest:
    begin(output, "triplets", config, {}, "campaign")
    return evolution.run(config, {"commits": commits}, output)


def run(repository: Path, config: EvolutionConfig) -> Row:
    """Check one history."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        history = git_history.HistoryConfig(repositories=(str(repository),))
        begin(folder / "history", "commits", history, {}, "campaign")
        git_history.run(history, {}, folder / "history")
        manifests = [_choose(config, folder / "history", folder / run_name) for run_name in ("first", "second")]
        objects = Objects(repository, folder)
        triplets = list(read_shards(folder / "first", "triplets", Triplet))
        line = objects.git("rev-list", "--first-parent", "--reverse", "HEAD").decode().split()
        failures = [f"{one.origin.revision}: {fault}" for one in triplets for fault in faults(one, objects, config)]
        failures += overlaps(triplets, line)
        digests = [
            {path.name: sha256_file(path) for path in (folder / run_name).glob("*.parquet")}
            for run_name in ("first", "second")
        ]
        if digests[0] != digests[1]:
            failures.append("the second run wrote other bytes")
        title = repository.parent.name if repository.name in ("repo", ".git") else repository.name
        return Row(title.replace("+", "/"), len(line), manifests[0], failures)


def table(rows: list[Row]) -> str:
    """Return the statistics in Markdown: what histories gave, and why spans failed."""
    lines = [_COLUMNS, "|---|--:|--:|--:|---|---|---|---|"]
    reasons: Counter[str] = Counter()
    for row in rows:
        counts, metrics = row.manifest.counts, row.manifest.metrics
        reasons.update(counts.dropped)
        sizes = metrics.get("sizes", {})
        shown = [_quantiles(sizes.get(name)) for name in ("patch_lines", "files", "commits")]
        starts = ", ".join(map(str, metrics.get("starts_by_tenth", [0] * 10)[4:9]))
        lines.append(
            f"| {row.name} | {row.n_commits:,} | {counts.read:,} | {counts.kept:,} | {' | '.join(shown)} | {starts} |"
        )
    n_read, n_kept = (sum(getattr(row.manifest.counts, name) for row in rows) for name in ("read", "kept"))
    lines.append(f"| all | {sum(row.n_commits for row in rows):,} | {n_read:,} | {n_kept:,} | | | | |")
    lines += ["", "| why a span was not taken | spans | share |", "|---|--:|--:|"]
    lines += [f"| {name} | {n:,} | {100 * n / n_read:.1f} % |" for name, n in reasons.most_common()]
    return "\n".join(lines)


def _quantiles(sizes: dict[str, Any] | None) -> str:
    return ", ".join(f"{sizes[name]:.0f}" for name in ("p10", "p50", "p90")) if sizes else ""


def main() -> int:
    """Run, print the table, write it where asked; exit code 1 when anything failed."""
    parser = argparse.ArgumentParser(prog="campaigns evolution", description="Hold triplets of real histories to git")
    parser.add_argument("--repositories", type=Path, nargs="+", default=[Path(__file__).resolve().parent.parent])
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    rows = [run(repository, EvolutionConfig()) for repository in arguments.repositories]
    text = table(rows)
    print(text)
    failures = [f"{row.name} {failure}" for row in rows for failure in row.failures]
    print(*failures[:20], sep="\n", file=sys.stderr)
    n_checked = sum(row.manifest.counts.kept for row in rows)
    if arguments.table:
        head = (
            "# Triplets of real histories\n\nEvery triplet is held to git: files of both sides, the patch by us and"
            " by `git apply` to the same tree, modes\nincluded, no shared commits, the same bytes in a second run. "
            f"{n_checked:,} triplets, {len(failures)} failures.\nSizes are the 10, 50 and 90 % quantiles. "
            f"`make campaign NAME=evolution`, {date.today():%B %Y}.\n\n"
        )
        arguments.table.write_text(f"{head}{text}\n")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
