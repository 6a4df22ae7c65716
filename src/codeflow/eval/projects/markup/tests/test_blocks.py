"""Documents to blocks, and the names of headings."""

import unittest

from markup.blocks import Block, heading_level, parse_blocks, text_block
from markup.outline import names, numbers, slug

TEXT = """= Guide =

First line
  goes on
== Use
- one
- two
  goes on
~~~ python
= no heading

x
~~~
last
~~~
open
"""


class Blocks(unittest.TestCase):
    """Lines to blocks."""

    def test_blocks(self):
        self.assertEqual(
            parse_blocks(TEXT),
            [
                Block("heading", ("Guide =",), 1),
                Block("paragraph", ("First line goes on",)),
                Block("heading", ("Use",), 2),
                Block("list", ("one", "two goes on")),
                Block("code", ("= no heading", "", "x")),
                Block("paragraph", ("last",)),
                Block("code", ("open",)),
            ],
        )
        self.assertEqual(parse_blocks("\n \n"), [])

    def test_heading_level(self):
        for line, level in (
            ("= a", 1),
            ("====== a", 6),
            ("======= a", 0),
            ("=a", 0),
            ("== ", 0),
            ("a = b", 0),
            ("", 0),
        ):
            self.assertEqual(heading_level(line), level, line)

    def test_text_block(self):
        self.assertEqual(text_block(["a ", " - b"]), Block("paragraph", ("a - b",)))
        self.assertEqual(text_block(["- a", "b", "-c", "- d "]), Block("list", ("a b -c", "d")))


class Outline(unittest.TestCase):
    """Names and numbers of headings."""

    def headings(self, *titles):
        return [Block("heading", (title.lstrip("="),), max(title.count("="), 1)) for title in titles]

    def test_slug(self):
        for title, name in (
            ("Hello, World!", "hello-world"),
            ("It's 2 late", "its-2-late"),
            ("?!", "section"),
            ("Été", "été"),
        ):
            self.assertEqual(slug(title), name)

    def test_names(self):
        blocks = self.headings("A", "a", "A 2", "a!", "b")
        blocks.insert(1, Block("paragraph", ("a",)))
        self.assertEqual(names(blocks), ["a", "a-2", "a-2-2", "a-3", "b"])

    def test_numbers(self):
        blocks = self.headings("=a", "==b", "==c", "=d", "===e", "==f")
        blocks.insert(2, Block("paragraph", ("a",)))
        self.assertEqual(numbers(blocks), ["1", "1.1", "1.2", "2", "2.1.1", "2.2"])
