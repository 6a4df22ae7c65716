"""Triplets from histories: their invariants, what is refused and why, and that they are stable."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from campaigns.evolution import Objects, faults
from campaigns.evolution import run as campaign
from pydantic import ValidationError

from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_file, sha256_text
from codeflow.core.types import Change, Commit, Document, Origin, Triplet
from codeflow.corpus.git_history import HistoryConfig
from codeflow.corpus.git_history import run as run_history
from codeflow.execute import local
from codeflow.transform import commit_message
from codeflow.transform.evolution import EvolutionConfig, choose, run
from codeflow.transform.patch import apply_patch
from codeflow.transform.spans import Candidate, Composition, Discontinuity, SpanLimits, SpanTargets, Survey

from .test_patch import git_apply

_SOURCE = "def value(x):\n    total = 0\n    for i in range(x):\n        total += i\n    return total\n"


def _function(n: int) -> str:
    return f"\n\ndef extra_{n}(x):\n    y = x * {n}\n    return y + 1\n"


def _commit(n: int, changes: Sequence[Change], message: str = "", parent: str | None = None) -> Commit:
    message = message or f"Teach the parser about construct number {n} and its edge cases"
    parent = f"{n - 1:040x}" if parent is None else parent
    return Commit("r", f"{n:040x}", parent, "2020-01-01T00:00:00Z", message, tuple(changes), n / 19)


def _modify(path: str, before: str, after: str) -> Change:
    return Change(path, path, "M", before, after, False)


def _history(n: int = 20) -> list[Commit]:
    """Each commit adds a function to a module and to its test."""
    commits, source, test = [], _SOURCE, _SOURCE
    commits.append(_commit(0, [Change("a.py", "a.py", "A", None, source, False)], parent=""))
    for i in range(1, n):
        new_source, new_test = source + _function(i), test + _function(i)
        changes = [_modify("a.py", source, new_source)]
        if i > 1:
            changes.append(_modify("tests/test_a.py", test, new_test))
        else:
            changes.append(Change("tests/test_a.py", "tests/test_a.py", "A", None, new_test, False))
        commits.append(_commit(i, changes))
        source, test = new_source, new_test
    return commits


def _artifact(folder: Path, kind: str, files: dict[str, Sequence[object]]) -> Path:
    begin(folder, kind, EvolutionConfig(), {}, "k")
    for name, records in files.items():
        write_records(folder / name, records, type(records[0]))
    seal(folder, Counts())
    return folder


def _run(folder: Path, commits: Path, documents: Path | None = None, config: EvolutionConfig | None = None) -> Manifest:
    config = config or EvolutionConfig()
    begin(folder, "triplets", config, {}, "k")
    inputs = {"commits": commits} | ({"documents": documents} if documents else {})
    return run(config, inputs, folder)


def _triplets(folder: Path) -> list[Triplet]:
    return list(read_shards(folder, "triplets", Triplet))


@pytest.fixture(scope="module")
def real(synthetic_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("real")
    config = HistoryConfig(repositories=(str(synthetic_repository),))
    begin(folder / "history", "commits", config, {}, "k")
    run_history(config, {}, folder / "history")
    _run(folder / "evolution", folder / "history")
    return synthetic_repository, folder


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, check=True)
    return done.stdout.decode()


def test_triplets_of_a_git_history_hold_their_invariants(real: tuple[Path, Path], tmp_path: Path) -> None:
    repository, folder = real
    triplets = _triplets(folder / "evolution")
    assert len(triplets) >= 3
    line = _git(repository, "rev-list", "--first-parent", "--reverse", "HEAD").split()
    spans = []
    for number, triplet in enumerate(triplets):
        assert apply_patch(triplet.before, triplet.patch) == triplet.after
        assert git_apply(tmp_path / str(number), triplet.before, triplet.patch) == triplet.after
        start, end = triplet.origin.revision.split("..")
        first, last = line.index(start), line.index(end)
        spans.append((first, last))
        assert triplet.position == pytest.approx(first / (len(line) - 1))
        assert 0.4 <= triplet.position <= 0.8
        assert len(triplet.messages) == last - first
        for path, text in triplet.before.items():  # no file of the future in R_start
            assert _git(repository, "show", f"{start}:{path}") == text
        for path, text in triplet.after.items():
            assert _git(repository, "show", f"{end}:{path}") == text
        touched = set(_git(repository, "diff", "--name-only", "--no-renames", start, end).splitlines())
        touched -= {'"docs/stra\\337e.txt"'}  # its name is not UTF-8: the history leaves it out
        assert touched == {*triplet.before, *triplet.after}
        assert triplet.origin.source == "synthetic-git"
    assert all(left[1] <= right[0] for left, right in itertools.pairwise(spans))


def test_git_makes_the_tree_of_the_end_from_the_patch(real: tuple[Path, Path], tmp_path: Path) -> None:
    """Texts and modes of all files, but for links, submodules and paths that are not UTF-8: a history has none."""
    repository, folder = real
    objects = Objects(repository, tmp_path)
    for triplet in _triplets(folder / "evolution"):
        assert list(faults(triplet, objects, EvolutionConfig())) == []
        added = re.compile(r"^(@@ .*\n(?:[ -].*\n)*\+)", re.MULTILINE)
        other = replace(triplet, patch=added.sub(r"\1#", triplet.patch, count=1))
        assert len(list(faults(other, objects, EvolutionConfig()))) == 2


@pytest.mark.slow
def test_triplets_of_this_projects_own_history_hold() -> None:
    """A real history, wherever the tests run in a clone."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        pytest.skip("not a clone: there is no history")
    row = campaign(root, EvolutionConfig())
    assert row.failures == []
    assert row.manifest.counts.kept > 5 or row.n_commits < 100  # a shallow clone has few


