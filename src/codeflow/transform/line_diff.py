"""Which lines differ between two texts: a smallest set, as blocks placed where people would put them.

The longest common subsequence of lines comes from rapidfuzz (bit-parallel, exact). A line ends at its newline
character and at nothing else, as git sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_MOST_CELLS = 400_000_000  # lines x lines of one comparison (50 MB of bits); above it the differing middle is one block


class Block(NamedTuple):
    """Lines [old_start, old_stop) were replaced by lines [new_start, new_stop); either run may be empty."""

    old_start: int
    old_stop: int
    new_start: int
    new_stop: int


def lines_of(text: str) -> list[str]:
    """Split at newlines, which stay with their lines; the last line may be without one."""
    lines = text.split("\n")
    last = lines.pop()
    return [line + "\n" for line in lines] + ([last] if last else [])


def _numbers(before: Sequence[str], after: Sequence[str]) -> tuple[list[int], list[int]]:
    """Number equal lines equally: the comparison then needs no hash of a text, which could collide."""
    known: dict[str, int] = {}
    old = [known.setdefault(line, len(known)) for line in before]
    return old, [known.setdefault(line, len(known)) for line in after]


def _trimmed(old: Sequence[int], new: Sequence[int]) -> tuple[int, int]:
    """Return how many lines agree at the start and, beyond these, at the end."""
    shorter = min(len(old), len(new))
    head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
    shorter -= head
    tail = next((i for i in range(shorter) if old[-1 - i] != new[-1 - i]), shorter)
    return head, tail


def changed_lines(before: str, after: str) -> tuple[int, int]:
    """Return how many lines a smallest patch from `before` to `after` removes and adds."""
    if before == after:
        return 0, 0
    from rapidfuzz.distance import LCSseq

    old, new = _numbers(lines_of(before), lines_of(after))
    head, tail = _trimmed(old, new)
    old, new = old[head : len(old) - tail], new[head : len(new) - tail]
    kept = LCSseq.similarity(old, new) if 0 < len(old) * len(new) <= _MOST_CELLS else 0
    return len(old) - kept, len(new) - kept


def diff_blocks(before: Sequence[str], after: Sequence[str]) -> list[Block]:
    """Return the blocks in which two sequences of lines differ, in order, none touching the next."""
    from rapidfuzz.distance import LCSseq

    old, new = _numbers(before, after)
    head, tail = _trimmed(old, new)
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    if not middle_old and not middle_new:
        return []
    if len(middle_old) * len(middle_new) > _MOST_CELLS:
        return [Block(head, len(old) - tail, head, len(new) - tail)]
    blocks: list[Block] = []
    for step in LCSseq.opcodes(middle_old, middle_new):
        if step.tag == "equal":
            continue
        block = Block(head + step.src_start, head + step.src_end, head + step.dest_start, head + step.dest_end)
        if blocks and blocks[-1].old_stop == block.old_start and blocks[-1].new_stop == block.new_start:
            block = Block(blocks[-1].old_start, block.old_stop, blocks[-1].new_start, block.new_stop)
            blocks.pop()
        blocks.append(block)
    return _placed(blocks, before, after, old, new)


def _placed(
    blocks: list[Block], before: Sequence[str], after: Sequence[str], old: Sequence[int], new: Sequence[int]
) -> list[Block]:
    """Slide pure insertions and deletions to where they read best; an equal run of lines allows it."""
    placed: list[Block] = []
    for number, block in enumerate(blocks):
        if block.old_start < block.old_stop and block.new_start < block.new_stop:
            placed.append(block)
            continue
        inserted = block.old_start == block.old_stop
        ids, lines = (new, after) if inserted else (old, before)
        start, stop = (block.new_start, block.new_stop) if inserted else (block.old_start, block.old_stop)
        # Blocks must not come to touch: one equal line stays between them, so that they remain separate.
        above = block.old_start - placed[-1].old_stop - 1 if placed else min(block.old_start, block.new_start)
        following = blocks[number + 1].old_start if number + 1 < len(blocks) else len(before)
        below = following - block.old_stop - (1 if number + 1 < len(blocks) else 0)
        up = 0
        while up < above and ids[start - 1 - up] == ids[stop - 1 - up]:
            up += 1
        down = 0
        while down < below and ids[start + down] == ids[stop + down]:
            down += 1
        shift = min(range(-up, down + 1), key=lambda s: (*_cost(lines, start + s, stop + s), -s))
        placed.append(Block(*(place + shift for place in block)))
    return placed


def _cost(lines: Sequence[str], start: int, stop: int) -> tuple[int, int]:
    """Rank a place for a block: shallow edges first, then a blank line before it or at its end."""
    blank_before = start == 0 or not lines[start - 1].strip()
    blank_at_end = not lines[stop - 1].strip()
    return _indent(lines, start) + _indent(lines, stop), 0 if blank_before or blank_at_end else 1


def _indent(lines: Sequence[str], place: int) -> int:
    for line in lines[place : place + 20]:
        if line.strip():
            return len(line) - len(line.lstrip())
    return 0
