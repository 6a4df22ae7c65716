"""HumanEval (Chen et al. 2021, github.com/openai/human-eval, MIT): complete a Python function from its docstring.

The file is the official `HumanEval.jsonl.gz`; it is not part of this project. A completion passes when the program
`prompt + completion + test + check(entry_point)` runs to its end, as the official rule says.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.errors import UserError

NAME = "humaneval"
STOP_TEXTS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # those of the paper
_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")


@dataclass(frozen=True, slots=True)
class Problem:
    """One of the 164 problems, fields as in the official file."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def load(path: Path) -> list[Problem]:
    """Read the official file. Raises UserError naming the line when it is not in the official format."""
    problems: list[Problem] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                missing = [field for field in _FIELDS if not isinstance(row.get(field), str)]
                if missing:
                    raise UserError(f"{path} line {number}: no text field '{missing[0]}'; get the official file again")
                problems.append(Problem(**{field: row[field] for field in _FIELDS}))
    except (OSError, EOFError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not the official HumanEval file ({error}); get it again") from None
    return problems
