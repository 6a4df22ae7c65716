"""Real Python files and rewritten ones: planted documents that say the same in other words, more or less so."""

from __future__ import annotations

import ast
import hashlib
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LEAST_BYTES, MOST_BYTES = 300, 2_000  # of a file: an encoder reads every pair's both sides whole
SHARES = (0.0, 0.1, 0.3, 0.6, 1.0)  # of a file's own names that a rewritten one calls otherwise


@dataclass(frozen=True, slots=True)
class Text:
    """A document; `source` is the path of the file that it was made of, its own path when it is that file."""

    path: str
    text: str
    source: str

    @property
    def planted(self) -> bool:
        """Whether it is a rewritten file."""
        return self.path != self.source


def corpus(n_files: int, n_rewritten: int, seed: int = 0) -> list[Text]:
    """Return files of the standard library and of the installed packages, and rewritten ones, in an order by hash."""
    files = _files(n_files)
    generator = random.Random(seed)
    words = sorted(
        {word for file in files[:200] for word in file.text.split() if word.isidentifier() and len(word) > 3}
    )
    planted: list[Text] = []
    for at in generator.sample(range(len(files)), len(files)):
        if len(planted) == n_rewritten:
            break
        share = SHARES[len(planted) % len(SHARES)]
        text = rewritten(files[at].text, share, words, generator)
        if text:
            planted.append(Text(f"rewritten/{share}/{files[at].path}", text, files[at].path))
    return sorted([*files, *planted], key=lambda text: hashlib.sha256(text.path.encode()).digest())


def _files(n: int) -> list[Text]:
    roots = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")]
    found: list[Text] = []
    for path in (path for root in roots for path in _by_hash(root)):
        if len(found) == n:
            break
        text = path.read_bytes().decode("utf-8", "replace")
        found.append(Text(str(path), text, str(path)))
    return found


def _by_hash(root: Path) -> Iterator[Path]:
    paths = [
        path
        for path in root.rglob("*.py")
        if "site-packages" not in path.relative_to(root).parts and LEAST_BYTES <= path.stat().st_size <= MOST_BYTES
    ]
    yield from sorted(paths, key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest())


def rewritten(text: str, share: float, words: list[str], generator: random.Random) -> str:
    """Return a program in another layout, without comments, functions in another order, a share of its names replaced.

    "" where it does not parse.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return ""
    own = sorted(
        {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    )
    chosen = generator.sample(own, round(share * len(own)))
    new = {name: f"{generator.choice(words)}_{generator.choice(words)}" for name in chosen}
    tree = _Renaming(new).visit(tree)
    places = [at for at, node in enumerate(tree.body) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    nodes = [tree.body[at] for at in places]
    generator.shuffle(nodes)
    for at, node in zip(places, nodes, strict=True):
        tree.body[at] = node
    return ast.unparse(tree) + "\n"


class _Renaming(ast.NodeTransformer):
    def __init__(self, new: dict[str, str]) -> None:
        self._new = new

    def visit(self, node: ast.AST) -> ast.AST:
        """Rename what has a name, and everything below."""
        for field in ("name", "arg", "id", "attr"):
            name = getattr(node, field, None)
            if isinstance(name, str) and name in self._new:
                setattr(node, field, self._new[name])
        return self.generic_visit(node)
