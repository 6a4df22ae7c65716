"""Changes as search/replace edits, the form in which many coding agents write them, and their application.

    *** edit PATH             *** create PATH        *** delete PATH        *** rename OLD -> NEW
    <<<<<<< SEARCH            text
    lines of the file         *** end
    =======
    lines instead
    >>>>>>> REPLACE

The lines of a search occur in the file exactly once; `make_edits` adds as much context as that takes. All searches of
a file are looked up in the file as it was. As in a diff, `\\ No newline at end of file` says so of the line before it.
Files that hold one of the markers cannot be written so: `make_edits` then returns None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from codeflow.transform.line_diff import Block, diff_blocks, lines_of
from codeflow.transform.patch import PatchError, valid_renames

_SEARCH, _DIVIDER, _REPLACE = "<<<<<<< SEARCH\n", "=======\n", ">>>>>>> REPLACE\n"
_END = "*** end\n"
_NO_NEWLINE = "\\ No newline at end of file\n"
_HEAD = re.compile(r"\*\*\* (edit|create|delete|rename) (.+)\n")
_MARKERS = re.compile(r"^(?:<<<<<<< SEARCH|=======|>>>>>>> REPLACE|\*\*\* .*|\\ No newline at end of file)$", re.M)


def make_edits(before: Mapping[str, str], after: Mapping[str, str], renames: Mapping[str, str]) -> str | None:
    """Return the edits from `before` to `after` (path -> text), or None where they cannot be written so.

    `apply_edits(before, make_edits(before, after, renames)) == after`. `renames` maps new paths to old ones.
    """
    if any(_MARKERS.search(text) for text in (*before.values(), *after.values())):
        return None
    if any("\n" in path or " -> " in path for path in (*before, *after)):
        return None
    moved = valid_renames(before, after, renames)
    gone = set(moved.values())
    parts: list[str] = []
    for path in sorted({*before, *after} - gone):
        old_path = moved.get(path, path)
        old, new = before.get(old_path), after.get(path)
        if old_path != path:
            parts.append(f"*** rename {old_path} -> {path}\n")
        if new is None:
            parts.append(f"*** delete {path}\n")
        elif old is None or (not old and new):
            parts += [f"*** create {path}\n", _written(lines_of(new)), _END]
        elif old != new:
            parts += [f"*** edit {path}\n", *_edits(lines_of(old), lines_of(new))]
    return "".join(parts)


def _written(lines: Sequence[str]) -> str:
    text = "".join(lines)
    return text if not text or text.endswith("\n") else f"{text}\n{_NO_NEWLINE}"


def _edits(before: Sequence[str], after: Sequence[str]) -> list[str]:
    blocks = diff_blocks(before, after)
    spans: list[tuple[int, int]] = []
    for start, stop in sorted(_unique(before, block.old_start, block.old_stop) for block in blocks):
        if spans and spans[-1][1] >= start:
            spans[-1] = (spans[-1][0], max(spans[-1][1], stop))
        else:
            spans.append((start, stop))
    parts = []
    for start, stop in spans:  # every block lies wholly in one span
        new_start = start + sum(_growth(block) for block in blocks if block.old_start < start)
        new_stop = stop + sum(_growth(block) for block in blocks if block.old_stop <= stop)
        old, new = _written(before[start:stop]), _written(after[new_start:new_stop])
        parts.append(f"{_SEARCH}{old}{_DIVIDER}{new}{_REPLACE}")
    return parts


def _growth(block: Block) -> int:
    return (block.new_stop - block.new_start) - (block.old_stop - block.old_start)


def _unique(before: Sequence[str], start: int, stop: int) -> tuple[int, int]:
    """Add lines above and below in turn until the run of lines occurs once in the file."""
    above = True
    while stop == start or _occurrences(before, before[start:stop]) > 1:
        if (above and start > 0) or stop == len(before):
            start -= 1
        else:
            stop += 1
        above = not above
    return start, stop


def _occurrences(lines: Sequence[str], run: Sequence[str]) -> int:
    """Return in how many places of `lines` the run stands, two at most."""
    n, found = len(run), 0
    for place in range(len(lines) - n + 1):
        if lines[place] == run[0] and lines[place : place + n] == run:
            found += 1
            if found == 2:
                break
    return found


def apply_edits(before: Mapping[str, str], edits: str) -> dict[str, str]:
    """Return the files of `before` with `edits` applied. Raises PatchError when they are malformed or do not fit."""
    after = dict(before)
    lines = lines_of(edits)
    place = 0
    while place < len(lines):
        head = _HEAD.fullmatch(lines[place])
        if not head:
            raise PatchError(f"line {place + 1}: expected '*** edit PATH' or the like, found {lines[place][:40]!r}")
        verb, path = head.groups()
        place += 1
        if verb == "create":
            stop = _find(lines, place, _END)
            after[path] = _read(lines[place:stop])
            place = stop + 1
        elif verb == "rename":
            old_path, arrow, path = path.partition(" -> ")
            if not arrow or old_path not in after or path in after:
                raise PatchError(f"cannot rename {old_path} to {path}")
            after[path] = after.pop(old_path)
        elif path not in after:
            raise PatchError(f"{path}: no such file")
        elif verb == "delete":
            del after[path]
        else:
            after[path], place = _edited(after[path], lines, place, path)
    return after


def _edited(text: str, lines: Sequence[str], place: int, path: str) -> tuple[str, int]:
    before = lines_of(text)
    result: list[str] = []
    done = 0
    while place < len(lines) and lines[place] == _SEARCH:
        divider = _find(lines, place, _DIVIDER)
        stop = _find(lines, divider, _REPLACE)
        run = lines_of(_read(lines[place + 1 : divider]))
        starts = [i for i in range(len(before) - len(run) + 1) if before[i : i + len(run)] == run] if run else []
        if len(starts) != 1 or starts[0] < done:
            raise PatchError(f"{path}: the search at line {place + 1} fits in {len(starts)} places")
        result += [*before[done : starts[0]], *lines_of(_read(lines[divider + 1 : stop]))]
        done, place = starts[0] + len(run), stop + 1
    return "".join([*result, *before[done:]]), place


def _find(lines: Sequence[str], place: int, marker: str) -> int:
    for number in range(place, len(lines)):
        if lines[number] == marker:
            return number
    raise PatchError(f"line {place + 1}: {marker.strip()!r} is missing after it")


def _read(lines: Sequence[str]) -> str:
    if lines and lines[-1] == _NO_NEWLINE:
        return "".join(lines[:-1]).removesuffix("\n")
    return "".join(lines)
