"""A small sample of the campaign of verdicts; `make campaign NAME=verdicts` is the whole, over 10,000 files."""

from __future__ import annotations

from pathlib import Path

import pytest
from campaigns import verdicts


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    for name, content in {
        "Python/a.py": "x = 1\n",
        "XML/de.ts": "<?xml version='1.0'?>\n<!DOCTYPE TS>\n<TS></TS>\n",
        "TSQL/a.sql": "DECLARE @a INT\nGO\n",
        "Makefile/filenames/Makefile": "all:\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_syntax_verdicts_are_those_of_the_parser() -> None:
    paths = verdicts.installed("*.py", 12)
    n_texts, n_accepted, unequal = verdicts.syntax_differences(paths)
    assert (len(paths), n_texts, unequal) == (12, 36, [])
    assert 12 <= n_accepted < 36


def test_a_difference_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeflow.transform.syntax.parses_as_python", lambda _: True)
    paths = verdicts.installed("*.py", 4)
    n_texts, n_accepted, unequal = verdicts.syntax_differences(paths)
    assert len(unequal) == n_texts - n_accepted > 0


def test_languages_beside_labels_and_enry(samples: Path) -> None:
    ours, enrys = verdicts.beside_labels(samples)
    assert (ours.n, ours.equal, ours.known, ours.known_equal) == (4, 3, 2, 2)
    assert dict(ours.others) == {("TSQL", "SQL"): 1}
    assert (enrys.n, enrys.equal) == (4, 4)
    found = verdicts.beside_enry([samples / "Python/a.py", samples / "XML/de.ts"])
    assert (found.n, found.equal) == (2, 2)
