"""Repository-level samples: format, choice of context, budgets, and no middle in its own context."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.core.manifest import Counts, Manifest, begin, seal
from codeflow.core.records import read_shards, write_records
from codeflow.core.storage import sha256_file, sha256_text
from codeflow.core.types import Document, Origin, Sample
from codeflow.execute import local
from codeflow.tokens.render import render
from codeflow.tokens.tokenizer import Tokenizer, TokenizerConfig
from codeflow.tokens.tokenizer import run as make_tokenizer
from codeflow.transform.fim import FimConfig
from codeflow.transform.repo_context import RepoContextConfig, Tally, repository_samples, run, snippets, squeeze


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "default_workers", lambda: 1)


def _document(path: str, text: str, repository: str = "shop 1.0", language: str = "Python") -> Document:
    return Document(sha256_text(text), text, language, Origin("package", repository, "1", path, "MIT", ""))


def _module(n: int) -> str:
    """A module whose function takes words of its own."""
    body = "".join(f"    total_{n} = total_{n} + width_{n}_{i} * {i}\n" for i in range(6))
    return f"def area_{n}(rows_{n}):\n{body}    return total_{n}\n\n\nLIMIT_{n} = {n}\n"


def _shop() -> list[Document]:
    target = (
        "from shop.prices import price_of\n\n\n"
        "def invoice(order):\n    lines = [price_of(item) for item in order.items]\n    total = sum(lines)\n"
        "    return total * order.discount\n\n\ndef banner():\n    return 'open'\n"
    )
    prices = "from shop.units import UNIT\n\n\ndef price_of(item):\n    return item.cents * UNIT\n"
    similar = "def receipt(order):\n    print(order.items, order.discount)\n    return order\n"
    return [
        _document("shop/invoice.py", target),
        _document("shop/prices.py", prices),
        _document("shop/receipts.py", similar),
        _document("shop/units.py", "UNIT = 100\n"),
        *(_document(f"shop/other_{n}.py", _module(n)) for n in range(6)),
    ]


def _text(sample: Sample) -> str:
    return "".join(part.text for part in sample.segments)


def _files(sample: Sample) -> list[str]:
    """Return the paths in a sample's order."""
    specials = [i for i, part in enumerate(sample.segments) if part.text == "<|file_sep|>"]
    return [sample.segments[i + 1].text.partition("\n")[0] for i in specials]


def _samples(documents: list[Document], **fields: object) -> tuple[dict[str, Sample], Counts]:
    tally = Tally()
    config = validate(RepoContextConfig, {"fim_share": 1.0, **fields})
    found = list(repository_samples(documents, config, tally))
    ids = {document.id: document.origin.path for document in documents}
    return {ids[sample.id.split("/")[2]]: sample for sample in found}, tally.counts()


def _artifact(folder: Path, shards: list[list[Document]]) -> Path:
    begin(folder, "documents", RepoContextConfig(), {}, "k")
    for number, documents in enumerate(shards):
        write_records(folder / f"documents-{number:05d}.parquet", documents, Document)
    seal(folder, Counts())
    return folder


def _run(folder: Path, inputs: dict[str, Path], config: RepoContextConfig) -> Manifest:
    begin(folder, "samples", config, {}, "k")
    return run(config, inputs, folder)


def test_format_is_the_recipes() -> None:
    one = _document("a.py", "def first(alpha, beta):\n    return alpha * beta + 12345\n")
    two = _document("b.py", "from a import first\n\n\ndef second(gamma):\n    return first(gamma, gamma - 54321)")
    samples, _ = _samples([one, two])
    whole = _text(samples["b.py"])
    head = f"<|repo_name|>shop 1.0\n<|file_sep|>a.py\n{one.text}<|file_sep|>b.py\n<|fim_prefix|>"
    assert whole.startswith(head)
    assert whole.endswith("<|im_end|>")
    prefix, suffix = whole.removeprefix(head).removesuffix("<|im_end|>").split("<|fim_suffix|>")
    suffix, middle = suffix.split("<|fim_middle|>")
    assert prefix + middle + suffix == two.text
    assert _text(samples["a.py"]).startswith(
        f"<|repo_name|>shop 1.0\n<|file_sep|>b.py\n{two.text}\n<|file_sep|>a.py\n<|fim_prefix|>"
    )


