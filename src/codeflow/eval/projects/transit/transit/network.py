"""Lines and the stops that they join."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A line: its stops in order, the minutes between neighbours, and when it leaves the first stop."""

    name: str
    stops: tuple[str, ...]
    minutes: tuple[int, ...]
    departures: tuple[int, ...]

    def offset(self, stop: str) -> int:
        """Return how many minutes after its start the line is at a stop."""
        return sum(self.minutes[: self.stops.index(stop)])

    def reversed(self, departures: Sequence[int]) -> Line:
        """Return the line in the other direction."""
        return Line(f"{self.name} back", self.stops[::-1], self.minutes[::-1], tuple(departures))


class Network:
    """Lines by name, and who calls where."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}

    def add(self, line: Line) -> None:
        """Add a line. Raises ValueError when its name is taken or its minutes do not fit its stops."""
        if line.name in self.lines:
            raise ValueError(f"there is a line {line.name} already")
        if len(line.minutes) != len(line.stops) - 1 or min(line.minutes, default=0) < 0:
            raise ValueError(f"line {line.name} needs a number of minutes between each two stops")
        self.lines[line.name] = line

    @property
    def stops(self) -> list[str]:
        """All stops, in order of their names."""
        return sorted({stop for line in self.lines.values() for stop in line.stops})

    def calling_at(self, stop: str) -> list[Line]:
        """Return the lines that call at a stop, in order of their names."""
        return [self.lines[name] for name in sorted(self.lines) if stop in self.lines[name].stops]

    def onward(self, stop: str) -> Iterator[tuple[Line, str, int]]:
        """Yield (line, next stop, minutes) for every line that goes on from a stop."""
        for line in self.calling_at(stop):
            place = line.stops.index(stop)
            if place + 1 < len(line.stops):
                yield line, line.stops[place + 1], line.minutes[place]

    def interchanges(self) -> list[str]:
        """Return the stops at which one can change between lines."""
        return [stop for stop in self.stops if len(self.calling_at(stop)) > 1]
