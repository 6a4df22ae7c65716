"""Completion splits of one document (fill in the middle), from random characters to syntax nodes (Code-Flow §2).

Levels: `random_boundary` (characters), `random_line` (whole lines) and, from the syntax tree, those of
`fim_nodes.LEVELS`. A syntax split draws a random character and takes one of the nodes of the level that contain it, so
every character is about equally likely to be asked for, and a document costs one parse and a few descents. At the level
`comment` the middle is the statement or definition right below a comment that has lines to itself.

Not covered: repository-level context, which needs other documents than this one.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from codeflow.core.config import Config
from codeflow.core.errors import suggest
from codeflow.core.languages import BY_NAME
from codeflow.core.types import Document, Sample, Segment
from codeflow.tokens.special import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, IM_END
from codeflow.transform import fim_nodes

LEVELS = ("random_boundary", "random_line", *fim_nodes.LEVELS)
_DRAWS = 8  # characters drawn before the whole tree is searched for a node of the level
_MAX_LINES = 16  # of a random_line middle


class FimConfig(Config):
    """How completion samples are made."""

    levels: dict[str, float] = Field(
        default={"random_boundary": 0.2, "random_line": 0.2, "function": 0.3, "statement": 0.15, "expression": 0.15}
    )  # weights; a document without a place for its drawn level takes the next drawn one
    max_characters: int = Field(default=24_000, ge=16)  # prefix + middle + suffix; longer documents are windowed
    max_middle_characters: int = Field(default=4_000, ge=1)
    min_middle_characters: int = Field(default=3, ge=1)
    suffix_first_rate: float = Field(default=0.0, ge=0, le=1)  # share of samples in suffix-prefix-middle order

    @field_validator("levels")
    @classmethod
    def _known_levels(cls, levels: dict[str, float]) -> dict[str, float]:
        for level, weight in levels.items():
            if level not in LEVELS:
                raise ValueError(f"no level '{level}'{suggest(level, LEVELS)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(f"weight of '{level}' is {weight}; give a number of at least 0")
        if not any(levels.values()):
            raise ValueError("all weights are 0; give one level a weight above 0, or set the rate of completion to 0")
        return levels

    @model_validator(mode="after")
    def _sizes_fit(self) -> FimConfig:
        if not self.min_middle_characters <= self.max_middle_characters <= self.max_characters:
            raise ValueError(
                "sizes must rise: min_middle_characters <= max_middle_characters <= max_characters, not "
                f"{self.min_middle_characters}, {self.max_middle_characters}, {self.max_characters}"
            )
        return self


@dataclass(frozen=True, slots=True)
class Fim:
    """A split: `prefix + middle + suffix` is the text (or, after `window`, a run of it), byte for byte."""

    prefix: str
    middle: str
    suffix: str


def generator(seed: int, *names: str) -> random.Random:
    """Return a random generator that depends on `seed` and `names` alone, on every machine and in every process."""
    key = "\x1f".join([str(seed), *names]).encode()
    return random.Random(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))


def split(
    text: str,
    language: str,
    level: str,
    rng: random.Random,
    min_middle: int = 1,
    max_middle: int | None = None,
) -> Fim | None:
    """Split `text` at `level`, or return None where it has no place for it (no such node, no second line).

    `min_middle` and `max_middle` bound the middle, in characters. Pure: equal arguments and generator states give equal
    splits. `language` is a name of core.languages; the random levels ignore it.
    """
    return Source(text, language).split(level, rng, min_middle, max_middle)


class Source:
    """A text to be split several times; it is parsed at most once, when a syntax level first asks for it."""

    def __init__(self, text: str, language: str) -> None:
        self.text, self.language = text, language

    def split(self, level: str, rng: random.Random, min_middle: int = 1, max_middle: int | None = None) -> Fim | None:
        """Split at `level`; see the function `split`."""
        min_middle = max(min_middle, 1)
        limit = len(self.text) if max_middle is None else min(max_middle, len(self.text))
        if limit < min_middle:
            return None
        if level == "random_boundary":
            cut = _random_boundary(self.text, rng, min_middle, limit)
        elif level == "random_line":
            cut = _random_lines(self.text, rng, min_middle, limit)
        else:
            cut = self._node_cut(level, rng, min_middle, limit)
        if cut is None:
            return None
        start, stop = cut
        return Fim(self.text[:start], self.text[start:stop], self.text[stop:])

    @functools.cached_property
    def _bytes(self) -> bytes:
        return self.text.encode("utf-8", "surrogatepass")

    @functools.cached_property
    def _root(self) -> Any:
        return parser_of(BY_NAME[self.language].grammar).parse(self._bytes).root_node

    def _node_cut(self, level: str, rng: random.Random, shortest: int, longest: int) -> tuple[int, int] | None:
        accept = functools.partial(self._fits, shortest=shortest, longest=longest)
        types, parents = fim_nodes.types_of(self.language, level)
        if not types and not parents:
            runs = self._runs(level)
            return self._characters(*rng.choice(found)) if (found := [run for run in runs if accept(*run)]) else None
        apart = fim_nodes.apart_of(self.language)
        for _ in range(_DRAWS):
            offset = rng.randrange(len(self._bytes))
            nodes = _nodes_at(self._root, offset, types, parents, apart)
            found = [node for node in nodes if accept(*_span(node)) and not node.has_error]
            if found:
                return self._characters(*_span(rng.choice(found)))
        found = [node for node in self._all_nodes(level, apart) if accept(*_span(node)) and not node.has_error]
        return self._characters(*_span(rng.choice(found))) if found else None

    def _all_nodes(self, level: str, apart: frozenset[str]) -> list[Any]:
        """Return every node of a level, in order."""
        types, parents = fim_nodes.types_of(self.language, level)
        patterns = (*sorted(types), *(f"{kind} (_)" for kind in sorted(parents)))
        nodes = self._captured(patterns)
        unique = {(*_span(node), node.id): node for node in nodes if node.type in types or node.type not in apart}
        return sorted(unique.values(), key=_place)

    def _captured(self, patterns: tuple[str, ...]) -> list[Any]:
        from tree_sitter import QueryCursor

        query = query_of(BY_NAME[self.language].grammar, patterns)
        return QueryCursor(query).captures(self._root).get("node", []) if query else []

    def _runs(self, level: str) -> list[tuple[int, int]]:
        """Return the byte spans of a level that no node type tells, in order, those with syntax errors left out."""
        table = fim_nodes.TABLES.get(self.language)
        if table is None or (level == "arguments" and not table.argument_parents):
            return []
        if level == "arguments":
            lists = (node.children_by_field_name("argument") for node in self._captured(table.argument_parents))
            runs = [nodes for nodes in lists if nodes and not any(node.has_error for node in nodes)]
            return sorted((nodes[0].start_byte, nodes[-1].end_byte) for nodes in runs)
        if level != "comment":
            return []
        below = (self._below(node, table.blocks) for node in self._captured(BY_NAME[self.language].comments))
        return sorted({_span(node) for node in below if node is not None and not node.has_error})

    def _below(self, comment: Any, blocks: tuple[str, ...]) -> Any:
        """Return the node that a comment stands right above; None where something else is on its lines."""
        data, node = self._bytes, comment.next_named_sibling
        if node is None or node.type in BY_NAME[self.language].comments:
            return None
        head = data[data.rfind(b"\n", 0, comment.start_byte) + 1 : comment.start_byte]
        # The comment's own text may end with the line break: line comments of Rust do.
        gap = data[comment.end_byte - 1 : node.start_byte].lstrip(b" \t\r")
        if head.strip() or data[comment.end_byte : node.start_byte].strip() or gap[1:].count(b"\n") > 1:
            return None
        if b"\n" not in gap:
            return None
        lists = (*blocks, "statement_list")
        while node.type in lists and node.named_children and node.named_children[0].start_byte == node.start_byte:
            node = node.named_children[0]  # the comment is about the first statement, not about all of them
        return node

    def _fits(self, start: int, stop: int, shortest: int, longest: int) -> bool:
        if stop - start < shortest or stop - start > 4 * longest:
            return False
        middle = self._bytes[start:stop]
        n_characters = len(middle) if middle.isascii() else len(middle.decode("utf-8", "surrogatepass"))
        return shortest <= n_characters <= longest

    def _characters(self, start: int, stop: int) -> tuple[int, int] | None:
        """Turn byte offsets into character offsets; None where one falls inside a character."""
        if len(self._bytes) == len(self.text):
            return start, stop
        try:
            first = len(self._bytes[:start].decode("utf-8", "surrogatepass"))
            return first, first + len(self._bytes[start:stop].decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:  # only where the text itself is not valid Unicode
            return None


def _span(node: Any) -> tuple[int, int]:
    return node.start_byte, node.end_byte


def _place(node: Any) -> tuple[int, int]:
    return node.start_byte, -node.end_byte


def _random_boundary(text: str, rng: random.Random, shortest: int, longest: int) -> tuple[int, int] | None:
    first, second = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    if not shortest <= second - first <= longest:
        length = rng.randint(shortest, longest)
        first = rng.randint(0, len(text) - length)
        second = first + length
    return first, second


def _random_lines(text: str, rng: random.Random, shortest: int, longest: int) -> tuple[int, int] | None:
    starts = [0]
    while (end := text.find("\n", starts[-1]) + 1) > 0 and end < len(text):
        starts.append(end)
    if len(starts) < 2:
        return None
    starts.append(len(text))
    for _ in range(_DRAWS):
        n_lines = min(int(2 ** rng.uniform(0, math.log2(_MAX_LINES + 1))), len(starts) - 2)  # short runs are likelier
        first = rng.randrange(len(starts) - n_lines)
        start, stop = starts[first], starts[first + n_lines]
        if shortest <= stop - start <= longest and not text[start:stop].isspace():
            return start, stop
    return None


def _nodes_at(
    root: Any, offset: int, types: frozenset[str], parents: frozenset[str], apart: frozenset[str]
) -> Iterator[Any]:
    """Yield the nodes of a level that contain byte `offset`, outermost first."""
    cursor = root.walk()
    inside = root.type in parents
    while cursor.goto_first_child_for_byte(offset) is not None:
        node = cursor.node
        if node.start_byte > offset:  # the byte lies between two children
            return
        kind = node.type
        if kind in types or (inside and node.is_named and kind not in apart):
            yield node
        inside = kind in parents


@functools.cache
def parser_of(grammar: str) -> Any:
    """Return this process's parser of a grammar of tree-sitter-language-pack."""
    from tree_sitter_language_pack import get_parser

    return get_parser(grammar)  # type: ignore[arg-type]


