"""Primitives, the units that micro-tasks are composed of, and families, which share a kind of input.

A primitive is one small thing to do to a value: words for the prompt, an expression for the gold solution, and an
oracle. The oracle is trusted code that computes the same in another, slower way; expected values come from it alone.
A primitive that gives back the family's own kind of value may stand anywhere in a composition, others only at its end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Oracle = Callable[[Any, Any], Any]  # (value, parameter or None) -> value


@dataclass(frozen=True, slots=True, eq=False)
class Primitive:
    """`{k}` in phrases and code stands for the parameter, one of `parameters` (none: there is no parameter)."""

    name: str
    phrases: tuple[str, ...]  # what to do ("sort the list"), or, for the end, what to return ("the sum of the list")
    code: str  # an expression; lines before the last are statements that prepare it
    oracle: Oracle
    parameters: tuple[Any, ...] = ()
    ends: bool = False  # gives another kind of value: only at the end of a composition


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Primitives over one kind of input. Compared and hashed by identity: there is one of each."""

    name: str
    variable: str  # the argument's name in every solution
    takes: str  # "a list of integers"
    draw: Callable[[random.Random], Any]
    primitives: tuple[Primitive, ...]

    def __getitem__(self, name: str) -> Primitive:
        return next(p for p in self.primitives if p.name == name)


@dataclass(frozen=True, slots=True)
class Step:
    """A primitive with its parameter."""

    primitive: Primitive
    parameter: Any = None

    @property
    def code(self) -> str:
        """The primitive's code with the parameter in it."""
        return self.primitive.code.replace("{k}", _literal(self.parameter))

    def phrase(self, source: random.Random) -> str:
        """Return one of the primitive's phrases with the parameter in it."""
        return source.choice(self.primitive.phrases).replace("{k}", _literal(self.parameter))


def _literal(parameter: Any) -> str:
    return f'"{parameter}"' if isinstance(parameter, str) else repr(parameter)  # strings as in all solutions


def with_parameters(primitives: Sequence[Primitive], source: random.Random) -> tuple[Step, ...]:
    """Choose each primitive's parameter."""
    return tuple(Step(p, source.choice(p.parameters) if p.parameters else None) for p in primitives)


def gold_solution(function: str, variable: str, steps: Sequence[Step]) -> str:
    """Return the program that the model shall learn to write: one assignment per step, the last one returned."""
    lines = [f"def {function}({variable}):"]
    for number, step in enumerate(steps, 1):
        *before, value = step.code.splitlines()
        lines += [f"    {line}" for line in before]
        if number == len(steps):
            lines.append(f"    return {value}")
        elif value != variable:
            lines.append(f"    {variable} = {value}")
    return "\n".join(lines) + "\n"


def expected_value(steps: Sequence[Step], value: Any) -> Any:
    """Return what the oracles say of `value`."""
    for step in steps:
        value = step.primitive.oracle(value, step.parameter)
    return value


def step(name: str, phrases: str, code: str, oracle: Oracle, parameters: Sequence[Any] = ()) -> Primitive:
    """Declare a primitive that gives back the family's own kind of value; phrases are separated by `|`."""
    return Primitive(name, tuple(phrases.split("|")), code, oracle, tuple(parameters))


def end(name: str, phrases: str, code: str, oracle: Oracle, parameters: Sequence[Any] = ()) -> Primitive:
    """Declare a primitive that gives another kind of value; phrases are separated by `|`."""
    return Primitive(name, tuple(phrases.split("|")), code, oracle, tuple(parameters), ends=True)