def test_a_rerun_gives_the_same_bytes(real: tuple[Path, Path], tmp_path: Path) -> None:
    _, folder = real
    _run(tmp_path / "again", folder / "history")
    names = sorted(path.name for path in (folder / "evolution").glob("*.parquet"))
    assert names
    for name in names:
        assert sha256_file(tmp_path / "again" / name) == sha256_file(folder / "evolution" / name)


def test_positions_by_time_follow_the_clock_and_never_fall(tmp_path: Path) -> None:
    days = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 20, 30, 40, 50, 45, 60, 70, 80, 90, 100]  # of author times, one of them early
    start = datetime(2020, 1, 1, tzinfo=UTC)
    commits = [
        replace(commit, author_time=(start + timedelta(days=day)).isoformat().replace("+00:00", "Z"))
        for commit, day in zip(_history(), days, strict=True)
    ]
    folder = _artifact(tmp_path / "c", "commits", {"commits-00000.parquet": commits})
    _run(tmp_path / "order", folder)
    _run(tmp_path / "time", folder, config=EvolutionConfig(position="time"))
    parents = {commit.sha: number for number, commit in enumerate(commits)}
    ticks = [max(days[: number + 1]) / 100 for number in range(len(days))]
    for name, expected in (("order", [n / 19 for n in range(20)]), ("time", ticks)):
        found = _triplets(tmp_path / name)
        assert found
        for triplet in found:
            number = parents[triplet.origin.revision.split("..")[0]]
            assert triplet.position == pytest.approx(expected[number])
            assert 0.4 <= triplet.position <= 0.8
    assert {t.id for t in _triplets(tmp_path / "time")} != {t.id for t in _triplets(tmp_path / "order")}


def test_statistics_describe_the_triplets(tmp_path: Path) -> None:
    commits = _artifact(tmp_path / "c", "commits", {"commits-00000.parquet": _history()})
    metrics = _run(tmp_path / "t", commits).metrics
    triplets = _triplets(tmp_path / "t")
    assert sum(metrics["starts_by_tenth"]) == len(triplets)
    sizes = sorted(len({*triplet.before, *triplet.after}) for triplet in triplets)
    assert sizes[0] <= metrics["sizes"]["files"]["p50"] <= sizes[-1]
    assert metrics["sizes"]["patch_lines"]["p10"] >= 3
    total = sum(triplet.scores["total"] for triplet in triplets) / len(triplets)
    assert metrics["mean_scores"]["total"] == pytest.approx(total, abs=1e-3)


