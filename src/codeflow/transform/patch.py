"""Unified diffs in git's format between two sets of files, and their application.

`make_patch` writes what `git apply` accepts: a/ and b/ names (quoted as git quotes them), headers of new, deleted and
renamed files, markers for a missing last newline. `apply_patch` is strict: every context line must match.
Modes that nobody gives are 100644. Not covered: copies, binary patches.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from codeflow.transform.line_diff import Block, diff_blocks, lines_of

_CONTEXT_LINES = 3
_HEADING_CHARACTERS = 80
_NO_NEWLINE = "\\ No newline at end of file\n"
_MODE = "100644"
_ESCAPES = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r", '"': '"', "\\": "\\"}
_UNESCAPES = {letter: character for character, letter in _ESCAPES.items()}
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(ValueError):
    """A patch that cannot be read, or that does not fit the files it is applied to."""


def make_patch(
    before: Mapping[str, str],
    after: Mapping[str, str],
    renames: Mapping[str, str] | None = None,
    modes: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
) -> str:
    """Return the patch from `before` to `after` (path -> text); "" when they are equal.

    `renames` maps new paths to old ones; an entry counts only where the old path vanishes and the new one appears.
    `modes` maps paths before and paths after to git's modes where they are known; a file that is there alone keeps its
    text. `apply_patch(before, make_patch(before, after)) == after`, byte for byte, and so with `git apply`.
    """
    moved = valid_renames(before, after, renames or {})
    gone = set(moved.values())
    parts: list[str] = []
    for path in sorted({*before, *after, *modes[0]} - gone):
        old_path = moved.get(path, path)
        old, new = before.get(old_path), after.get(path)
        old_mode, mode = modes[0].get(old_path, ""), modes[1].get(path, "")
        if old != new or old_path != path:
            parts.append(_file_patch((old_path, path), (old, new), (old_mode, mode)))
        elif old_mode and mode and old_mode != mode:
            parts += [_names_line(path, path), f"old mode {old_mode}\nnew mode {mode}\n"]
    return "".join(parts)


def valid_renames(before: Mapping[str, str], after: Mapping[str, str], renames: Mapping[str, str]) -> dict[str, str]:
    """Return those renames (new path -> old one) where the old path vanishes and the new one appears."""
    valid: dict[str, str] = {}
    for new, old in sorted(renames.items()):
        if old in before and old not in after and new in after and new not in before and old not in valid.values():
            valid[new] = old
    return valid


def _names_line(old_path: str, path: str) -> str:
    return f"diff --git {_quote('a/' + old_path)} {_quote('b/' + path)}\n"


def _file_patch(paths: tuple[str, str], texts: tuple[str | None, str | None], modes: tuple[str, str]) -> str:
    """Return one file's part; each pair is before and after."""
    (old_path, path), (old, new), (old_mode, mode) = paths, texts, modes
    before, after = lines_of(old or ""), lines_of(new or "")
    blocks = diff_blocks(before, after)
    head = [_names_line(old_path, path)]
    if old is None:
        head.append(f"new file mode {mode or _MODE}\n")
    elif new is None:
        head.append(f"deleted file mode {old_mode or _MODE}\n")
    elif old_mode and mode and old_mode != mode:
        head.append(f"old mode {old_mode}\nnew mode {mode}\n")
    if old is not None and new is not None and old_path != path:
        head.append(f"similarity index {_similarity(before, after, blocks)}%\n")
        head += [f"rename from {_quote(old_path)}\n", f"rename to {_quote(path)}\n"]
    if blocks:
        head.append(f"--- {'/dev/null' if old is None else _name('a/' + old_path)}\n")
        head.append(f"+++ {'/dev/null' if new is None else _name('b/' + path)}\n")
    return "".join([*head, *_hunks(before, after, blocks)])


def _similarity(before: Sequence[str], after: Sequence[str], blocks: Sequence[Block]) -> int:
    n_before, n_after = sum(map(len, before)), sum(map(len, after))
    removed = sum(len(line) for block in blocks for line in before[block.old_start : block.old_stop])
    return 100 if not blocks else 100 * (n_before - removed) // max(n_before, n_after)


