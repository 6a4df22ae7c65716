"""Amounts: read, written, divided."""

import unittest

from ledger.money import allocate, format_amount, parse_amount


class Amounts(unittest.TestCase):
    """Cents in and out."""

    def test_parse(self):
        for text, cents in (("7", 700), (" 1,234.50 ", 123450), ("-0.05", -5), ("(3.20)", -320), ("(-1)", 100)):
            self.assertEqual(parse_amount(text), cents, text)

    def test_parse_refuses(self):
        for text in ("", "1.5", "1.234", "x", "1.x0", ".50", "(2", "--1"):
            with self.assertRaises(ValueError, msg=text):
                parse_amount(text)

    def test_format(self):
        for cents, text in ((0, "0.00"), (5, "0.05"), (-123450, "-1,234.50"), (100000000, "1,000,000.00")):
            self.assertEqual(format_amount(cents), text)
            self.assertEqual(parse_amount(text), cents)

    def test_allocate(self):
        self.assertEqual(allocate(100, [1, 1, 1]), [34, 33, 33])
        self.assertEqual(allocate(-100, [1, 1, 1]), [-34, -33, -33])
        self.assertEqual(allocate(5, [0, 3, 1, 0]), [0, 4, 1, 0])
        self.assertEqual(allocate(200, [1, 1, 1]), [67, 67, 66])
        self.assertEqual(allocate(0, [2]), [0])
        self.assertEqual(allocate(7, [0, 1, 1]), [0, 4, 3])

    def test_allocate_refuses(self):
        for weights in ([0, 0], [2, -1], [-1, 1]):
            with self.assertRaises(ValueError):
                allocate(10, weights)
