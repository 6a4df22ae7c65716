"""All families of micro-tasks, in the order in which tasks take turns."""

from __future__ import annotations

from codeflow.synth.families.numbers import ARITHMETIC, BITS, NUMBER_THEORY
from codeflow.synth.families.sequences import COUNTING, INTERVALS, LISTS, MAPPING, SORTING
from codeflow.synth.families.tables import DICTIONARIES, GRIDS
from codeflow.synth.families.texts import MACHINES, PARSING, STRINGS, WORDS
from codeflow.synth.primitive import Family

FAMILIES: tuple[Family, ...] = (
    ARITHMETIC,
    STRINGS,
    LISTS,
    SORTING,
    INTERVALS,
    BITS,
    MACHINES,
    COUNTING,
    DICTIONARIES,
    NUMBER_THEORY,
    GRIDS,
    PARSING,
    MAPPING,
    WORDS,
)