def test_context_is_what_the_target_needs_in_dependency_order() -> None:
    samples, _ = _samples(_shop(), max_files=3)
    assert _files(samples["shop/invoice.py"]) == [
        "shop/receipts.py",  # similar, and depends on nothing
        "shop/units.py",  # imported by prices
        "shop/prices.py",  # imported by the target
        "shop/invoice.py",
    ]
    sample = samples["shop/invoice.py"]
    assert sample.origins[0].path == "shop/invoice.py"
    assert sorted(origin.path for origin in sample.origins) == sorted(_files(sample))


def test_whole_targets() -> None:
    samples, counts = _samples(_shop(), fim_share=0.0)
    sample = samples["shop/invoice.py"]
    assert _text(sample).endswith(f"<|file_sep|>shop/invoice.py\n{_shop()[0].text}<|endoftext|>")
    assert sample.id.startswith("repository/whole/")
    assert counts.notes["level whole"] == counts.kept == 10


def test_long_whole_targets_are_cut_at_a_line_and_have_no_end() -> None:
    text = "".join(f"value_{i} = {i}\n" for i in range(3000))
    documents = [*_shop(), _document("long.py", text), _document("line.py", "x = '" + "y" * 30_000 + "'\n")]
    samples, counts = _samples(documents, fim_share=0.0)
    last = samples["long.py"].segments[-1].text
    assert text.startswith(last)
    assert last.endswith("\n")
    assert 23_980 < len(last) <= FimConfig().max_characters == 24_000
    assert samples["long.py"].id.startswith("repository/head/")
    assert counts.dropped == {"whole_target_too_long": 1}


def test_the_middle_is_in_no_context_file() -> None:
    """Copies of a function, indented otherwise, in half of the files."""
    body = "def area(rows, columns):\n    return rows * columns + border_of(rows)\n"
    moved = "class Box:\n" + "".join(f"        {line}\n" for line in body.splitlines())
    documents = [_document(f"copy_{i}.py", f"# {i}\n" + moved) for i in range(3)]
    documents += [_document(f"other_{n}.py", _module(n)) for n in range(3)]
    target = _document("area.py", body)
    samples, counts = _samples(
        [target, *documents], fim=FimConfig(levels={"function": 1.0}, min_middle_characters=16).model_dump()
    )
    found = samples["area.py"]
    assert sorted(_files(found)) == ["area.py", "other_0.py", "other_1.py", "other_2.py"]
    assert counts.notes["context files left out: they hold the middle"] >= 3
    for sample in samples.values():
        parts = [part.text for part in sample.segments]
        at = parts.index("<|fim_prefix|>")
        middle = parts[parts.index("<|fim_middle|>") + 1]
        assert squeeze(middle) not in squeeze("".join(parts[: at - 1]))
    samples, counts = _samples(
        [target, *documents[:3]], fim=FimConfig(levels={"function": 1.0}, min_middle_characters=16).model_dump()
    )
    assert counts.dropped == {"middle_in_every_file": 4}
    assert samples == {}


def test_the_middle_does_not_choose_its_context() -> None:
    """Two targets that differ in the middle alone get the same files."""
    other = [_document(f"other_{n}.py", _module(n)) for n in range(6)]
    chosen = []
    for n in (2, 5):
        lines = f"    value = width_{n}_1 + width_{n}_2 + LIMIT_{n} + area_{n}\n"
        text = f"def start(rows_0):\n{lines}    return rows_0\n"
        fim = FimConfig(levels={"random_line": 1.0}, min_middle_characters=16)
        for seed in range(40):
            samples, _ = _samples([_document("t.py", text), *other], max_files=1, seed=seed, fim=fim.model_dump())
            parts = [part.text for part in samples["t.py"].segments]
            if lines in parts[parts.index("<|fim_middle|>") + 1]:  # what is left says `rows_0`, of the first file
                chosen.append(_files(samples["t.py"])[0])
                break
    assert chosen == ["other_0.py", "other_0.py"]


def test_every_document_is_counted() -> None:
    documents = [
        *_shop(),
        _document("README.md", "# Shop\n", language="Markdown"),
        _document("long.py", "".join(f"value_{i} = {i}\n" for i in range(3000))),
    ]
    _, counts = _samples(documents, fim_share=0.0, target_rate=0.7)
    assert counts.read == counts.kept + sum(counts.dropped.values()) == 12
    assert counts.dropped["not_code"] == 1
    assert counts.dropped["not_drawn"] >= 1
    samples, counts = _samples([_document("a.py", "x = 1\n")])
    assert (samples, counts.dropped) == ({}, {"alone_in_repository": 1})