def test_every_candidate_is_counted(tmp_path: Path) -> None:
    commits = _artifact(tmp_path / "c", "commits", {"commits-00000.parquet": _history()})
    manifest = _run(tmp_path / "t", commits)
    assert manifest.counts.kept == len(_triplets(tmp_path / "t")) >= 2
    assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values())
    assert manifest.metrics["triplets_by_repository"] == {"r": manifest.counts.kept}


def test_histories_over_several_shards_and_repositories_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "default_workers", lambda: 1)  # starting processes takes seconds
    history = _history()
    other = [Commit("q", c.sha, c.parent, c.author_time, c.message, c.changes, c.position) for c in history]
    one = _artifact(tmp_path / "one", "commits", {"commits-00000.parquet": history})
    shards = {"commits-00000.parquet": history[:7], "commits-00001.parquet": [*history[7:], *other]}
    two = _artifact(tmp_path / "two", "commits", shards)
    _run(tmp_path / "t1", one)
    manifest = _run(tmp_path / "t2", two)
    assert [t for t in _triplets(tmp_path / "t2") if t.origin.repository == "r"] == _triplets(tmp_path / "t1")
    assert set(manifest.metrics["triplets_by_repository"]) == {"q", "r"}


def test_no_commits_give_a_remark(tmp_path: Path) -> None:
    commits = _artifact(tmp_path / "c", "commits", {})
    manifest = _run(tmp_path / "t", commits)
    assert not list((tmp_path / "t").glob("*.parquet"))
    assert "no commits" in manifest.metrics["remarks"][0]


def _document(path: str, text: str, repository: str = "r") -> Document:
    origin = Origin("git", repository, "1", path, "MIT", "2020-01-01T00:00:00Z")
    return Document(sha256_text(text), text, "Python", origin, {})


@pytest.mark.parametrize("held_out", ["path", "text", "other repository"])
def test_held_out_documents_are_not_touched(tmp_path: Path, held_out: str) -> None:
    history = _history()
    commits = _artifact(tmp_path / "c", "commits", {"commits-00000.parquet": history})
    text = history[11].changes[0].after or ""
    document = {
        "path": _document("tests/test_a.py", "other text"),
        "text": _document("copy.py", text, "elsewhere"),
        "other repository": _document("a.py", "other text", "elsewhere"),
    }[held_out]
    split = _artifact(
        tmp_path / "d",
        "documents",
        {"documents-00000.parquet": [_document("b.py", "x")], "heldout-00000.parquet": [document]},
    )
    manifest = _run(tmp_path / "t", commits, split)
    triplets = _triplets(tmp_path / "t")
    if held_out == "path":
        assert not triplets
        assert set(manifest.counts.dropped) == {"held_out"}
    elif held_out == "text":
        assert manifest.counts.dropped["held_out"] > 0
        assert all(text not in {*t.before.values(), *t.after.values()} for t in triplets)
    else:
        assert "held_out" not in manifest.counts.dropped
    assert all(triplet.origin.licence == "MIT" for triplet in triplets)


def _reasons(commits: list[Commit], **limits: int) -> set[str]:
    survey = Survey(SpanLimits(**limits), SpanTargets(), (0.0, 1.0), lambda change: False, frozenset())
    return {candidate.reason for candidate in survey.candidates(commits)}


_ROOT = _commit(0, [], parent="")
_TOKEN = "ghp" + "_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
_BINARY = Change("a.png", "a.png", "M", None, None, True)
_TEXT = _modify("a.py", _SOURCE, _SOURCE + _function(1))


