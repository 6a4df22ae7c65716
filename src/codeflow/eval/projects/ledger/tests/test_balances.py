"""Balances and statements of a small journal."""

import unittest
from datetime import date

from ledger.balances import balances, roll_up, running
from ledger.journal import parse_journal
from ledger.statement import largest, statement, table

ENTRIES = parse_journal(
    """2024-02-02 Lunch
    expenses:food:out  12.50
    assets:cash
2024-02-01 Pay
    assets:bank:main  1000
    income:pay
2024-02-02 Cash
    assets:cash  100
    assets:bank:main
2024-03-01 Food
    expenses:food:home  80
    assets:bank:main
2024-03-02 Back
    assets:banking  1
    expenses:fees
"""
)


class Balances(unittest.TestCase):
    """Sums by account, group and day."""

    def test_balances(self):
        found = balances(ENTRIES)
        self.assertEqual(found["assets:bank:main"], 82000)
        self.assertEqual(found["assets:cash"], 8750)
        self.assertEqual(list(found), sorted(found))
        self.assertEqual(sum(found.values()), 0)
        self.assertEqual(balances([]), {})

    def test_until_and_zero(self):
        self.assertEqual(balances(ENTRIES, date(2024, 2, 1)), {"assets:bank:main": 100000, "income:pay": -100000})
        twice = parse_journal("2024-01-01 A\n    a  1\n    b\n2024-01-02 B\n    b  1\n    c\n")
        self.assertEqual(balances(twice), {"a": 100, "c": -100})

    def test_roll_up(self):
        found = balances(ENTRIES)
        self.assertEqual(roll_up(found, 1)["expenses"], 9150)
        self.assertEqual(roll_up(found, 2)["expenses:food"], 9250)
        self.assertEqual(roll_up(found, 3), found)

    def test_running(self):
        days = [(date(2024, 2, 1), 100000), (date(2024, 2, 2), 90000), (date(2024, 3, 1), 82000)]
        self.assertEqual(running(ENTRIES, "assets:bank"), days)
        self.assertEqual(running(ENTRIES, "assets:cash"), [(date(2024, 2, 2), 8750)])
        self.assertEqual(running(ENTRIES, "nothing"), [])


class Statements(unittest.TestCase):
    """Tables for people."""

    def test_table(self):
        self.assertEqual(table([("a", 5), ("longer", -123400)]), "a            0.05\nlonger  -1,234.00")
        self.assertEqual(table([]), "")

    def test_statement(self):
        lines = statement(ENTRIES).splitlines()
        self.assertEqual(lines[0].split(), ["assets", "908.50"])
        self.assertEqual(lines[-1].split(), ["total", "0.00"])
        self.assertEqual(len(lines), 4)
        self.assertEqual(len(statement(ENTRIES, 2).splitlines()), 7)

    def test_largest(self):
        self.assertEqual(largest(ENTRIES, "assets:bank:", 2), [("Pay", 100000), ("Cash", -10000)])
        self.assertEqual(largest(ENTRIES, "expenses", 9), [("Food", 8000), ("Lunch", 1250), ("Back", -100)])
        tied = parse_journal("2024-01-01 B\n    a  1\n    b\n2024-01-02 A\n    a  -1\n    b\n")
        self.assertEqual(largest(tied, "a", 2), [("A", -100), ("B", 100)])
