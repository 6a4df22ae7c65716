"""Journeys by timetable: the earliest arrival, and how to say it."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from .clock import format_time, next_departure
from .network import Line, Network


@dataclass(frozen=True)
class Leg:
    """One ride."""

    line: str
    start: str
    leave: int
    stop: str
    arrive: int


def departure(line: Line, stop: str, ready: int) -> int:
    """Return when the line next leaves a stop for somebody who is there at `ready`."""
    offset = line.offset(stop)
    return next_departure(line.departures, max(ready - offset, 0)) + offset


def plan(network: Network, start: str, goal: str, ready: int, change: int = 2) -> list[Leg]:
    """Return the legs of a journey that arrives earliest, none where one is there already.

    Getting from one line to another takes `change` minutes. Raises LookupError where there is no way.
    """
    if start == goal:
        return []
    arrived: set[str] = set()
    queue: list[tuple[int, int, str, list[Leg]]] = [(ready, 0, start, [])]
    n_pushed = 1
    while queue:
        now, _, stop, legs = heapq.heappop(queue)
        if stop == goal:
            return legs
        if stop in arrived:
            continue
        arrived.add(stop)
        for line in network.calling_at(stop):
            leave = departure(line, stop, now + change if legs else now)
            for target in line.stops[line.stops.index(stop) + 1 :]:
                leg = Leg(line.name, stop, leave, target, leave + line.offset(target) - line.offset(stop))
                heapq.heappush(queue, (leg.arrive, n_pushed, target, [*legs, leg]))
                n_pushed += 1
    raise LookupError(f"no way from {start} to {goal}")


def describe(legs: list[Leg]) -> str:
    """Return a line for each leg, and one that says how long the journey takes and how often one changes."""
    if not legs:
        return "you are there"
    lines = [
        f"{format_time(leg.leave)} {leg.start} -> {format_time(leg.arrive)} {leg.stop} ({leg.line})" for leg in legs
    ]
    hours, minutes = divmod(legs[-1].arrive - legs[0].leave, 60)
    duration = f"{hours} h {minutes} min" if hours else f"{minutes} min"
    changes = "1 change" if len(legs) == 2 else f"{len(legs) - 1} changes"
    return "\n".join([*lines, f"{duration}, {changes}"])
