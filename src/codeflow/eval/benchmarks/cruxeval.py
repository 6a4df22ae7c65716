"""CRUXEval (Gu et al. 2024, github.com/facebookresearch/cruxeval, MIT): predict a function's input or output.

Only its loader stands yet: the problems are contamination to be kept out of corpora.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from codeflow.core.errors import UserError

NAME = "cruxeval"
_FIELDS = ("id", "code", "input", "output")


@dataclass(frozen=True, slots=True)
class Problem:
    """One of the 800 problems, fields as in the official file."""

    id: str
    code: str
    input: str
    output: str


def load(path: Path) -> list[Problem]:
    """Read the official file. Raises UserError naming the line when it is not in the official format."""
    problems: list[Problem] = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            missing = [field for field in _FIELDS if not isinstance(row.get(field), str)]
            if missing:
                raise UserError(f"{path} line {number}: no text field '{missing[0]}'; get the official file again")
            problems.append(Problem(**{field: row[field] for field in _FIELDS}))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is not the official CRUXEval file ({error}); get it again") from None
    return problems
