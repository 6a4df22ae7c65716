"""What can go wrong, and whose it is.

    CodeFlowError
    ├── UserError             bad input or configuration: one clear line, exit code 2
    ├── InfrastructureError   the world failed (disk, network, kernel feature): retried, counted, never a score
    └── Preempted             asked to end (SIGTERM), and all is saved: exit code 143

A broken assumption of our own is an `assert` or a plain Python exception: that is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CodeFlowError(Exception):
    """Base of every error that CodeFlow raises on purpose."""


class UserError(CodeFlowError):
    """Bad input. The message names the thing, its value and the fix, in one line."""


class InfrastructureError(CodeFlowError):
    """The surroundings failed, not the input and not the model. Callers retry, then count it."""


class Preempted(CodeFlowError):
    """The run was asked to end and did so with everything saved. Not a failure: the same command goes on from there."""


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest choice, or the list of choices when nothing is near."""
    options = sorted(choices)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; choose one of: {', '.join(options)}" if options else ""
