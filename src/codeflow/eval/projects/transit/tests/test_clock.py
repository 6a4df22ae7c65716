"""Times of day."""

import unittest

from transit.clock import format_time, next_departure, parse_time


class Clock(unittest.TestCase):
    """Minutes in and out."""

    def test_parse(self):
        for text, minutes in (("00:00", 0), ("7:05", 425), (" 23:59 ", 1439)):
            self.assertEqual(parse_time(text), minutes)

    def test_parse_refuses(self):
        for text in ("24:00", "7:60", "7", "7:5", "a:10", ":10", "-1:10"):
            with self.assertRaises(ValueError, msg=text):
                parse_time(text)

    def test_format(self):
        for minutes, text in (
            (0, "00:00"),
            (425, "07:05"),
            (1439, "23:59"),
            (1450, "00:10+1"),
            (2 * 1440 + 61, "01:01+2"),
        ):
            self.assertEqual(format_time(minutes), text)

    def test_next_departure(self):
        departures = [360, 420, 1380]
        for ready, leave in ((0, 360), (360, 360), (361, 420), (1380, 1380), (1381, 1800), (1440 + 400, 1860)):
            self.assertEqual(next_departure(departures, ready), leave)
        with self.assertRaises(ValueError):
            next_departure([], 5)
