"""Which syntax nodes are a statement, an expression, a block or an argument list, by language.

Functions, classes and comments stand in `core/languages.py`. Names are those of the grammars in
tree-sitter-language-pack; a test checks that every name exists in its grammar and is found in a small program. Bare
identifiers and single literals are left out of the expressions: a middle of one word teaches little that the line
levels do not. Shell has no node for an argument list: there the run of a command's arguments is one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from codeflow.core.languages import BY_NAME

LEVELS = ("function", "class", "block", "statement", "expression", "arguments", "comment")


@dataclass(frozen=True, slots=True)
class NodeTable:
    """Node types by level. Where statements are expressions, `statement_parents` names the nodes whose children are.

    Functions and classes among these children are no statements: they have levels of their own.
    """

    statements: tuple[str, ...] = ()
    statement_parents: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    argument_parents: tuple[str, ...] = ()  # whose children in the field "argument" are a list without a node


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_JAVASCRIPT = NodeTable(
    statements=_names(
        "expression_statement lexical_declaration variable_declaration return_statement if_statement for_statement "
        "for_in_statement while_statement do_statement switch_statement throw_statement try_statement "
        "import_statement"
    ),
    expressions=_names(
        "assignment_expression augmented_assignment_expression await_expression binary_expression call_expression "
        "member_expression subscript_expression new_expression ternary_expression unary_expression update_expression "
        "object array template_string arrow_function function_expression parenthesized_expression yield_expression"
    ),
    blocks=("statement_block",),
    arguments=("arguments",),
)
_TYPESCRIPT = NodeTable(
    statements=(*_JAVASCRIPT.statements, "type_alias_declaration"),
    expressions=(*_JAVASCRIPT.expressions, "as_expression", "non_null_expression", "satisfies_expression"),
    blocks=_JAVASCRIPT.blocks,
    arguments=_JAVASCRIPT.arguments,
)
_C = NodeTable(
    statements=_names(
        "expression_statement declaration return_statement if_statement for_statement while_statement do_statement "
        "switch_statement goto_statement"
    ),
    expressions=_names(
        "assignment_expression binary_expression call_expression field_expression subscript_expression "
        "conditional_expression cast_expression unary_expression pointer_expression update_expression "
        "sizeof_expression parenthesized_expression initializer_list compound_literal_expression"
    ),
    blocks=("compound_statement",),
    arguments=("argument_list",),
)

TABLES: dict[str, NodeTable] = {
    "Python": NodeTable(
        statement_parents=("block", "module"),
        expressions=_names(
            "call attribute subscript binary_operator boolean_operator comparison_operator not_operator "
            "unary_operator conditional_expression lambda await list_comprehension dictionary_comprehension "
            "set_comprehension generator_expression list dictionary tuple set parenthesized_expression "
            "named_expression"
        ),
        blocks=("block",),
        arguments=("argument_list",),
    ),
    "JavaScript": _JAVASCRIPT,
    "TypeScript": _TYPESCRIPT,
    "TSX": _TYPESCRIPT,
    "Java": NodeTable(
        statements=_names(
            "expression_statement local_variable_declaration return_statement if_statement for_statement "
            "enhanced_for_statement while_statement do_statement switch_expression throw_statement try_statement "
            "try_with_resources_statement synchronized_statement assert_statement yield_statement"
        ),
        expressions=_names(
            "assignment_expression binary_expression method_invocation field_access array_access "
            "object_creation_expression array_creation_expression ternary_expression cast_expression "
            "instanceof_expression lambda_expression unary_expression update_expression parenthesized_expression "
            "method_reference"
        ),
        blocks=("block", "constructor_body"),
        arguments=("argument_list",),
    ),
    "C#": NodeTable(
        statements=_names(
            "expression_statement local_declaration_statement return_statement if_statement for_statement "
            "foreach_statement while_statement do_statement switch_statement throw_statement try_statement "
            "using_statement lock_statement yield_statement"
        ),
        expressions=_names(
            "assignment_expression binary_expression invocation_expression member_access_expression "
            "element_access_expression object_creation_expression implicit_object_creation_expression "
            "array_creation_expression conditional_expression cast_expression lambda_expression await_expression "
            "prefix_unary_expression postfix_unary_expression parenthesized_expression switch_expression "
            "interpolated_string_expression is_pattern_expression as_expression initializer_expression"
        ),
        blocks=("block",),
        arguments=("argument_list",),
    ),
    "Go": NodeTable(
        statements=_names(
            "expression_statement short_var_declaration assignment_statement var_declaration const_declaration "
            "return_statement if_statement for_statement expression_switch_statement type_switch_statement "
            "select_statement defer_statement go_statement inc_statement dec_statement send_statement"
        ),
        expressions=_names(
            "binary_expression call_expression selector_expression index_expression slice_expression "
            "composite_literal func_literal unary_expression parenthesized_expression type_assertion_expression "
            "type_conversion_expression"
        ),
        blocks=("block",),
        arguments=("argument_list",),
    ),
    "Rust": NodeTable(
        statements=_names("expression_statement let_declaration use_declaration"),
        statement_parents=("block",),
        expressions=_names(
            "assignment_expression compound_assignment_expr binary_expression call_expression field_expression "
            "index_expression macro_invocation match_expression if_expression closure_expression await_expression "
            "reference_expression unary_expression range_expression struct_expression tuple_expression "
            "array_expression try_expression type_cast_expression return_expression parenthesized_expression"
        ),
        blocks=("block",),
        arguments=("arguments",),
    ),
    "C": _C,
    "C++": NodeTable(
        statements=(*_C.statements, "for_range_loop", "try_statement", "throw_statement", "using_declaration"),
        expressions=(*_C.expressions, "lambda_expression", "new_expression", "delete_expression"),
        blocks=_C.blocks,
        arguments=_C.arguments,
    ),
    "PHP": NodeTable(
        statements=_names(
            "expression_statement echo_statement return_statement if_statement for_statement foreach_statement "
            "while_statement do_statement switch_statement try_statement unset_statement"
        ),
        expressions=_names(
            "assignment_expression augmented_assignment_expression binary_expression function_call_expression "
            "member_call_expression member_access_expression scoped_call_expression subscript_expression "
            "object_creation_expression array_creation_expression conditional_expression cast_expression "
            "unary_op_expression update_expression anonymous_function arrow_function match_expression "
            "parenthesized_expression throw_expression"
        ),
        blocks=("compound_statement",),
        arguments=("arguments",),
    ),
    "Ruby": NodeTable(
        statement_parents=_names("body_statement block_body then do program"),
        expressions=_names(
            "assignment operator_assignment binary call element_reference conditional unary array hash lambda "
            "parenthesized_statements string_array range"
        ),
        blocks=("body_statement", "block_body", "then"),
        arguments=("argument_list",),
    ),
    "Kotlin": NodeTable(
        statement_parents=("statements", "control_structure_body"),
        expressions=_names(
            "additive_expression multiplicative_expression comparison_expression equality_expression "
            "conjunction_expression disjunction_expression call_expression navigation_expression indexing_expression "
            "elvis_expression infix_expression range_expression if_expression when_expression lambda_literal "
            "as_expression check_expression prefix_expression postfix_expression parenthesized_expression "
            "try_expression object_literal"
        ),
        blocks=("statements", "function_body"),
        arguments=("value_arguments",),
    ),
    "Scala": NodeTable(
        statements=_names("val_definition var_definition import_declaration"),
        statement_parents=("block", "indented_block"),
        expressions=_names(
            "call_expression infix_expression field_expression if_expression match_expression for_expression "
            "lambda_expression assignment_expression instance_expression tuple_expression generic_function "
            "parenthesized_expression prefix_expression postfix_expression interpolated_string_expression "
            "throw_expression try_expression"
        ),
        blocks=("block", "indented_block", "template_body"),
        arguments=("arguments",),
    ),
    "Shell": NodeTable(
        statements=_names(
            "command pipeline list if_statement for_statement c_style_for_statement while_statement case_statement "
            "variable_assignment declaration_command redirected_statement negated_command test_command unset_command"
        ),
        expressions=_names(
            "command_substitution binary_expression unary_expression expansion arithmetic_expansion string "
            "concatenation parenthesized_expression array process_substitution"
        ),
        blocks=("compound_statement", "do_group"),
        argument_parents=("command",),
    ),
    "SQL": NodeTable(
        statements=("statement",),
        expressions=_names(
            "binary_expression between_expression invocation subquery case list parenthesized_expression "
            "unary_expression"
        ),
        blocks=("block",),
        arguments=("function_arguments", "column_definitions"),
    ),
}


@functools.cache
def types_of(language: str, level: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the node types of a level and the types of parents all of whose children belong to it.

    Both are empty for a language without a table, a level that the language does not have, and the level "comment",
    whose nodes are told by what stands before them.
    """
    assert level in LEVELS, level
    empty: frozenset[str] = frozenset()
    table = TABLES.get(language)
    if table is None:
        return empty, empty
    if level == "statement":
        return frozenset(table.statements), frozenset(table.statement_parents)
    own = {
        "function": BY_NAME[language].functions,
        "class": BY_NAME[language].classes,
        "block": table.blocks,
        "expression": table.expressions,
        "arguments": table.arguments,
        "comment": (),
    }
    return frozenset(own[level]), empty


@functools.cache
def apart_of(language: str) -> frozenset[str]:
    """Return the types that are never statements though they stand among them: definitions and comments."""
    known = BY_NAME[language]
    return frozenset((*known.functions, *known.classes, *known.comments, "decorated_definition"))
