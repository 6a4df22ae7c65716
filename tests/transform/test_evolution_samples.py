"""Rendered triplets: nothing of the future, whole patches, budgets, and flows that lead to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_file, sha256_text
from codeflow.core.types import Change, Commit, Document, Origin, Sample, Triplet
from codeflow.execute import local
from codeflow.tokens.render import render
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig
from codeflow.tokens.tokenizer import run as make_tokenizer
from codeflow.transform import evolution
from codeflow.transform.edits import apply_edits
from codeflow.transform.evolution import EvolutionConfig
from codeflow.transform.evolution_samples import EvolutionSamplesConfig, excerpts, run
from codeflow.transform.patch import apply_patch
from codeflow.transform.relevant_files import Tree, relevant_files

_STEPS = 24


def _text(name: str, n: int) -> str:
    functions = "".join(f"\n\ndef {name}_{i}(x):\n    y = x * {i}\n    return y + {i}\n" for i in range(n))
    return f"import os\n{functions}"


def _commits() -> list[Commit]:
    """Every commit adds a function to a module and to its test; another module imports it, a third lies beside."""
    user = "from pkg.core import core_0\n\n\ndef use():\n    return core_0(1)\n"
    still = {
        "pkg/user.py": user,
        "pkg/other.py": _text("other", 30),
        "far/away.py": _text("away", 2),
        "pkg/held.py": "from pkg import core\nHELD = core\n",
    }
    first = [Change(path, path, "A", None, text, False) for path, text in still.items()]
    commits, before = [], {"pkg/core.py": "", "tests/test_core.py": ""}
    for n in range(_STEPS):
        after = {"pkg/core.py": _text("core", n + 1), "tests/test_core.py": _text("check", n + 1)}
        changes = first if n == 0 else []
        for path, text in after.items():
            status = "M" if n else "A"
            changes.append(Change(path, path, status, before[path] if n else None, text, False))
        parent = f"{n - 1:040x}" if n else ""
        message = f"Teach the core about construct number {n} and its edge cases\n\nWith a test."
        time = f"2020-01-{n + 1:02d}T00:00:00Z"
        commits.append(Commit("r", f"{n:040x}", parent, time, message, tuple(changes), n / (_STEPS - 1)))
        before = after
    return commits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("flow")
    commits = _commits()
    documents = [
        Document(sha256_text(change.after), change.after, "Python", Origin("git", "r", "1", change.path, "", ""))
        for change in commits[0].changes
        if change.after
    ]
    held = [document for document in documents if document.origin.path == "pkg/held.py"]
    shown = [document for document in documents if document not in held]
    for name, files in {
        "commits": {"commits-00000.parquet": commits},
        "documents": {"documents-00000.parquet": shown, "heldout-00000.parquet": held},
    }.items():
        begin(folder / name, name, EvolutionConfig(), {}, "k")
        for file, records in files.items():
            write_records(folder / name / file, records, type(records[0]))
        seal(folder / name, Counts())
    begin(folder / "triplets", "triplets", EvolutionConfig(), {}, "k")
    evolution.run(EvolutionConfig(), {"commits": folder / "commits"}, folder / "triplets")
    begin(folder / "tokenizer", "tokenizer", TokenizerConfig(vocab_size=400), {}, "k")
    make_tokenizer(TokenizerConfig(vocab_size=400), {"documents": folder / "documents"}, folder / "tokenizer")
    return {name: folder / name for name in ("commits", "documents", "triplets", "tokenizer")}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "default_workers", lambda: 1)


def _run(made: dict[str, Path], output: Path, **fields: object) -> tuple[Manifest, dict[str, list[Sample]]]:
    config = EvolutionSamplesConfig.model_validate(fields)
    begin(output, "samples", config, {}, "k")
    manifest = run(config, made, output)
    return manifest, {name: list(read_shards(output, name, Sample)) for name in ("transition", "flow", "snapshot")}


def _sections(sample: Sample) -> list[tuple[str, str]]:
    """Return (name, text) of the sections of a sample, in order."""
    found: list[tuple[str, str]] = []
    for before, part in zip(sample.segments, sample.segments[1:], strict=False):
        if before.text == "<|file_sep|>":
            name, _, text = part.text.partition("\n")
            found.append((name, text))
        elif part.role == "text" and found:
            found[-1] = (found[-1][0], found[-1][1] + part.text)
    return found


def _tree_at(triplet: Triplet) -> dict[str, str]:
    tree = Tree(10**6)
    for commit in _commits():
        tree.apply(commit)
        if triplet.origin.revision.startswith(commit.sha):
            break
    return tree.files


@pytest.mark.parametrize(("edits_share", "form"), [(0.0, "CHANGES.patch"), (1.0, "CHANGES.edits")])
def test_transitions_hold_the_start_and_lead_to_the_end(
    made: dict[str, Path], tmp_path: Path, edits_share: float, form: str
) -> None:
    triplets = {triplet.id: triplet for triplet in read_shards(made["triplets"], "triplets", Triplet)}
    manifest, samples = _run(made, tmp_path / "s", max_sample_tokens=32_768, edits_share=edits_share)
    assert manifest.counts.read == manifest.counts.kept == len(triplets) == len(samples["transition"]) > 1
    for sample in samples["transition"]:
        triplet = triplets[sample.id.split("/")[1]]
        sections = _sections(sample)
        at_start = _tree_at(triplet)
        assert sections[0][0] == "COMMIT_MESSAGE"
        files, (name, answer) = dict(sections[1:-1]), sections[-1]
        assert name == form
        assert all(at_start[path] == text for path, text in files.items())
        assert list(files)[-3:] == ["pkg/user.py", *triplet.before]  # most relevant last
        assert "pkg/other.py" in files
        assert "far/away.py" not in files
        assert "pkg/held.py" not in files  # held out
        apply = apply_patch if form == "CHANGES.patch" else apply_edits
        answer = answer.removesuffix("<|endoftext|>")
        assert apply({path: files[path] for path in triplet.before}, answer) == triplet.after
        trained = "".join(part.text for part in sample.segments if part.train)
        assert trained == f"{answer}<|endoftext|>"


def test_flows_go_through_every_commit_and_snapshots_hold_the_end(made: dict[str, Path], tmp_path: Path) -> None:
    triplets = {triplet.id: triplet for triplet in read_shards(made["triplets"], "triplets", Triplet)}
    _, samples = _run(made, tmp_path / "s", max_sample_tokens=32_768)
    assert samples["flow"]
    for sample in samples["flow"]:
        triplet = triplets[sample.id.split("/")[1]]
        sections = _sections(sample)
        names = [name for name, _ in sections]
        files = dict(sections[: names.index("PLAN")])
        steps = sections[names.index("PLAN") + 1 :]
        assert len(steps) == 2 * len(triplet.messages)
        plan = sections[names.index("PLAN")][1].splitlines()
        assert [line.split(". ")[1] for line in plan] == [message.split("\n")[0] for message in triplet.messages]
        state = {path: files[path] for path in triplet.before}
        for _, patch in steps[1::2]:
            state = apply_patch(state, patch.removesuffix("<|endoftext|>"))
        assert state == triplet.after
    for sample in samples["snapshot"]:
        triplet = triplets[sample.id.split("/")[1]]
        files = dict(_sections(sample))
        at_start = _tree_at(triplet)
        assert {path: files[path] for path in triplet.after} == triplet.after
        assert all(at_start[path] == text for path, text in files.items() if path not in triplet.after)
        assert not {"COMMIT_MESSAGE", "PLAN", "CHANGES.patch"} & set(files)
        assert all(part.train for part in sample.segments)


def test_budgets_hold_and_the_most_relevant_come_first(made: dict[str, Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(made["tokenizer"])
    _, large = _run(made, tmp_path / "large", max_sample_tokens=32_768)
    full = max(len(render(sample, tokenizer)[0]) for sample in large["transition"])
    by_limit = {}
    for limit in (full // 4, full // 3, full // 2, full - 120, full):
        manifest, samples = _run(made, tmp_path / str(limit), max_sample_tokens=limit)
        assert manifest.counts.read == manifest.counts.kept + sum(manifest.counts.dropped.values())
        by_limit[limit] = [dict(_sections(sample)) for sample in samples["transition"]]
        for members in samples.values():
            assert all(len(render(sample, tokenizer)[0]) <= limit for sample in members)
    assert any("pkg/user.py" in files and "pkg/other.py" not in files for files in by_limit[full - 120])
    assert any(path.startswith("pkg/core.py:") for members in by_limit.values() for files in members for path in files)
    none = _run(made, tmp_path / "none", max_sample_tokens=16)[0]
    assert none.counts.dropped == {"touched_files_exceed_budget": none.counts.read}
    assert none.metrics["remarks"]


def test_excerpts_are_the_lines_around_the_changes() -> None:
    lines = [f"line {n}\n" for n in range(100)]
    changed = [*lines[:20], "new\n", *lines[21:60], *lines[61:]]
    text, other = "".join(lines), {"a.py": "".join(changed)}
    assert excerpts("a.py", text, other, None) == [("a.py", text)]
    assert excerpts("a.py", text, other, 3) == [
        ("a.py:18-24", "".join(lines[17:24])),
        ("a.py:58-64", "".join(lines[57:64])),
    ]
    assert excerpts("a.py", text, other, 40) == [("a.py:1-100", text)]
    assert excerpts("b.py", text, other, 3) == [("b.py", text)]


def test_a_rerun_gives_the_same_bytes(made: dict[str, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        _run(made, tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").glob("*.parquet"))
    assert len(files) == 3
    assert all(sha256_file(tmp_path / "a" / name) == sha256_file(tmp_path / "b" / name) for name in files)


def test_another_history_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    begin(tmp_path / "commits", "commits", EvolutionConfig(), {}, "k")
    write_records(tmp_path / "commits" / "commits-00000.parquet", _commits()[:3], Commit)
    seal(tmp_path / "commits", Counts())
    with pytest.raises(UserError, match="does not hold the spans of r's triplets"):
        _run({**made, "commits": tmp_path / "commits"}, tmp_path / "s")


def test_relevant_files_are_ranked() -> None:
    tree = Tree(10_000)
    files = {
        "pkg/core.py": "x = 1\n",
        "pkg/two.py": "y = 1\n",
        "pkg/both.py": "from pkg import core, two\n",
        "app.py": "import pkg.core\n",
        "tests/test_app.py": "import pkg.two\n",
        "tests/test_core.py": "z = 1\n",
        "pkg/beside.py": "w = 1\n",
        "elsewhere/far.py": "v = 1\n",
        "pkg/long.py": "#" * 20_000,
    }
    tree.apply(Commit("r", "a", "", "", "", tuple(Change(p, p, "A", None, t, False) for p, t in files.items()), 0.0))
    assert list(relevant_files(tree, {"pkg/core.py", "pkg/two.py"})) == [
        ("importer", "pkg/both.py"),
        ("importer", "app.py"),
        ("test", "tests/test_app.py"),
        ("test", "tests/test_core.py"),
        ("neighbour", "pkg/beside.py"),
    ]
    gone = Change("pkg/both.py", "pkg/both.py", "D", files["pkg/both.py"], None, False)
    moved = Change("main.py", "app.py", "R", files["app.py"], files["app.py"], False)
    tree.apply(Commit("r", "b", "a", "", "", (gone, moved), 1.0))
    assert next(path for _, path in relevant_files(tree, {"pkg/core.py"})) == "main.py"