def _hunks(before: Sequence[str], after: Sequence[str], blocks: Sequence[Block]) -> list[str]:
    groups: list[list[Block]] = []
    for block in blocks:
        if groups and block.old_start - groups[-1][-1].old_stop <= 2 * _CONTEXT_LINES:
            groups[-1].append(block)
        else:
            groups.append([block])
    return [_hunk(before, after, group) for group in groups]


def _hunk(before: Sequence[str], after: Sequence[str], group: Sequence[Block]) -> str:
    lead = min(_CONTEXT_LINES, group[0].old_start)
    trail = min(_CONTEXT_LINES, len(before) - group[-1].old_stop)
    start, stop = group[0].old_start - lead, group[-1].old_stop + trail
    new_start, new_stop = group[0].new_start - lead, group[-1].new_stop + trail
    heading = _heading(before, start)
    lines = [f"@@ -{_range(start, stop)} +{_range(new_start, new_stop)} @@{heading and ' ' + heading}\n"]
    place = start
    for block in group:
        lines += [_line(" ", line) for line in before[place : block.old_start]]
        lines += [_line("-", line) for line in before[block.old_start : block.old_stop]]
        lines += [_line("+", line) for line in after[block.new_start : block.new_stop]]
        place = block.old_stop
    lines += [_line(" ", line) for line in before[place:stop]]
    return "".join(lines)


def _range(start: int, stop: int) -> str:
    if stop - start == 1:
        return str(start + 1)
    return f"{start + 1 if stop > start else start},{stop - start}"


def _line(sign: str, line: str) -> str:
    return sign + line if line.endswith("\n") else f"{sign}{line}\n{_NO_NEWLINE}"


def _heading(before: Sequence[str], start: int) -> str:
    """Return the nearest line above that starts with a letter, an underscore or a dollar sign, as git does."""
    for line in reversed(before[:start]):
        if line[0].isalpha() or line[0] in "_$":
            return line[:_HEADING_CHARACTERS].replace("\r", " ").rstrip()
    return ""


def _quote(path: str) -> str:
    if not any(character in _ESCAPES or character < " " or character == "\x7f" for character in path):
        return path
    quoted = []
    for character in path:
        if character in _ESCAPES:
            quoted.append("\\" + _ESCAPES[character])
        elif character < " " or character == "\x7f":
            quoted.append(f"\\{ord(character):03o}")
        else:
            quoted.append(character)
    return '"' + "".join(quoted) + '"'


def _name(path: str) -> str:
    quoted = _quote(path)
    return quoted + "\t" if " " in path and quoted == path else quoted  # the tab ends a name with spaces


def _unquote(text: str) -> str:
    if not text.startswith('"'):
        return text.split("\t")[0]

    def replaced(match: re.Match[bytes]) -> bytes:
        code = match.group(1).decode()
        return _UNESCAPES[code].encode() if code in _UNESCAPES else bytes([int(code, 8)])

    # Octal codes stand for bytes, several of which may be one character.
    inner = text[1 : text.rindex('"')].encode("utf-8")
    return re.sub(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})', replaced, inner).decode("utf-8", "replace")


def apply_patch(before: Mapping[str, str], patch: str) -> dict[str, str]:
    """Return the files of `before` with `patch` applied; files that it does not mention stay.

    Raises PatchError when the patch is malformed or does not fit.
    """
    after = dict(before)
    removed: set[str] = set()
    added: dict[str, str] = {}
    for section in _sections(patch):
        old_path, path, hunks = section
        if old_path == path and not hunks:
            continue  # a change of mode
        if old_path is None:
            text = ""
            if path in before:
                raise PatchError(f"{path}: already exists")
        elif old_path not in before:
            raise PatchError(f"{old_path}: no such file")
        else:
            text = before[old_path]
            removed.add(old_path)
        result = _apply_hunks(text, hunks, path or old_path or "")
        if path is not None:
            added[path] = result
        elif result:
            raise PatchError(f"{old_path}: deleted, but the patch leaves text in it")
    for path in removed:
        del after[path]
    for path in added:
        if path in after:
            raise PatchError(f"{path}: already exists")
    return {**after, **added}


