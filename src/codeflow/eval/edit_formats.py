"""Two ways in which models write changes of files, as Aider asks for them (github.com/Aider-AI/aider, Apache-2.0).

`diff`: blocks of a file's name, a text to search and a text to replace it by. A search text that is not there counts
as found where it differs in indentation alone, by the same amount in all lines, or in blank lines before it. `whole`: a
file's name and a fence with all of its new content.

Read by Aider's rules where they decide what is applied; not covered: its guesses at misspelt names and at elided lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

_HEAD = re.compile(r"<{5,9} SEARCH>?\s*$")
_DIVIDER = re.compile(r"={5,9}\s*$")
_TAIL = re.compile(r">{5,9} REPLACE\s*$")
_FENCE = "```"


@dataclass(frozen=True, slots=True)
class Edited:
    """The files after an answer's edits, and what is wrong with those that could not be made."""

    files: dict[str, str]
    n_edits: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    path: str
    search: str
    replace: str


def apply_diff(files: Mapping[str, str], answer: str) -> Edited:
    """Return the files with an answer's search and replace blocks applied in order; only these files may change."""
    blocks, problems = _blocks(answer, list(files))
    changed, n_edits = dict(files), 0
    for block in blocks:
        if block.path not in changed:
            problems.append(f"{block.path}: not a file that may be changed; there are {', '.join(files)}")
            continue
        text = _replaced(changed[block.path], block)
        if text is None:
            problems.append(f"{block.path}: the text to search is not there:\n{block.search}")
            continue
        changed[block.path] = text
        n_edits += 1
    if not blocks and not problems:
        problems.append("no SEARCH/REPLACE block")
    return Edited(changed, n_edits, tuple(problems))


def apply_whole(files: Mapping[str, str], answer: str) -> Edited:
    """Return the files with the contents that an answer gives for them, the last one for each."""
    lines = answer.splitlines(keepends=True)
    changed, problems, n_edits, place = dict(files), list[str](), 0, 0
    while place < len(lines):
        if not lines[place].startswith(_FENCE):
            place += 1
            continue
        end = next((n for n in range(place + 1, len(lines)) if lines[n].startswith(_FENCE)), len(lines))
        path = _name_above(lines, place, list(files)) or (next(iter(files)) if len(files) == 1 else "")
        if path in changed:
            changed[path] = "".join(lines[place + 1 : end])
            n_edits += 1
        elif path:
            problems.append(f"{path}: not a file that may be changed; there are {', '.join(files)}")
        place = end + 1  # a block under no name shows something, and changes nothing
    if not n_edits and not problems:
        problems.append("no block of code with the name of its file above it")
    return Edited(changed, n_edits, tuple(problems))


def as_diff(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return the answer in the format `diff` that replaces each changed file as a whole."""
    parts: list[str] = []
    for path, text in after.items():
        old, new = _line_end(before.get(path, "")), _line_end(text)
        if old != new:
            block = f"<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE"
            parts.append(f"{path}\n{_FENCE}\n{block}\n{_FENCE}\n")
    return "\n".join(parts)


def as_whole(after: Mapping[str, str]) -> str:
    """Return the answer in the format `whole`."""
    return "\n".join(f"{path}\n{_FENCE}\n{_line_end(text)}{_FENCE}\n" for path, text in after.items())


def _line_end(text: str) -> str:
    return text if not text or text.endswith("\n") else f"{text}\n"


def _blocks(answer: str, paths: Sequence[str]) -> tuple[list[_Block], list[str]]:
    lines = answer.splitlines(keepends=True)
    found: list[_Block] = []
    place, last = 0, ""
    while place < len(lines):
        if not _HEAD.match(lines[place].strip()):
            place += 1
            continue
        path = _name_above(lines, place, paths) or last
        if not path:
            return found, ["a SEARCH block without the name of its file above it"]
        divider = _find(lines, place + 1, (_DIVIDER,))
        tail = _find(lines, divider + 1, (_TAIL, _DIVIDER))
        if divider == len(lines) or tail == len(lines):
            missing = "=======" if divider == len(lines) else ">>>>>>> REPLACE"
            return found, [f"{path}: a block lacks its line {missing}"]
        found.append(_Block(path, "".join(lines[place + 1 : divider]), "".join(lines[divider + 1 : tail])))
        place, last = tail + 1, path
    return found, []


def _find(lines: Sequence[str], start: int, patterns: Iterable[re.Pattern[str]]) -> int:
    return next((n for n in range(start, len(lines)) if any(p.match(lines[n].strip()) for p in patterns)), len(lines))


def _name_above(lines: Sequence[str], place: int, paths: Sequence[str]) -> str:
    """Return the file named in the three lines above, past opened fences; one of `paths` before another name."""
    names: list[str] = []
    for line in reversed(lines[max(0, place - 3) : place]):
        name = _stripped(line)
        if name:
            names.append(name)
        if not line.startswith(_FENCE):
            break
    for name in names:
        if name in paths:
            return name
    for name in names:
        for path in paths:
            if PurePosixPath(path).name == PurePosixPath(name).name:
                return path
    return next((name for name in names if "." in name), "")


def _stripped(line: str) -> str:
    name = line.strip()
    if name.startswith(_FENCE):
        name = name[len(_FENCE) :].strip()
        return name if "." in name or "/" in name else ""
    name = name.rstrip(":").lstrip("#").strip().strip("`*").strip()
    return "" if " " in name or name == "..." else name


def _replaced(text: str, block: _Block) -> str | None:
    if not block.search.strip():
        return text + block.replace
    whole, search, replace = (_line_end(one).splitlines(keepends=True) for one in (text, block.search, block.replace))
    while True:
        for found in (_exact(whole, search, replace), _indented(whole, search, replace)):
            if found is not None:
                return "".join(found)
        if not search or search[0].strip():
            return None
        search = search[1:]  # blank lines above are often made up


def _exact(whole: list[str], search: list[str], replace: list[str]) -> list[str] | None:
    n = len(search)
    for place in range(len(whole) - n + 1):
        if whole[place : place + n] == search:
            return whole[:place] + replace + whole[place + n :]
    return None


def _indented(whole: list[str], search: list[str], replace: list[str]) -> list[str] | None:
    """Replace where the search text lacks the same white space in front of every line."""
    indents = [len(line) - len(line.lstrip()) for line in (*search, *replace) if line.strip()]
    least = min(indents, default=0)
    search, replace = ([line[least:] if line.strip() else line for line in part] for part in (search, replace))
    n = len(search)
    for place in range(len(whole) - n + 1):
        part = whole[place : place + n]
        if any(a.lstrip() != b.lstrip() for a, b in zip(part, search, strict=True)):
            continue
        added = {a[: len(a) - len(b)] for a, b in zip(part, search, strict=True) if a.strip()}
        if len(added) == 1:
            [space] = added
            made = [space + line if line.strip() else line for line in replace]
            return whole[:place] + made + whole[place + n :]
    return None
