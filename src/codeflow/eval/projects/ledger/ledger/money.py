"""Amounts of money as whole cents."""

from __future__ import annotations

from collections.abc import Sequence

CENTS = 100


def parse_amount(text: str) -> int:
    """Return the cents of an amount such as "1,234.50", "-7" or "(3.20)", which is negative.

    Raises ValueError for anything else.
    """
    text = text.strip().replace(",", "")
    negative = text.startswith("(") and text.endswith(")")
    if negative:
        text = text[1:-1]
    if text.startswith("-"):
        negative, text = not negative, text[1:]
    units, _, cents = text.partition(".")
    if not units.isdigit() or len(cents) not in (0, 2) or (cents and not cents.isdigit()):
        raise ValueError(f"{text!r} is no amount")
    total = int(units) * CENTS + int(cents or 0)
    return -total if negative else total


def format_amount(cents: int) -> str:
    """Return the amount with thousands separated and two decimals; "parse_amount" reads it back."""
    sign = "-" if cents < 0 else ""
    units, rest = divmod(abs(cents), CENTS)
    return f"{sign}{units:,}.{rest:02d}"


def allocate(cents: int, weights: Sequence[int]) -> list[int]:
    """Divide an amount in proportion to the weights without losing a cent; the first shares get what is left over.

    Raises ValueError when there is no positive weight.
    """
    whole = sum(weights)
    if whole <= 0 or min(weights) < 0:
        raise ValueError("weights must not be negative, and one must be positive")
    sign = -1 if cents < 0 else 1
    shares = [abs(cents) * weight // whole for weight in weights]
    left = abs(cents) - sum(shares)
    for place in range(len(shares)):
        if left == 0:
            break
        if weights[place] > 0:
            shares[place] += 1
            left -= 1
    return [sign * share for share in shares]
