"""Networks: lines, stops, distances."""

import unittest

from transit.network import Line, Network
from transit.search import fewest_changes, minutes_from, reachable

RED = Line("red", ("Harbour", "Market", "Park", "Hill"), (4, 3, 9), (360, 420))
BLUE = Line("blue", ("Market", "Station", "Hill"), (2, 5), (365,))
GREEN = Line("green", ("Station", "Mill"), (6,), (400,))
FERRY = Line("ferry", ("Island", "Harbour"), (20,), (300,))


def network():
    """Return a network of four lines."""
    found = Network()
    for line in (RED, BLUE, GREEN, FERRY):
        found.add(line)
    return found


class Lines(unittest.TestCase):
    """What lines and networks say of themselves."""

    def test_offset(self):
        self.assertEqual([RED.offset(stop) for stop in RED.stops], [0, 4, 7, 16])

    def test_reversed(self):
        back = RED.reversed([500])
        self.assertEqual(back, Line("red back", ("Hill", "Park", "Market", "Harbour"), (9, 3, 4), (500,)))

    def test_add_refuses(self):
        found = network()
        for line in (RED, Line("x", ("A", "B"), (), ()), Line("x", ("A", "B"), (-1,), ()), Line("x", ("A",), (1,), ())):
            with self.assertRaises(ValueError):
                found.add(line)
        self.assertEqual(sorted(found.lines), ["blue", "ferry", "green", "red"])

    def test_stops_and_calls(self):
        found = network()
        self.assertEqual(found.stops, ["Harbour", "Hill", "Island", "Market", "Mill", "Park", "Station"])
        self.assertEqual([line.name for line in found.calling_at("Market")], ["blue", "red"])
        self.assertEqual(found.calling_at("Nowhere"), [])
        self.assertEqual(found.interchanges(), ["Harbour", "Hill", "Market", "Station"])

    def test_onward(self):
        found = network()
        self.assertEqual(list(found.onward("Market")), [(BLUE, "Station", 2), (RED, "Park", 3)])
        self.assertEqual(list(found.onward("Hill")), [])


class Distances(unittest.TestCase):
    """Searches in the network."""

    def test_minutes_from(self):
        found = minutes_from(network(), "Harbour")
        self.assertEqual(found, {"Harbour": 0, "Market": 4, "Park": 7, "Station": 6, "Hill": 11, "Mill": 12})
        self.assertEqual(minutes_from(network(), "Mill"), {"Mill": 0})

    def test_the_shorter_way_found_later_counts(self):
        found = Network()
        found.add(Line("slow", ("A", "B", "Z"), (5, 1), ()))
        found.add(Line("fast", ("A", "C", "B"), (2, 2), ()))
        self.assertEqual(minutes_from(found, "A"), {"A": 0, "B": 4, "C": 2, "Z": 5})

    def test_reachable(self):
        self.assertEqual(reachable(network(), "Harbour", 11), ["Market", "Station", "Park", "Hill"])
        self.assertEqual(reachable(network(), "Harbour", 3), [])
        tie = Network()
        tie.add(Line("b", ("A", "Z"), (3,), ()))
        tie.add(Line("a", ("A", "C"), (3,), ()))
        self.assertEqual(reachable(tie, "A", 3), ["C", "Z"])

    def test_fewest_changes(self):
        found = network()
        for start, goal, n in (
            ("Harbour", "Hill", 0),
            ("Harbour", "Mill", 2),
            ("Island", "Park", 1),
            ("Mill", "Mill", 0),
        ):
            self.assertEqual(fewest_changes(found, start, goal), n)
        for start, goal in (("Mill", "Park"), ("Park", "Market"), ("Nowhere", "Park")):
            with self.assertRaises(LookupError):
                fewest_changes(found, start, goal)
