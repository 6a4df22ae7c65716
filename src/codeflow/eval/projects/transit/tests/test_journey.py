"""Journeys by timetable."""

import unittest

from transit.journey import Leg, departure, describe, plan
from transit.network import Line, Network

RED = Line("red", ("Harbour", "Market", "Park", "Hill"), (4, 3, 9), (360, 420))
BLUE = Line("blue", ("Market", "Station", "Hill"), (2, 5), (365, 366, 425))


def network():
    """Return two lines that meet twice."""
    found = Network()
    found.add(RED)
    found.add(BLUE)
    return found


class Journeys(unittest.TestCase):
    """Plans and how they are told."""

    def test_departure(self):
        for ready, leave in ((0, 364), (364, 364), (365, 424), (425, 1440 + 364)):
            self.assertEqual(departure(RED, "Market", ready), leave)

    def test_changing_takes_time(self):
        legs = plan(network(), "Harbour", "Hill", 350)
        self.assertEqual(legs, [Leg("red", "Harbour", 360, "Market", 364), Leg("blue", "Market", 366, "Hill", 373)])
        legs = plan(network(), "Harbour", "Hill", 350, change=3)
        self.assertEqual(legs, [Leg("red", "Harbour", 360, "Hill", 376)])
        self.assertEqual(plan(network(), "Market", "Station", 365)[0].leave, 365)

    def test_no_way_and_no_need(self):
        self.assertEqual(plan(network(), "Park", "Park", 5), [])
        circle = Network()
        circle.add(Line("there", ("A", "B"), (1,), (1,)))
        circle.add(Line("back", ("B", "A"), (1,), (1,)))
        for found, start, goal in ((network(), "Hill", "Harbour"), (circle, "A", "C")):
            with self.assertRaises(LookupError):
                plan(found, start, goal, 5)

    def test_the_next_day(self):
        (leg,) = plan(network(), "Harbour", "Market", 430)
        self.assertEqual((leg.leave, leg.arrive), (1440 + 360, 1440 + 364))

    def test_describe(self):
        legs = plan(network(), "Harbour", "Hill", 350)
        self.assertEqual(
            describe(legs),
            "06:00 Harbour -> 06:04 Market (red)\n06:06 Market -> 06:13 Hill (blue)\n13 min, 1 change",
        )
        self.assertEqual(describe([]), "you are there")
        self.assertTrue(describe([Leg("x", "A", 0, "B", 125)]).endswith("2 h 5 min, 0 changes"))
        three = [Leg("x", "A", 0, "B", 1), Leg("y", "B", 2, "C", 3), Leg("z", "C", 4, "D", 60)]
        self.assertTrue(describe(three).endswith("\n1 h 0 min, 2 changes"))
