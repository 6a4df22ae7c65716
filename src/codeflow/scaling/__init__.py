"""Multilingual scaling law: from a table of runs to a law with intervals, and from the law to a mixture and a size."""