@pytest.mark.parametrize(
    ("reason", "change", "message"),
    [
        ("", _TEXT, ""),
        ("merge", _TEXT, "Merge branch 'main' into feature"),
        ("bot", _TEXT, "Bump requests from 2.0 to 2.1"),
        ("revert", _TEXT, 'Revert "Teach the parser"'),
        ("release", _TEXT, "Release 2.0.1"),
        ("not_text", _BINARY, ""),
        ("type_change", Change("a.py", "a.py", "T", _SOURCE, "b.py", False), ""),
        ("lock_file", _modify("poetry.lock", "a\n", "b\nc\nd\ne\n"), ""),
        ("vendored", _modify("node_modules/x/a.js", "a\n", "b\n"), ""),
        ("generated", _modify("a.py", "x = 1\n", "# Code generated by protoc. DO NOT EDIT.\nx = 2\n"), ""),
        ("secret", _modify("a.py", _SOURCE, f"{_SOURCE}TOKEN = '{_TOKEN}'\nA = 1\nB = 2\n"), ""),
        ("secret", _TEXT, f"Use the token {_TOKEN} for the upload"),
        ("format_only", _modify("a.py", "f(1,\n  2,\n  3,\n  4)\n", "f(1, 2, 3, 4)\n"), ""),
        ("patch_too_small", _modify("a.py", _SOURCE, _SOURCE + "x = 1\n"), ""),
        ("patch_too_large", _modify("a.py", "", "x = 1\n" * 5000), ""),
        ("too_large", _modify("a.py", "x = 1\n" * 50_000, "x = 2\n"), ""),
        ("no_net_change", _modify("a.py", _SOURCE, _SOURCE), ""),
        ("no_code", _modify("a.md", "a\n", "b\nc\nd\ne\n"), ""),
        ("breaks_syntax", _modify("a.py", _SOURCE, _SOURCE + "def (:\n  return (\n\n"), ""),
    ],
)
def test_reasons_against_a_commit(reason: str, change: Change, message: str) -> None:
    assert _reasons([_ROOT, _commit(1, [change], message)]) == {reason}


def test_reasons_against_spans() -> None:
    many = [Change(f"f{i}.py", f"f{i}.py", "A", None, _SOURCE, False) for i in range(5)]
    assert _reasons([_ROOT, _commit(1, many)], max_files=4) == {"too_many_files"}
    jump = _commit(2, [_modify("a.py", "something else\n", _SOURCE)])
    assert _reasons([_ROOT, _commit(1, [_TEXT]), jump]) == {"", "discontinuous"}
    gap = _commit(5, [_TEXT])
    assert _reasons([_ROOT, gap]) == set()


def test_commits_that_are_reverted_later_are_left_out(tmp_path: Path) -> None:
    history = _history()
    revert = _commit(20, [], f"Undo it\n\nThis reverts commit {history[10].sha}.")
    commits = _artifact(tmp_path / "c", "commits", {"commits-00000.parquet": [*history, revert]})
    manifest = _run(tmp_path / "t", commits)
    assert manifest.counts.dropped["reverted_later"] > 0
    assert all(history[10].message not in triplet.messages for triplet in _triplets(tmp_path / "t"))


def test_composition_follows_renames_deletions_and_returns() -> None:
    composition = Composition()
    composition.add(_commit(1, [Change("b.py", "a.py", "R", "1\n", "2\n", False), _modify("x.py", "x\n", "y\n")]))
    composition.add(_commit(2, [Change("c.py", "b.py", "R", "2\n", "3\n", False), _modify("x.py", "y\n", "x\n")]))
    composition.add(_commit(3, [Change("n.py", "n.py", "A", None, "n\n", False)]))
    assert composition.files() == ({"a.py": "1\n"}, {"c.py": "3\n", "n.py": "n\n"})
    assert composition.renames == {"c.py": "a.py"}
    composition.add(_commit(4, [Change("n.py", "n.py", "D", "n\n", None, False)]))
    composition.add(_commit(5, [Change("a.py", "c.py", "R", "3\n", "1\n", False)]))
    assert composition.files() == ({}, {})
    with pytest.raises(Discontinuity):
        composition.add(_commit(6, [_modify("a.py", "not this\n", "z\n")]))


