"""Times of day as minutes after midnight."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

DAY_MINUTES = 24 * 60


def parse_time(text: str) -> int:
    """Return the minutes of "7:05" or "07:05". Raises ValueError for what is no time of day."""
    hours, colon, minutes = text.strip().partition(":")
    if not colon or len(minutes) != 2 or not (hours + minutes).isdigit():
        raise ValueError(f"{text!r} is no time; write it as 07:05")
    total = 60 * int(hours) + int(minutes)
    if int(minutes) > 59 or total >= DAY_MINUTES:
        raise ValueError(f"{text!r} is no time of day")
    return total


def format_time(minutes: int) -> str:
    """Return "07:05"; a time after midnight shows how many days later it is, as in "00:10+1"."""
    days, rest = divmod(minutes, DAY_MINUTES)
    later = f"+{days}" if days else ""
    return f"{rest // 60:02d}:{rest % 60:02d}{later}"


def next_departure(departures: Sequence[int], ready: int) -> int:
    """Return the first departure at `ready` or later; departures rise and are the same every day.

    Raises ValueError when there are none.
    """
    if not departures:
        raise ValueError("no departures")
    days, minute = divmod(ready, DAY_MINUTES)
    place = bisect_left(departures, minute)
    if place == len(departures):
        days, place = days + 1, 0
    return days * DAY_MINUTES + departures[place]
