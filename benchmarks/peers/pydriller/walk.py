"""Walk a history with PyDriller, contents of both sides included; print one JSON line.

    python walk.py REPOSITORY

Runs in the peer's own environment, so it imports nothing of CodeFlow.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

from pydriller import Repository


def digest(text: str | None) -> str:
    """Return a short hash of a text, or "" where there is none."""
    return "" if text is None else hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def main() -> None:
    """Print seconds, commits, and the hashes of contents by commit and path (of commits with one parent)."""
    started = time.perf_counter()
    changes: dict[str, tuple[str, str]] = {}
    n_commits = n_failed = 0
    for commit in Repository(sys.argv[1]).traverse_commits():
        n_commits += 1
        for file in commit.modified_files:
            try:
                sides = digest(file.source_code_before), digest(file.source_code)
            except ValueError:  # a submodule: its commit is no object of this repository
                n_failed += 1
                continue
            if not commit.merge:
                changes[f"{commit.hash} {file.new_path or file.old_path}"] = sides
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "n_commits": n_commits, "n_failed": n_failed, "changes": changes}))


if __name__ == "__main__":
    main()
