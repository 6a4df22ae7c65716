from __future__ import annotations

import pytest

from codeflow.sandbox.local import probe
from codeflow.synth.trace import Program, TraceConfig, trace

pytestmark = pytest.mark.skipif(not probe().backend, reason=probe().problem or "sandbox works")

CASES = {
    Program("def f(xs):\n    xs = sorted(xs)\n    return [x for x in xs][::2]\n", "f([3, 1, 2])"): (
        "f([3, 1, 2])\nxs = sorted(xs) -> xs = [1, 2, 3]\nreturn [x for x in xs][::2] -> [1, 3]"
    ),
    Program("n = 2\nwhile n > 1:\n    n -= 1\nprint(n)\n"): (
        "n = 2 -> n = 2\nwhile n > 1: -> True\nn -= 1 -> n = 1\nwhile n > 1: -> False\nprint(n) -> prints 1"
    ),
    Program("for c in 'aa':\n    if c == 'b':\n        pass\n    else:\n        print(c, 1)\n"): (
        "for c in 'aa': -> c = 'a'\nif c == 'b': -> False\nprint(c, 1) -> prints a 1\n"
        "for c in 'aa': -> c = 'a'\nif c == 'b': -> False\nprint(c, 1) -> prints a 1\nfor c in 'aa': -> end"
    ),
    Program("def f(a):\n    return a + 1\nn = f(f(1))\nprint(n)\n"): (
        "return a + 1 -> 2\nreturn a + 1 -> 3\nn = f(f(1)) -> n = 3\nprint(n) -> prints 3"
    ),
    Program("def f(x):\n    x = abs(x)\n    return x\n", "f(4)"): "f(4)\nx = abs(x) -> x = 4\nreturn x -> 4",
}
REFUSED = {
    Program("while True:\n    x = 1\n"): "too many steps",
    Program("x = 'a' * 1000\n"): "value too long",
    Program("x = 1 // 0\n"): "raises ZeroDivisionError",
    Program("\n".join(f"x{n} = '{'a' * 60}'" for n in range(8))): "trace too long",
}


def test_traces_show_what_the_execution_did():
    found = trace([*CASES, *REFUSED], TraceConfig())
    assert [traced.text for traced in found[: len(CASES)]] == list(CASES.values())
    assert [traced.reason for traced in found[len(CASES) :]] == list(REFUSED.values())
    assert found[0].value == "[1, 3]"
    assert found[2].printed == ("a 1", "a 1")
