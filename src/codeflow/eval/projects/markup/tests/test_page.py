"""Whole pages."""

import unittest

from markup.blocks import parse_blocks
from markup.page import contents, to_html, without_tags, word_count

TEXT = """= A *b*
Some _text_ & more
- x
- `y`
== A b
~~~
if a < b:
    pass
~~~
=== Deep
"""


class Pages(unittest.TestCase):
    """HTML, contents, words."""

    def test_to_html(self):
        self.assertEqual(
            to_html(TEXT).split("\n"),
            [
                '<h1 id="a-b">A <strong>b</strong></h1>',
                "<p>Some <em>text</em> &amp; more - x - <code>y</code></p>",
                '<h2 id="a-b-2">A b</h2>',
                "<pre>if a &lt; b:",
                "    pass",
                "</pre>",
                '<h3 id="deep">Deep</h3>',
            ],
        )
        self.assertEqual(to_html("- a\n- b"), "<ul><li>a</li><li>b</li></ul>")
        self.assertEqual(to_html(""), "")

    def test_contents(self):
        blocks = parse_blocks(TEXT)
        two = '1 <a href="#a-b">A <strong>b</strong></a>\n  1.1 <a href="#a-b-2">A b</a>'
        self.assertEqual(contents(blocks), two)
        self.assertEqual(contents(blocks, 3), two + '\n    1.1.1 <a href="#deep">Deep</a>')
        self.assertEqual(contents([]), "")

    def test_word_count(self):
        self.assertEqual(word_count("= One two\n\nsee [the page](a/b c) *now*\n~~~\nnot this\n~~~\n"), 7)
        self.assertEqual(word_count("see [the page](far/away) *now*"), 4)

    def test_without_tags(self):
        self.assertEqual(without_tags('<p a="b">x <b>y</b></p>'), "x y")
