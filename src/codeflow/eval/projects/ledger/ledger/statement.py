"""Statements for people: aligned tables of accounts and amounts."""

from __future__ import annotations

from collections.abc import Iterable

from .balances import balances, roll_up
from .journal import Entry
from .money import format_amount


def table(rows: Iterable[tuple[str, int]]) -> str:
    """Return lines of names and amounts, names padded on the right, amounts aligned at their last digit."""
    shown = [(name, format_amount(cents)) for name, cents in rows]
    left = max((len(name) for name, _ in shown), default=0)
    right = max((len(amount) for _, amount in shown), default=0)
    return "\n".join(f"{name:<{left}}  {amount:>{right}}" for name, amount in shown)


def statement(entries: Iterable[Entry], depth: int = 1) -> str:
    """Return the table of the groups of accounts, with a last line that holds their sum."""
    groups = roll_up(balances(entries), depth)
    return table([*groups.items(), ("total", sum(groups.values()))])


def largest(entries: Iterable[Entry], prefix: str, n: int) -> list[tuple[str, int]]:
    """Return the `n` entries that move most on accounts beginning with `prefix`, as (title, cents), largest first."""
    moved: list[tuple[str, int]] = []
    for entry in entries:
        cents = sum(posting.cents for posting in entry.postings if posting.account.startswith(prefix))
        if cents:
            moved.append((entry.title, cents))
    moved.sort(key=lambda item: (-abs(item[1]), item[0]))
    return moved[:n]
