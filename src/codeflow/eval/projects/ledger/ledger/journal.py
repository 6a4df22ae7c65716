"""Journals: entries of a day, each a set of postings that balance."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from .money import parse_amount


class JournalError(ValueError):
    """A journal that cannot be read; the message begins with the number of the line."""


@dataclass(frozen=True)
class Posting:
    """An amount in cents on an account such as "assets:bank"."""

    account: str
    cents: int


@dataclass(frozen=True)
class Entry:
    """What happened on a day."""

    day: date
    title: str
    postings: tuple[Posting, ...]

    @property
    def imbalance(self) -> int:
        """The sum of the postings; 0 for an entry that balances."""
        return sum(posting.cents for posting in self.postings)


def parse_journal(text: str) -> list[Entry]:
    """Read entries: a line "2024-05-01 Title", then indented postings "account  amount"; "#" starts a comment.

    One posting of an entry may lack its amount; it gets what balances the others. Raises JournalError.
    """
    entries: list[Entry] = []
    title, rows = "", []
    start = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        line = line.partition("#")[0].rstrip()
        if line[:1].isspace():
            if not title:
                raise JournalError(f"{number}: a posting without an entry")
            rows.append(line.strip())
            continue
        if title:
            entries.append(_entry(start, title, rows))
            title, rows = "", []
        if line:
            start, title = number, line
    return entries


def _entry(number: int, title: str, rows: list[str]) -> Entry:
    stamp, _, name = title.partition(" ")
    try:
        day = date.fromisoformat(stamp)
    except ValueError:
        raise JournalError(f"{number}: {stamp!r} is no date") from None
    postings, open_account = [], None
    for row in rows:
        account, _, amount = row.partition("  ")
        if amount.strip():
            postings.append(Posting(account, parse_amount(amount)))
        elif open_account is None:
            open_account = account
        else:
            raise JournalError(f"{number}: two postings lack an amount")
    entry = Entry(day, name.strip(), tuple(postings))
    if open_account is not None:
        return Entry(day, entry.title, (*entry.postings, Posting(open_account, -entry.imbalance)))
    if entry.imbalance:
        raise JournalError(f"{number}: the postings of {entry.title!r} do not balance")
    return entry
