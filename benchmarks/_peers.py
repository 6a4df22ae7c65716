"""Environments of peers: made on first use from the pinned requirements beside them, under an ignored folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
_NANOCHAT = "https://github.com/karpathy/nanochat"
_NANOCHAT_COMMIT = "92d63d4e8bb4df75c3b71618f31ddde2378b2bcd"  # of 3 July 2026


def environment(peer: str, requirements: str = "requirements", alone: Sequence[str] = ()) -> Path:
    """Return the interpreter of a peer's environment, made first if it is not there.

    `alone` are pinned packages that are installed without what they ask for. A failure ends the benchmark.
    """
    folder = PEERS / peer / ".venv" / requirements
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        _do([sys.executable, "-m", "venv", "--clear", str(folder)], peer)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        _do([*pip, "-r", str(PEERS / peer / f"{requirements}.txt")], peer)
        if alone:
            _do([*pip, "--no-deps", *alone], peer)
        (folder / "complete").touch()
    return python


def nanochat_source() -> Path:
    """Return a checkout of nanochat at the pinned commit, cloned first if it is not there.

    From GitHub, or from the repository, a path or a URL, that NANOCHAT_REPOSITORY names.
    """
    folder = PEERS / "nanochat" / ".venv" / f"source-{_NANOCHAT_COMMIT[:12]}"
    if not folder.exists():
        source = os.environ.get("NANOCHAT_REPOSITORY", _NANOCHAT)
        made = folder.with_suffix(".tmp")
        shutil.rmtree(made, ignore_errors=True)
        advice = f"; set NANOCHAT_REPOSITORY to a repository that holds commit {_NANOCHAT_COMMIT}"
        _do(["git", "clone", "--quiet", "--no-checkout", source, str(made)], "nanochat", advice)
        _do(["git", "-C", str(made), "checkout", "--quiet", _NANOCHAT_COMMIT], "nanochat", advice)
        made.rename(folder)
    return folder


def _do(command: list[str], peer: str, advice: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the peer {peer} cannot be made: {' '.join(command)}: {done.stderr.strip()}{advice}")
