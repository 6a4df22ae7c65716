"""Balances of accounts, and of the groups above them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

from .journal import Entry


def balances(entries: Iterable[Entry], until: date | None = None) -> dict[str, int]:
    """Return the cents on each account after the day `until`, accounts in order, those at zero left out."""
    totals: dict[str, int] = {}
    for entry in entries:
        if until is not None and entry.day > until:
            continue
        for posting in entry.postings:
            totals[posting.account] = totals.get(posting.account, 0) + posting.cents
    return {account: cents for account, cents in sorted(totals.items()) if cents}


def roll_up(totals: dict[str, int], depth: int) -> dict[str, int]:
    """Add up accounts that share their first `depth` parts: "assets:bank:main" counts for "assets:bank" at depth 2."""
    groups: dict[str, int] = {}
    for account, cents in totals.items():
        name = ":".join(account.split(":")[:depth])
        groups[name] = groups.get(name, 0) + cents
    return groups


def running(entries: Iterable[Entry], account: str) -> list[tuple[date, int]]:
    """Return the balance of an account, and of those below it, at the end of each day on which it changed."""
    days: list[tuple[date, int]] = []
    total = 0
    for entry in sorted(entries, key=lambda entry: entry.day):
        change = sum(p.cents for p in entry.postings if p.account == account or p.account.startswith(account + ":"))
        if not change:
            continue
        total += change
        if days and days[-1][0] == entry.day:
            days[-1] = (entry.day, total)
        else:
            days.append((entry.day, total))
    return days