def test_composition_keeps_modes() -> None:
    composition = Composition()
    composition.add(_commit(1, [Change("b.py", "a.py", "R", "1\n", "2\n", False, "100644", "100755")]))
    composition.add(_commit(2, [Change("x.sh", "x.sh", "M", "x\n", "x\n", False, "100755", "100644")]))
    composition.add(_commit(3, [Change("n.sh", "n.sh", "A", None, "n\n", False, "", "100755")]))
    patch = composition.patch()
    assert patch.startswith("diff --git a/a.py b/b.py\nold mode 100644\nnew mode 100755\nsimilarity index")
    assert "a/n.sh b/n.sh\nnew file mode 100755\n" in patch
    assert patch.endswith("a/x.sh b/x.sh\nold mode 100755\nnew mode 100644\n")
    assert apply_patch(composition.files()[0], patch) == composition.files()[1]


def test_composition_of_swapped_names() -> None:
    composition = Composition()
    swap = [Change("b", "a", "R", "A\n", "A\n", False), Change("a", "b", "R", "B\n", "B\n", False)]
    composition.add(_commit(1, swap))
    assert composition.files() == ({"a": "A\n", "b": "B\n"}, {"a": "B\n", "b": "A\n"})


def test_choice_takes_the_best_and_keeps_spans_apart() -> None:
    def candidate(first: int, last: int, score: float, path: str) -> Candidate:
        names = ("size", "files", "commits", "tests", "message", "parse", "coherence")
        return Candidate(first, last, 0.5, "", frozenset({path}), path, frozenset({path}), dict.fromkeys(names, score))

    standing = [
        candidate(0, 2, 0.9, "a"),
        candidate(2, 3, 1.0, "a"),
        candidate(4, 4, 0.8, "b"),
        candidate(5, 5, 0.1, "c"),
    ]
    chosen, refused = choose(standing, EvolutionConfig())
    assert [(c.first, c.last) for c in chosen] == [(2, 3), (4, 4)]
    assert refused == {"overlaps_better_span": 1, "score_too_low": 1}
    chosen, _ = choose(standing, EvolutionConfig(allow_overlap=True))
    assert [(c.first, c.last) for c in chosen] == [(0, 2), (2, 3), (4, 4)]
    assert chosen[0].scores["novelty"] == 0.0
    chosen, refused = choose(standing, EvolutionConfig(max_triplets_per_repository=1))
    assert [(c.first, c.last) for c in chosen] == [(2, 3)]
    assert refused["repository_has_enough"] == 1


@pytest.mark.parametrize(
    ("message", "noise"),
    [
        ("Merge pull request #12 from a/b\n\nAdd colour support to tables", ""),
        ("Merge pull request #12 from a/b", "merge"),
        ("Merge remote-tracking branch 'origin/main'", "merge"),
        ("[pre-commit.ci] pre-commit autoupdate", "bot"),
        ("Merge dictionaries without copying", ""),
        ("v1.2.3", "release"),
        ("Start version 8.2.0", "release"),
        ("Release the lock before waiting", ""),
        ("start 8.0", "release"),
        ("Start 3 workers at once", ""),
    ],
)
def test_noise_in_messages(message: str, noise: str) -> None:
    assert commit_message.noise(message) == noise


def test_quality_of_messages_ranks_them() -> None:
    ranked = [
        "wip",
        "fix typo",
        "Handle empty tables",
        "Handle tables without rows when columns are given",
        "Handle tables without rows when columns are given\n\nThe writer assumed one row and failed with an "
        "IndexError; "
        "the header is now written from the schema, and a regression test covers both cases with and without names.",
    ]
    qualities = [commit_message.quality(message) for message in ranked]
    assert qualities == sorted(qualities)
    assert qualities[0] == 0.0
    assert 0.8 < qualities[-1] <= 1.0
    assert commit_message.quality("") == 0.0


@pytest.mark.parametrize(
    "fields",
    [
        {"start_low": 0.9, "start_high": 0.5},
        {"limits": {"min_changed_lines": 10, "max_changed_lines": 5}},
        {"weights": dict.fromkeys(EvolutionConfig().weights.model_dump(), 0)},
        {"start_lo": 0.1},
    ],
)
def test_wrong_configurations_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EvolutionConfig.model_validate(fields)
