"""Journals: what is read and what is refused."""

import unittest
from datetime import date

from ledger.journal import Entry, JournalError, Posting, parse_journal

TEXT = """# household
2024-05-01 Rent
    expenses:rent  900.00
    assets:bank  -900.00

2024-05-03   Pay and tax  # monthly
    assets:bank  2,000.00
    expenses:tax  500
    income:pay
2024-05-04 Nothing
"""


class Journals(unittest.TestCase):
    """Text to entries."""

    def test_entries(self):
        rent, pay, nothing = parse_journal(TEXT)
        self.assertEqual(rent.day, date(2024, 5, 1))
        self.assertEqual(rent.title, "Rent")
        self.assertEqual(rent.postings, (Posting("expenses:rent", 90000), Posting("assets:bank", -90000)))
        self.assertEqual(pay.title, "Pay and tax")
        self.assertEqual(pay.postings[-1], Posting("income:pay", -250000))
        self.assertEqual(pay.imbalance, 0)
        self.assertEqual(nothing, Entry(date(2024, 5, 4), "Nothing", ()))
        self.assertEqual(parse_journal(""), [])

    def test_imbalance(self):
        entry = Entry(date(2024, 1, 1), "", (Posting("a", 5), Posting("b", -3)))
        self.assertEqual(entry.imbalance, 2)

    def refused(self, text, start):
        with self.assertRaises(JournalError) as caught:
            parse_journal(text)
        self.assertTrue(str(caught.exception).startswith(start), caught.exception)

    def test_faults_name_their_line(self):
        self.refused("\n    a  1", "2:")
        self.refused("2024-05-01 A\n    a  1\n    b  -2\n", "1:")
        self.refused("# x\n\n2024-05-01 A\n    a\n    b\n", "3:")
        self.refused("2024-13-01 A\n    a\n", "1: '2024-13-01'")
