"""Texts of real files by language, for campaigns: from named folders and from this Python's standard library."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path

from codeflow.core.languages import BY_EXTENSION

MAX_FILE_BYTES = 1_000_000


def texts_by_language(folders: list[Path], most_bytes: int | None = None) -> dict[str, dict[str, str]]:
    """Return language -> name of the file -> text; files that are not UTF-8, empty or huge are left out.

    Files come in the order of a hash of their names; a language ends after `most_bytes`. Equal texts come once.
    """
    found: dict[str, dict[str, str]] = {}
    sizes: dict[str, int] = {}
    seen: set[bytes] = set()
    for name, path in sorted(_paths(folders), key=lambda item: hashlib.sha256(item[0].encode()).digest()):
        language = BY_EXTENSION[path.suffix.lower()].name
        size = path.stat().st_size
        if not 0 < size <= MAX_FILE_BYTES or (most_bytes and sizes.get(language, 0) >= most_bytes):
            continue
        data = path.read_bytes()
        digest = hashlib.sha256(data).digest()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if digest not in seen:
            seen.add(digest)
            found.setdefault(language, {})[name] = text
            sizes[language] = sizes.get(language, 0) + size
    return dict(sorted(found.items()))


def _paths(folders: list[Path]) -> list[tuple[str, Path]]:
    library = Path(sysconfig.get_path("stdlib"))
    named = [(f"{folder.name}/{path.relative_to(folder)}", path) for folder in folders for path in folder.rglob("*")]
    named += [(f"stdlib/{path.relative_to(library)}", path) for path in library.rglob("*")]
    outside = ("site-packages", "__pycache__", "node_modules")
    return [
        (name, path)
        for name, path in named
        if path.suffix.lower() in BY_EXTENSION
        and not path.is_symlink()
        and path.is_file()
        and not any(part in outside for part in path.parts)
    ]


def sources(folders: list[Path]) -> str:
    """Return a sentence that names where the files came from."""
    names = sorted(child.name.replace("+", "/") for folder in folders for child in folder.iterdir() if child.is_dir())
    return f"Files of {', '.join(names)} and of the standard library." if names else "Files of the standard library."
