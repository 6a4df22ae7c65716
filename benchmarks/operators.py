"""The whole chain of per-document operators on Python files, beside tree-sitter's parse alone (its bound).

Reads the running interpreter's standard library (a sample by path order, 20 MB by default; `operators_5` takes 5 MB),
in one process on one core, and counts CPU seconds. Ours and the bound run alternately over the same files, three
rounds, and the best of each is taken, since other work on the machine only ever adds time. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Origin
from codeflow.transform.pipeline import CleanConfig, apply
from codeflow.transform.syntax import MeasureSyntax, grammar_of

_ROUNDS = 3


def library_documents(n_bytes: int) -> list[Document]:
    """Return Python files of the standard library, every one of a stride that gives about `n_bytes`."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in sorted(root.rglob("*.py")) if "site-packages" not in path.parts]
    total = sum(path.stat().st_size for path in paths)
    documents = []
    for path in paths[:: max(1, total // n_bytes)]:
        text = path.read_bytes().decode("utf-8", "replace")
        origin = Origin("package", "python", "", path.relative_to(root).as_posix(), "PSF-2.0", "")
        documents.append(Document(sha256_text(text), text, "Python", origin))
    return documents


def chain_seconds(documents: list[Document], config: CleanConfig) -> tuple[float, Counter[str]]:
    """Return CPU seconds of all operators over all documents, and by operator (metered in a pass of its own)."""
    operators = config.operators()
    started = time.process_time()
    for document in documents:
        apply(document, operators)
    seconds = time.process_time() - started
    by_operator: Counter[str] = Counter()
    for document in documents:
        apply(document, operators, lambda name, spent: by_operator.update({name: spent}))
    return seconds, by_operator


def parse_seconds(documents: list[Document]) -> float:
    """Return CPU seconds of tree-sitter's parse of all documents."""
    grammar = grammar_of("Python")
    assert grammar
    data = [document.text.encode() for document in documents]
    started = time.process_time()
    for item in data:
        grammar.parser.parse(item)
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 20
    documents = library_documents(megabytes * 1_000_000)
    n_mb = sum(len(document.text.encode()) for document in documents) / 1e6
    with_ast = CleanConfig()
    without_ast = CleanConfig(syntax=MeasureSyntax(python_ast=False))
    chain_seconds(documents[:20], with_ast)  # imports and grammars
    rounds = [
        (chain_seconds(documents, with_ast), chain_seconds(documents, without_ast), parse_seconds(documents))
        for _ in range(_ROUNDS)
    ]
    (seconds, by_operator), (seconds_without, _) = min(r[0] for r in rounds), min(r[1] for r in rounds)
    parse = min(r[2] for r in rounds)
    result = {
        "benchmark": "operators",
        "n_files": len(documents),
        "mb": round(n_mb, 2),
        "ours": round(n_mb / seconds, 2),
        "ours_without_ast": round(n_mb / seconds_without, 2),
        "unit": "MB/s per core",
        "bound": round(n_mb / parse, 2),
        "bound_is": "tree-sitter parse alone",
        "ratio": round(parse / seconds, 3),
        "ratio_without_ast": round(parse / seconds_without, 3),
        "ms_per_mb_by_operator": {name: round(spent * 1e3 / n_mb, 1) for name, spent in by_operator.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
