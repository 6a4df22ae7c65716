from __future__ import annotations

import pytest

from codeflow.eval.call_text import read_calls


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("[f(x=1)]", [{"f": {"x": 1}}]),
        ("```a.b.f(x=-1.5, y='t'), g()```", [{"a.b.f": {"x": -1.5, "y": "t"}}, {"g": {}}]),
        ("[f(x=[1, (2, 3)], d={'k': True})]", [{"f": {"x": [1, (2, 3)], "d": {"k": True}}}]),
        ("[f(x=2 * 3 + 1, y=2 ** 10)]", [{"f": {"x": 7, "y": 1024}}]),
        ("[f(x=g(1), y=g(a=1), z=name)]", [{"f": {"x": "g(1)", "y": {"g": {"a": 1}}, "z": "name"}}]),
        ("[]", []),
    ],
)
def test_python(text: str, calls: list) -> None:
    assert read_calls(text, "python") == calls


@pytest.mark.parametrize(
    "text",
    [
        "I cannot help with that.",
        "[f(x=",
        "[1, 2]",
        "[f(x=9**9**9**9)]",
        "[f(x='a' * 10**9)]",
        "[f(x=__import__('os').system('true') + 1)]",  # officially evaluated as code
    ],
)
def test_what_is_no_call(text: str) -> None:
    with pytest.raises(ValueError, match="no function calls"):
        read_calls(text, "python")


def test_java_and_javascript_values_stay_source() -> None:
    java = 'A.f(x=12L, s="t", m=new HashMap<String, Integer>(), a=new int[]{1, 2})'
    assert read_calls(java, "java") == [
        {"A.f": {"x": "12L", "s": "t", "m": "new HashMap<String,Integer>()", "a": "new int[]{1,2}"}}
    ]
    assert read_calls("f(x=[1, 2], s='t', o={k: 1})", "javascript") == [{"f": {"x": "[1, 2]", "s": "t", "o": "{k: 1}"}}]
    with pytest.raises(ValueError, match="twice"):
        read_calls("f(x=1, x=2)", "javascript")