_Hunk = tuple[int, int, list[str]]  # first line in the old text (from 0), number of old lines, body lines
_Section = tuple["str | None", "str | None", list[_Hunk]]


def _sections(patch: str) -> list[_Section]:
    lines = lines_of(patch)
    sections: list[_Section] = []
    place = 0
    while place < len(lines):
        if not lines[place].startswith("diff --git "):
            raise PatchError(f"line {place + 1}: expected 'diff --git', found {lines[place][:40]!r}")
        section, place = _section(lines, place)
        sections.append(section)
    return sections


def _section(lines: Sequence[str], place: int) -> tuple[_Section, int]:
    old_path, path = _names_of(lines[place].removeprefix("diff --git ").rstrip("\n"))
    is_new = is_deleted = False
    hunks: list[_Hunk] = []
    place += 1
    while place < len(lines) and not lines[place].startswith("diff --git "):
        line = lines[place].rstrip("\n")
        if line.startswith("@@ "):
            hunk, place = _read_hunk(lines, place)
            hunks.append(hunk)
            continue
        if line.startswith("rename from "):
            old_path = _unquote(line.removeprefix("rename from "))
        elif line.startswith("rename to "):
            path = _unquote(line.removeprefix("rename to "))
        elif line.startswith("--- ") and line != "--- /dev/null":
            old_path = _unquote(line.removeprefix("--- "))[2:]
        elif line.startswith("+++ ") and line != "+++ /dev/null":
            path = _unquote(line.removeprefix("+++ "))[2:]
        elif line.startswith("Binary files ") or line == "GIT binary patch":
            raise PatchError(f"{path}: binary patches are not supported")
        is_new |= line.startswith("new file mode ")
        is_deleted |= line.startswith("deleted file mode ")
        place += 1
    return (None if is_new else old_path, None if is_deleted else path, hunks), place


def _names_of(text: str) -> tuple[str, str]:
    """Read `a/X b/X`. Where the two differ the names are read again from the headers that follow."""
    if text.startswith('"'):
        end = re.match(r'"(?:[^"\\]|\\.)*"', text)
        if not end:
            raise PatchError(f"unfinished quoted name in {text[:80]!r}")
        return _unquote(end.group())[2:], _unquote(text[end.end() + 1 :])[2:]
    half = (len(text) - 1) // 2
    return text[2:half], text[half + 3 :]


def _read_hunk(lines: Sequence[str], place: int) -> tuple[_Hunk, int]:
    match = _HUNK.match(lines[place])
    if not match:
        raise PatchError(f"line {place + 1}: malformed hunk header {lines[place][:60]!r}")
    start, n_old, _, n_new = (1 if group is None else int(group) for group in match.groups())
    place += 1
    body: list[str] = []
    old_left, new_left = n_old, n_new
    while old_left or new_left or (place < len(lines) and lines[place].startswith("\\")):
        if place == len(lines):
            raise PatchError(f"hunk {match.group()} ends too early")
        line = lines[place]
        place += 1
        if line.startswith("\\"):
            body[-1] = body[-1].removesuffix("\n")
            continue
        if line[0] not in " -+" and line != "\n":
            raise PatchError(f"line {place}: {line[:40]!r} is no line of a hunk")
        line = " \n" if line == "\n" else line
        old_left -= line[0] in " -"
        new_left -= line[0] in " +"
        body.append(line)
    if old_left or new_left:
        raise PatchError(f"hunk {match.group()} has more lines than it says")
    return (start - 1 if n_old else start, n_old, body), place


def _apply_hunks(text: str, hunks: Sequence[_Hunk], path: str) -> str:
    before = lines_of(text)
    result: list[str] = []
    place = 0
    for start, n_old, body in hunks:
        old = [line[1:] for line in body if line[0] in " -"]
        if start < place or before[start : start + n_old] != old:
            raise PatchError(f"{path}: the hunk at line {start + 1} does not fit")
        result += before[place:start]
        result += [line[1:] for line in body if line[0] in " +"]
        place = start + n_old
    return "".join(result + before[place:])
