"""What a commit message says of its commit: noise, what it reverts, and how well it describes the change.

The patterns are of the common hosts and robots; a message that fits none of them is taken at its word.
"""

from __future__ import annotations

import functools
import re

_PULL_REQUEST = re.compile(r"^Merge (?:pull request|PR) [#!]?\d+\b|^Merge branch '[^']+' into '[^']+'$", re.I)
_MERGE = re.compile(
    r"^(?:Merge|Merged|Merging) (?:pull request|PR|branch|branches|remote|tag|commit|in|from|[\w./-]+ into)\b", re.I
)
_REVERT = re.compile(r"^(?:Revert|Reapply|Back ?out)\b|\bThis reverts commit\b", re.I)
_REVERTED_SHA = re.compile(r"\bThis reverts commit ([0-9a-f]{7,40})\b")
_BOT = re.compile(
    r"\[bot\]|\bdependabot\b|\brenovate\b|\bgreenkeeper\b|\bpre-commit(?:\.ci)? auto|\[pre-commit\.ci\]|\bpyup\b|"
    r"\bsnyk\b|^(?:chore|build)\(deps(?:-dev)?\)|^Bump \S+ from \S+ to \S+|^Update dependency \S+ to\b|"
    r"^(?:Automatic|Automated|Auto[- ])\s?(?:update|commit|merge|sync|generated)|^Translated using Weblate",
    re.I | re.M,
)
_RELEASE = re.compile(
    r"^(?:(?:bump|start|set|update|prepare|begin|tag|new)\s+(?:the\s+)?(?:for\s+)?(?:version|release)\b|"
    r"(?:release|version)\s+(?:version\s+)?v?\d|(?:start|begin|bump)\s+v?\d+\.\d|v?\d+\.\d+(?:\.\d+)?\S*$)",
    re.I,
)
_TRAILER = re.compile(r"^(?:[A-Z][\w-]+-by|Change-Id|Reviewed-on|git-svn-id|Fixes|Closes|Refs?|PR-URL|See|Cc):\s", re.I)
_EMPTY_WORDS = frozenset(
    re.findall(
        r"\w+",
        "wip fix fixes fixed update updates updated change changes changed misc stuff minor cleanup clean up tmp temp "
        "test typo more oops done commit save work progress refactor some small tweak tweaks edit edits and the a of "
        "in to various review comments address feedback files file code release version bump",
    )
)
_WORD = re.compile(r"[^\W\d_][\w'-]*")
_GOOD_SUBJECT_CHARACTERS = (15, 90)
_FULL_WORDS = 6  # telling words at which a subject counts as fully informative
_FULL_BODY_WORDS = 25


def noise(message: str) -> str:
    """Return why a commit of this message is no development step of its own, or "".

    The reasons are "merge", "bot", "revert" and "release".

    A merged pull request that carries its title is one: its own text describes a whole iteration.
    """
    if _BOT.search(message):
        return "bot"
    if _REVERT.search(message):
        return "revert"
    if _MERGE.match(message) and not (_PULL_REQUEST.match(message) and len(described(message).split()) >= 3):
        return "merge"
    return "release" if _RELEASE.match(described(message)) else ""


def described(message: str) -> str:
    """Return the message without trailers and without the line in which a host announces a merged pull request."""
    lines = [line.rstrip() for line in message.strip().splitlines() if not _TRAILER.match(line)]
    if lines and _PULL_REQUEST.match(lines[0]):
        lines = lines[1:]
    return "\n".join(lines).strip()


def reverted(message: str) -> tuple[str, ...]:
    """Return the (possibly shortened) ids of commits that a commit of this message reverts."""
    return tuple(_REVERTED_SHA.findall(message))


@functools.lru_cache(maxsize=1_000)
def words(message: str) -> frozenset[str]:
    """Return the telling words of a message, in lower case."""
    return frozenset(word.lower() for word in _WORD.findall(described(message))) - _EMPTY_WORDS


@functools.lru_cache(maxsize=1_000)
def quality(message: str) -> float:
    """Rate 0..1 how well a message describes its change: telling words, a subject of good length, a body."""
    text = described(message)
    subject, _, body = text.partition("\n")
    n_telling = len(words(subject))
    if n_telling == 0:
        return 0.0
    low, high = _GOOD_SUBJECT_CHARACTERS
    fits = 1.0 if low <= len(subject) <= high else 0.5
    explained = min(len(words(body)) / _FULL_BODY_WORDS, 1.0)
    return 0.5 * min(n_telling / _FULL_WORDS, 1.0) + 0.25 * fits + 0.25 * explained
