"""Marks inside a paragraph."""

import unittest

from markup.inline import closing, escape, is_safe, render


class Inline(unittest.TestCase):
    """Text to HTML."""

    def test_escape(self):
        self.assertEqual(escape('a < b & "c" > d'), "a &lt; b &amp; &quot;c&quot; &gt; d")

    def test_is_safe(self):
        for address in ("https://a.b", "HTTP://a", "mailto:a@b", "page.html", "#x", "a/b:c", ""):
            self.assertTrue(is_safe(address), address)
        for address in ("javascript:x", "DATA:text", "file:///x"):
            self.assertFalse(is_safe(address), address)

    def test_marks(self):
        for text, html in (
            ("a *b _c_* d", "a <strong>b <em>c</em></strong> d"),
            ("`x *y* < z`", "<code>x *y* &lt; z</code>"),
            ("2 * 3", "2 * 3"),
            ("**", "**"),
            ("a\\*b\\* <\\\\", "a*b* &lt;\\"),
            ("end\\", "end\\"),
            ("*a\\*b*", "<strong>a*b</strong>"),
        ):
            self.assertEqual(render(text), html, text)

    def test_links(self):
        self.assertEqual(render("[a *b*](x?y=1&z=2)!"), '<a href="x?y=1&amp;z=2">a <strong>b</strong></a>!')
        self.assertEqual(render("[a](javascript:b)"), "[a](javascript:b)")
        self.assertEqual(render("[a] (b)"), "[a] (b)")

    def test_closing(self):
        for text, stop in (("*a*", 2), ("**", None), ("*a\\*b*", 5), ("*a\\", None), ("_a*_", 3)):
            self.assertEqual(closing(text, 0), stop, text)