@functools.cache
def query_of(grammar: str, patterns: tuple[str, ...]) -> Any:
    """Return the query for nodes of any of the patterns, each of which is `type` or `type (_)` (its children)."""
    from tree_sitter import Query
    from tree_sitter_language_pack import get_language

    text = "\n".join(f"({p}) @node" if "(" not in p else f"({p.replace('(_)', '(_) @node')})" for p in patterns)
    return Query(get_language(grammar), text) if patterns else None  # type: ignore[arg-type]


def window(fim: Fim, max_characters: int) -> Fim:
    """Cut prefix and suffix so that the whole has at most `max_characters`; the middle stays whole.

    Both sides get half of what the middle leaves, and what one does not need goes to the other. The outer ends are then
    moved inwards to the nearest line break, so that a window starts and ends with a whole line where it can. The result
    reassembles a run of the text.
    """
    room = max_characters - len(fim.middle)
    assert room >= 0, "the middle alone is longer than the window"
    if len(fim.prefix) + len(fim.suffix) <= room:
        return fim
    n_after = min(len(fim.suffix), max(room // 2, room - len(fim.prefix)))
    n_before = min(len(fim.prefix), room - n_after)
    prefix, suffix = fim.prefix[len(fim.prefix) - n_before :], fim.suffix[:n_after]
    if n_before < len(fim.prefix) and fim.prefix[len(fim.prefix) - n_before - 1] != "\n":
        prefix = prefix[prefix.find("\n") + 1 :]
    if n_after < len(fim.suffix) and "\n" in suffix:
        suffix = suffix[: suffix.rfind("\n") + 1]
    return Fim(prefix, fim.middle, suffix)


def segments(fim: Fim, order: Literal["prefix_first", "suffix_first"] = "prefix_first") -> tuple[Segment, ...]:
    """Render a split in the recipe's format (Code-Flow §2), or with the suffix before the prefix."""
    prefix = (Segment("special", FIM_PREFIX), Segment("text", fim.prefix))
    suffix = (Segment("special", FIM_SUFFIX), Segment("text", fim.suffix))
    context = (*prefix, *suffix) if order == "prefix_first" else (*suffix, *prefix)
    ending = (Segment("special", FIM_MIDDLE), Segment("text", fim.middle), Segment("special", IM_END))
    return tuple(item for item in (*context, *ending) if item.role == "special" or item.text)


def completion(document: Document, config: FimConfig, seed: int, phase: str = "fim") -> Sample | None:
    """Make the completion sample of a document, or None where none of the levels finds a place.

    The order in which levels are tried is drawn by weight; each level's split has a generator of its own.
    """
    source = Source(document.text, document.language)
    rng = generator(seed, document.id, phase)
    weights = {level: weight for level, weight in sorted(config.levels.items()) if weight > 0}
    while weights:
        level = rng.choices(list(weights), list(weights.values()))[0]
        del weights[level]
        draw = generator(seed, document.id, phase, level)
        fim = source.split(level, draw, config.min_middle_characters, config.max_middle_characters)
        if fim is None:
            continue
        order = "suffix_first" if draw.random() < config.suffix_first_rate else "prefix_first"
        parts = segments(window(fim, config.max_characters), order)
        start = "fim" if phase == "fim" else f"{phase}/fim"
        return Sample(f"{start}/{level}/{document.id}", parts, (document.origin,), phase)
    return None
