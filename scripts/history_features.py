"""The functions that the synthetic project of `make_history.py` grows by: first version, better version, tests.

Every feature's first test passes on both versions, its second on the better one only.
"""

# ruff: noqa: E501  sources in strings

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One function of the synthetic project in two versions."""

    module: str
    name: str
    first: str
    better: str
    first_test: str
    better_test: str
    defect: str  # what the better version mends, for the commit message


WRITTEN = (
    Feature(
        "text",
        "slug",
        'def slug(title):\n    """Return a title as one lower-case word with dashes."""\n'
        '    return title.lower().replace(" ", "-")\n',
        'def slug(title):\n    """Return a title as one lower-case word with dashes; other characters are left out."""\n'
        '    words = "".join(c if c.isalnum() else " " for c in title.lower()).split()\n    return "-".join(words)\n',
        'assert slug("Two Words") == "two-words"',
        'assert slug("  Two,  Words! ") == "two-words"',
        "punctuation and repeated spaces",
    ),
    Feature(
        "text",
        "is_palindrome",
        'def is_palindrome(text):\n    """Say whether a text reads the same backwards."""\n    return text == text[::-1]\n',
        'def is_palindrome(text):\n    """Say whether a text reads the same backwards, letters only."""\n'
        "    letters = [c for c in text.lower() if c.isalnum()]\n    return letters == letters[::-1]\n",
        'assert is_palindrome("level")',
        'assert is_palindrome("Never odd or even")',
        "capitals and spaces",
    ),
    Feature(
        "numbers",
        "mean",
        'def mean(values):\n    """Return the arithmetic mean."""\n    return sum(values) / len(values)\n',
        'def mean(values):\n    """Return the arithmetic mean. Raises ValueError when there are no values."""\n'
        "    values = list(values)\n    if not values:\n"
        '        raise ValueError("mean of no values")\n    return sum(values) / len(values)\n',
        "assert mean([1, 2, 3]) == 2",
        "assert mean(iter([2, 4])) == 3",
        "iterators and empty input",
    ),
    Feature(
        "sequences",
        "chunks",
        'def chunks(items, size):\n    """Return the items in lists of `size`."""\n    out = []\n'
        "    for start in range(0, len(items) - size + 1, size):\n        out.append(items[start : start + size])\n"
        "    return out\n",
        'def chunks(items, size):\n    """Return the items in lists of `size`; the last one may be shorter."""\n'
        "    items = list(items)\n    return [items[start : start + size] for start in range(0, len(items), size)]\n",
        "assert chunks([1, 2, 3, 4], 2) == [[1, 2], [3, 4]]",
        "assert chunks([1, 2, 3], 2) == [[1, 2], [3]]",
        "the last, shorter chunk",
    ),
    Feature(
        "numbers",
        "median",
        'def median(values):\n    """Return the middle value."""\n    return sorted(values)[len(values) // 2]\n',
        'def median(values):\n    """Return the middle value, or the mean of the two middle ones."""\n'
        "    ordered = sorted(values)\n    half, odd = divmod(len(ordered), 2)\n    if odd:\n"
        "        return ordered[half]\n    return (ordered[half - 1] + ordered[half]) / 2\n",
        "assert median([3, 1, 2]) == 2",
        "assert median([4, 1, 3, 2]) == 2.5",
        "an even number of values",
    ),
    Feature(
        "records",
        "group_by",
        'def group_by(records, field):\n    """Return records by the value of a field."""\n    groups = {}\n'
        "    for record in records:\n        groups.setdefault(record[field], []).append(record)\n    return groups\n",
        'def group_by(records, field, default=None):\n    """Return records by the value of a field, or by `default`."""\n'
        "    groups = {}\n    for record in records:\n"
        "        groups.setdefault(record.get(field, default), []).append(record)\n    return groups\n",
        'assert group_by([{"a": 1}, {"a": 2}, {"a": 1}], "a") == {1: [{"a": 1}, {"a": 1}], 2: [{"a": 2}]}',
        'assert group_by([{"b": 1}], "a", "none") == {"none": [{"b": 1}]}',
        "records that lack the field",
    ),
    Feature(
        "sequences",
        "unique",
        'def unique(items):\n    """Return each item once."""\n    return sorted(set(items))\n',
        'def unique(items):\n    """Return each item once, in the order of first appearance."""\n'
        "    return list(dict.fromkeys(items))\n",
        "assert unique([1, 2, 1]) == [1, 2]",
        "assert unique([2, 1, 2]) == [2, 1]",
        "the order of items",
    ),
    Feature(
        "numbers",
        "primes_up_to",
        'def primes_up_to(limit):\n    """Return the primes below `limit`."""\n'
        "    return [n for n in range(2, limit) if all(n % d for d in range(2, n))]\n",
        'def primes_up_to(limit):\n    """Return the primes up to and including `limit`, by a sieve."""\n'
        "    sieve = [False, False] + [True] * (limit - 1)\n    for n in range(2, int(limit**0.5) + 1):\n"
        "        if sieve[n]:\n            for multiple in range(n * n, limit + 1, n):\n"
        "                sieve[multiple] = False\n    return [n for n in range(2, limit + 1) if sieve[n]]\n",
        "assert primes_up_to(10) == [2, 3, 5, 7]",
        "assert primes_up_to(11) == [2, 3, 5, 7, 11]",
        "a limit that is prime, and speed",
    ),
    Feature(
        "text",
        "count_words",
        'def count_words(text):\n    """Return how often each word occurs."""\n    counts = {}\n'
        "    for word in text.split():\n        counts[word] = counts.get(word, 0) + 1\n    return counts\n",
        'def count_words(text):\n    """Return how often each word occurs, without regard to case and punctuation."""\n'
        '    counts = {}\n    for word in text.lower().split():\n        word = word.strip(".,;:!?")\n        if word:\n'
        "            counts[word] = counts.get(word, 0) + 1\n    return counts\n",
        'assert count_words("a b a") == {"a": 2, "b": 1}',
        'assert count_words("One, two. ONE!") == {"one": 2, "two": 1}',
        "case and punctuation",
    ),
    Feature(
        "sequences",
        "flatten",
        'def flatten(nested):\n    """Return the items of all inner lists."""\n'
        "    return [item for inner in nested for item in inner]\n",
        'def flatten(nested):\n    """Return the items of nested lists, however deep."""\n    out = []\n'
        "    for item in nested:\n        if isinstance(item, (list, tuple)):\n            out.extend(flatten(item))\n"
        "        else:\n            out.append(item)\n    return out\n",
        "assert flatten([[1], [2, 3]]) == [1, 2, 3]",
        "assert flatten([1, [2, [3]]]) == [1, 2, 3]",
        "deeper nesting",
    ),
    Feature(
        "records",
        "parse_pairs",
        'def parse_pairs(text):\n    """Return {key: value} from lines of the form key=value."""\n'
        '    return dict(line.split("=") for line in text.splitlines())\n',
        'def parse_pairs(text):\n    """Return {key: value} from lines of the form key=value; blank lines and # notes are passed over."""\n'
        '    pairs = {}\n    for line in text.splitlines():\n        line = line.strip()\n        if line and not line.startswith("#"):\n'
        '            key, _, value = line.partition("=")\n            pairs[key.strip()] = value.strip()\n    return pairs\n',
        'assert parse_pairs("a=1\\nb=2") == {"a": "1", "b": "2"}',
        'assert parse_pairs("# note\\n\\na = b=c") == {"a": "b=c"}',
        "blank lines, notes and values with an equals sign",
    ),
    Feature(
        "numbers",
        "to_roman",
        'def to_roman(number):\n    """Return a number in Roman numerals."""\n    out = ""\n'
        '    for value, sign in ((10, "X"), (5, "V"), (1, "I")):\n        out += sign * (number // value)\n'
        "        number %= value\n    return out\n",
        'ROMAN = ((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"),\n'
        '         (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))\n\n\n'
        'def to_roman(number):\n    """Return a number from 1 to 3999 in Roman numerals."""\n    out = ""\n'
        "    for value, sign in ROMAN:\n        out += sign * (number // value)\n        number %= value\n    return out\n",
        'assert to_roman(16) == "XVI"',
        'assert to_roman(1994) == "MCMXCIV"',
        "subtractive forms and numbers over 39",
    ),
    Feature(
        "sequences",
        "run_lengths",
        'def run_lengths(items):\n    """Return (item, length) of each run of equal items."""\n    out = []\n    previous = None\n'
        "    for item in items:\n        if item == previous:\n            out[-1] = (item, out[-1][1] + 1)\n        else:\n"
        "            out.append((item, 1))\n        previous = item\n    return out\n",
        'def run_lengths(items):\n    """Return (item, length) of each run of equal items; None is an item like others."""\n    out = []\n'
        "    for item in items:\n        if out and out[-1][0] == item:\n            out[-1] = (item, out[-1][1] + 1)\n"
        "        else:\n            out.append((item, 1))\n    return out\n",
        'assert run_lengths("aab") == [("a", 2), ("b", 1)]',
        "assert run_lengths([None, None]) == [(None, 2)]",
        "a run of None at the start",
    ),
    Feature(
        "records",
        "top",
        'def top(counts, n):\n    """Return the `n` keys with the highest counts."""\n'
        "    return sorted(counts, key=counts.get, reverse=True)[:n]\n",
        'def top(counts, n):\n    """Return the `n` keys with the highest counts; equal counts in the order of keys."""\n'
        "    return sorted(counts, key=lambda key: (-counts[key], key))[:n]\n",
        'assert top({"a": 1, "b": 3}, 1) == ["b"]',
        'assert top({"b": 1, "a": 1}, 2) == ["a", "b"]',
        "ties",
    ),
)

