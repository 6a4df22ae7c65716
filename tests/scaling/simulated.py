"""Tables of runs whose law is known, from the campaign's designs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from codeflow.scaling.runs import SHARE, Points


def write_table(path: Path, points: Points) -> Path:
    """Write points as a table of runs that were evaluated on their own mixture, or on their one language."""
    header = ["run", "n_parameters", "n_tokens", "evaluated_on", "loss", *(SHARE + name for name in points.languages)]
    path.write_text("\n".join([",".join(header), *_rows(points)]) + "\n")
    return path


def _rows(points: Points) -> Iterator[str]:
    for i, name in enumerate(points.names):
        shares = points.shares[i].tolist()
        alone = max(shares) == 1.0
        evaluated_on = points.languages[shares.index(1.0)] if alone else "mixture"
        numbers = [points.n_parameters[i], points.n_tokens[i]]
        yield ",".join(map(str, [name, *numbers, evaluated_on, points.loss[i], *shares]))