def test_snippets_are_runs_of_whole_lines() -> None:
    text = "".join(_module(n) for n in range(8)) + "x" * 500 + "\n" + "last = 1\n"
    found = list(snippets("a.py", text, 400))
    assert all(len(snippet.text) <= 400 for snippet in found)
    assert "".join(snippet.text for snippet in found) == text.replace("x" * 500 + "\n", "")
    assert sum(snippet.text[0].isspace() for snippet in found) <= 2  # most start at a definition


def test_budgets(tmp_path: Path) -> None:
    documents = _artifact(tmp_path / "d", [_shop()])
    begin(tmp_path / "t", "tokenizer", TokenizerConfig(vocab_size=300), {}, "k")
    make_tokenizer(TokenizerConfig(vocab_size=300), {"documents": documents}, tmp_path / "t")
    tokenizer = Tokenizer.load(tmp_path / "t")
    config = RepoContextConfig(max_sample_tokens=700, fim_share=1.0)
    manifest = _run(tmp_path / "s", {"documents": documents, "tokenizer": tmp_path / "t"}, config)
    found = list(read_shards(tmp_path / "s", "repository", Sample))
    sizes = [len(render(sample, tokenizer)[0]) for sample in found]
    assert len(sizes) == manifest.counts.kept > 5
    assert max(sizes) <= 700
    assert max(len(sample.origins) for sample in found) > 2
    with pytest.raises(UserError, match="needs the input 'tokenizer'"):
        _run(tmp_path / "x", {"documents": documents}, config)
    for limit in (100, 300):
        samples, _ = _samples(_shop(), context_characters=limit)
        for sample in samples.values():
            context = _text(sample).split("<|fim_prefix|>")[0].split("<|file_sep|>")[1:-1]
            assert 0 < sum(map(len, context)) <= limit


def test_short_middles_are_refused() -> None:
    with pytest.raises(UserError, match="so short a middle is in most files by chance"):
        validate(RepoContextConfig, {"fim": {"min_middle_characters": 3}})


def test_same_bytes_for_any_workers_and_shards_never_divide_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documents of two repositories alternate over two shards."""
    other = [_document(d.origin.path, d.text + "# other\n", "stall 2.0") for d in _shop()]
    everything = _shop() + other
    documents = _artifact(tmp_path / "d", [everything[::2], everything[1::2]])
    for name, seed, workers in (("a", 1, 1), ("b", 1, 2), ("c", 2, 1)):
        monkeypatch.setattr(local, "default_workers", lambda workers=workers: workers)
        _run(tmp_path / name, {"documents": documents}, RepoContextConfig(seed=seed, shard_bytes=1000))
    digests = {n: [sha256_file(p) for p in sorted((tmp_path / n).glob("*.parquet"))] for n in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]
    assert len(digests["a"]) == 2
    for sample in read_shards(tmp_path / "a", "repository", Sample):
        assert len({origin.repository for origin in sample.origins}) == 1
        assert len(sample.origins) > 2


def test_nothing_to_do_is_said(tmp_path: Path) -> None:
    documents = _artifact(tmp_path / "d", [[_document("a.py", "x = 1\n")]])
    manifest = _run(tmp_path / "s", {"documents": documents}, RepoContextConfig())
    assert manifest.metrics["remarks"] == [
        "set repository is empty: no repository has code files that can be each other's context"
    ]


def test_context_by_vectors_keeps_the_middle_out() -> None:
    samples, counts = _samples(_shop(), similarity="embedding")
    by_words, _ = _samples(_shop())
    assert counts.kept == len(samples) > 5
    assert any(_files(samples[path]) != _files(by_words[path]) for path in samples)
    for path, sample in samples.items():
        context, _, rest = _text(sample).partition("<|fim_prefix|>")
        middle = rest.partition("<|fim_middle|>")[2].removesuffix("<|im_end|>")
        assert squeeze(middle) not in squeeze(context), path
    with pytest.raises(UserError, match="cannot be loaded"):
        _samples(_shop(), similarity="embedding", encoder="nowhere:Nothing")


def test_no_snippet_is_counted_twice() -> None:
    counted: list[str] = []

    def n_tokens(text: str) -> int:
        counted.append(text)
        return len(text.split())

    documents = [_document(f"shop/other_{n}.py", _module(n)) for n in range(12)]
    config = validate(RepoContextConfig, {"fim_share": 1.0, "max_sample_tokens": 400})
    assert list(repository_samples(documents, config, Tally(), n_tokens))
    for document in documents:
        assert counted.count(f"{document.origin.path}\n{document.text}\n") <= 1
