"""Distances in a network, timetables aside."""

from __future__ import annotations

import heapq
from collections import deque

from .network import Network


def minutes_from(network: Network, start: str) -> dict[str, int]:
    """Return the fewest minutes of travel from `start` to every stop that can be reached (Dijkstra)."""
    best: dict[str, int] = {}
    queue = [(0, start)]
    while queue:
        minutes, stop = heapq.heappop(queue)
        if stop in best:
            continue
        best[stop] = minutes
        for _, target, step in network.onward(stop):
            heapq.heappush(queue, (minutes + step, target))
    return best


def reachable(network: Network, start: str, limit: int) -> list[str]:
    """Return the other stops within `limit` minutes, nearest first, equal ones in order of their names."""
    found = [(minutes, stop) for stop, minutes in minutes_from(network, start).items() if stop != start]
    return [stop for minutes, stop in sorted(found) if minutes <= limit]


def fewest_changes(network: Network, start: str, goal: str) -> int:
    """Return how often one must change lines between two stops. Raises LookupError where there is no way."""
    if start == goal:
        return 0
    queue = deque([(line.name, start, 0) for line in network.calling_at(start)])
    seen = {(name, stop) for name, stop, _ in queue}
    while queue:
        name, stop, changes = queue.popleft()
        line = network.lines[name]
        ahead = line.stops[line.stops.index(stop) + 1 :]
        if goal in ahead:
            return changes
        for place in ahead:
            for other in network.calling_at(place):
                if (other.name, place) not in seen:
                    seen.add((other.name, place))
                    queue.append((other.name, place, changes + 1))
    raise LookupError(f"no way from {start} to {goal}")
