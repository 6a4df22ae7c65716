"""Function calls that a model wrote as text, in Python, Java or JavaScript, as BFCL reads them in its prompting mode.

Python: a list `[name(key=value, ...), ...]`, brackets and backticks around it optional. Java and JavaScript: one call,
whose arguments are assignments; values stay source text. Positional arguments do not count. Arithmetic on numbers is
worked out here, where the official reader evaluates the model's text as code.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from codeflow.eval.function_calls import CallLanguage

if TYPE_CHECKING:
    import tree_sitter

Calls = list[dict[str, dict[str, Any]]]
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_LARGEST = 1 << 64  # beyond it arithmetic is not worked out: it could take for ever


def read_calls(text: str, language: CallLanguage) -> Calls:
    """Return the calls in an answer. Raises ValueError when it is not in the format."""
    text = text.strip("`\n ")
    text = text if text.startswith("[") else f"[{text}"
    text = text if text.endswith("]") else f"{text}]"
    try:
        return _python_calls(text) if language == "python" else _foreign_calls(text[1:-1], language)
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError, ArithmeticError) as error:
        raise ValueError(f"no function calls: {error}") from None


def _python_calls(text: str) -> Calls:
    body = ast.parse(text.strip().strip("'"), mode="eval").body
    elements = [body] if isinstance(body, ast.Call) else body.elts  # type: ignore[attr-defined]
    calls: Calls = []
    for element in elements:
        if not isinstance(element, ast.Call):
            raise ValueError("an element is no call")
        calls.append(_python_call(element))
    return calls


def _python_call(call: ast.Call) -> dict[str, dict[str, Any]]:
    names: list[str] = []
    part: ast.expr = call.func
    while isinstance(part, ast.Attribute):
        names.append(part.attr)
        part = part.value
    if isinstance(part, ast.Name):
        names.append(part.id)
    return {".".join(reversed(names)): {str(one.arg): _python_value(one.value) for one in call.keywords}}


def _python_value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return "..." if value is Ellipsis else value
        case ast.UnaryOp(operand=ast.Constant(value=value)):
            return -value  # whatever the sign is: the official reader looks no closer  # type: ignore[operator]
        case ast.List(elts=items):
            return [_python_value(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_python_value(item) for item in items)
        case ast.Dict(keys=keys, values=values):
            return {_python_value(k): _python_value(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.BinOp():
            return _arithmetic(node)
        case ast.Name(id=name):
            return name
        case ast.Call(keywords=[]) | ast.Subscript():
            return ast.unparse(node)
        case ast.Call():
            return _python_call(node)
    raise ValueError(f"{type(node).__name__} is no value")


def _arithmetic(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_arithmetic(inner)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _arithmetic(left), _arithmetic(right)
            if abs(base) > 1000 or abs(exponent) > 100:
                raise ValueError("arithmetic on large numbers")
            return base**exponent
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            one, other = _arithmetic(left), _arithmetic(right)
            if any(isinstance(value, int | float) and abs(value) > _LARGEST for value in (one, other)):
                raise ValueError("arithmetic on large numbers")
            if isinstance(op, ast.Mult) and (isinstance(one, str) or isinstance(other, str)):
                raise ValueError("a text times a number")
            return _ARITHMETIC[type(op)](one, other)
    raise ValueError("not arithmetic on numbers")


@functools.cache
def _parser(language: CallLanguage) -> tree_sitter.Parser:
    import tree_sitter
    from tree_sitter_language_pack import get_language

    return tree_sitter.Parser(get_language("java" if language == "java" else "javascript"))


def _foreign_calls(text: str, language: CallLanguage) -> Calls:
    root = _parser(language).parse(text.encode()).root_node
    if "ERROR" in str(root):
        raise ValueError("a syntax error")
    wanted = "method_invocation" if language == "java" else "call_expression"
    call = _first(root, wanted)
    arguments = call.child_by_field_name("arguments") if call else None
    if call is None or arguments is None:
        return []
    name = text.encode()[call.start_byte : arguments.start_byte].decode().strip()
    given: dict[str, Any] = {}
    for child in arguments.children:
        if child.type == "assignment_expression":
            key, value = _text(child.children[0]), child.children[2]
            if key in given:
                raise ValueError(f"argument '{key}' comes twice")
            given[key] = _java_value(value) if language == "java" else _javascript_value(_text(value))
    return [{name: given}]


def _first(node: tree_sitter.Node, kind: str) -> tree_sitter.Node | None:
    if node.type == kind:
        return node
    return next((found for child in node.children if (found := _first(child, kind))), None)


def _text(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode()


def _javascript_value(text: str) -> str:
    quoted = (text.startswith('"') and text.endswith('"')) or (text.startswith("'") and text.endswith("'"))
    return text[1:-1] if quoted else text


def _java_value(node: tree_sitter.Node, nested: bool = False) -> str:
    """Return a value's source without blanks between its parts; a text at the top also without its quotes."""
    if node.type in ("string_literal", "character_literal"):
        return _text(node) if nested else _text(node)[1:-1]
    if node.type in ("identifier", "class_literal", "type_identifier", "method_invocation") or not node.children:
        return _text(node)
    kind = node.child_by_field_name("type")
    if node.type == "array_creation_expression" and kind:
        value = node.child_by_field_name("value")
        return f"new {_java_value(kind, True)}[]{_java_value(value, True) if value else ''}"
    if node.type == "object_creation_expression" and kind:
        given = node.child_by_field_name("arguments")
        inside = [_java_value(child, True) for child in given.children if child.type not in "(,)"] if given else []
        return f"new {_java_value(kind, True)}({', '.join(inside)})"
    return "".join(_java_value(child, True) for child in node.children)