_UNITS = ("metre", "yard", "mile", "league", "gram", "pound", "stone", "litre", "gallon", "barrel", "second", "minute")


def feature(number: int) -> Feature:
    """Return the project's feature of that number: the written ones first, then generated ones without end."""
    if number < len(WRITTEN):
        return WRITTEN[number]
    k = number - len(WRITTEN)
    source, target = _UNITS[k % len(_UNITS)], _UNITS[(k * 5 + 1) % len(_UNITS)]
    kind, factor = k % 3, 2 + (k * 37) % 89
    name = f"{('convert', 'total', 'largest')[kind]}_{source}_{target}_{k}"
    what = (
        f"Return {source}s as {target}s",
        f"Return the sum of {source}s in {target}s",
        f"Return the largest of some {source}s in {target}s",
    )[kind]
    argument = "amount" if kind == 0 else "amounts"
    first = (f"amount * {factor}", f"sum(amounts) * {factor}", f"max(amounts) * {factor}")[kind]
    check = "amount < 0" if kind == 0 else "any(amount < 0 for amount in amounts)"
    body = first if kind < 2 else f"max(amounts, default=0) * {factor}"
    good = "3" if kind == 0 else "[1, 3]"
    value = (3, 4, 3)[kind] * factor
    bad = "-1" if kind == 0 else "[-1]"
    return Feature(
        f"units_{k // 12:02d}",
        name,
        f'def {name}({argument}):\n    """{what}."""\n    return {first}\n',
        f'def {name}({argument}):\n    """{what}. Raises ValueError for negative amounts."""\n    if {check}:\n'
        f'        raise ValueError("negative amount of {source}s")\n    return {body}\n',
        f"assert {name}({good}) == {value}",
        f"try:\n        {name}({bad})\n    except ValueError:\n        return\n    raise AssertionError",
        "negative amounts",
    )
