"""One table of languages for everyone: extensions, comment syntax, grammar and its node names.

Names are those of GitHub Linguist (so enry's), grammars those of tree-sitter-language-pack.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Language:
    """What the project knows of a language. Empty tuples mean that there is no such thing."""

    name: str
    domain: str  # "code", "general" (prose, documentation) or "data" (markup, configuration)
    extensions: tuple[str, ...]
    line_comment: str = ""
    block_comment: tuple[str, ...] = ()  # opening, closing
    grammar: str = ""
    functions: tuple[str, ...] = ()  # named node types of functions and methods; a keyword may share the name ("class")
    classes: tuple[str, ...] = ()
    comments: tuple[str, ...] = ("comment",)
    doc_marks: tuple[str, ...] = ()  # openings of comments that document; () where those right above a declaration do
    documented: tuple[str, ...] = ()  # named node types, besides functions and classes, that such comments belong to


_C_BLOCK = ("/*", "*/")
_DOC_BLOCK = ("/**",)
_DOXYGEN = ("/**", "/*!", "///", "//!")
_JS_FUNCTIONS = (
    "function_declaration",
    "function_expression",
    "generator_function_declaration",
    "generator_function",
    "method_definition",
    "arrow_function",
)
_JS_COMMENTS = ("comment", "html_comment")
_TS_CLASSES = ("class_declaration", "abstract_class_declaration", "interface_declaration", "enum_declaration")

LANGUAGES: tuple[Language, ...] = (
    Language("Python", "code", (".py", ".pyi"), "#", (), "python", ("function_definition",), ("class_definition",)),
    Language(
        "JavaScript",
        "code",
        (".js", ".mjs", ".cjs", ".jsx"),
        "//",
        _C_BLOCK,
        "javascript",
        _JS_FUNCTIONS,
        ("class_declaration",),
        _JS_COMMENTS,
        doc_marks=_DOC_BLOCK,
    ),
    Language(
        "TypeScript",
        "code",
        (".ts", ".mts", ".cts"),
        "//",
        _C_BLOCK,
        "typescript",
        _JS_FUNCTIONS,
        _TS_CLASSES,
        _JS_COMMENTS,
        doc_marks=_DOC_BLOCK,
    ),
    Language(
        "TSX", "code", (".tsx",), "//", _C_BLOCK, "tsx", _JS_FUNCTIONS, _TS_CLASSES, _JS_COMMENTS, doc_marks=_DOC_BLOCK
    ),
    Language(
        "Java",
        "code",
        (".java",),
        "//",
        _C_BLOCK,
        "java",
        ("method_declaration", "constructor_declaration", "compact_constructor_declaration"),
        ("class_declaration", "interface_declaration", "enum_declaration", "record_declaration"),
        ("line_comment", "block_comment"),
        doc_marks=_DOC_BLOCK,
    ),
    Language(
        "C#",
        "code",
        (".cs",),
        "//",
        _C_BLOCK,
        "csharp",
        ("method_declaration", "constructor_declaration", "destructor_declaration", "local_function_statement"),
        (
            "class_declaration",
            "struct_declaration",
            "interface_declaration",
            "record_declaration",
            "enum_declaration",
        ),
        doc_marks=("///", "/**"),
    ),
    Language(
        "Go",
        "code",
        (".go",),
        "//",
        _C_BLOCK,
        "go",
        ("function_declaration", "method_declaration"),
        ("type_declaration",),
        documented=("package_clause", "const_declaration", "var_declaration"),
    ),
    Language(
        "Rust",
        "code",
        (".rs",),
        "//",
        _C_BLOCK,
        "rust",
        ("function_item",),
        ("struct_item", "impl_item", "trait_item", "enum_item", "union_item"),
        ("line_comment", "block_comment"),
        doc_marks=_DOXYGEN,
    ),
    Language(
        "C",
        "code",
        (".c", ".h"),
        "//",
        _C_BLOCK,
        "c",
        ("function_definition",),
        ("struct_specifier",),
        doc_marks=_DOXYGEN,
    ),
    Language(
        "C++",
        "code",
        (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx"),
        "//",
        _C_BLOCK,
        "cpp",
        ("function_definition",),
        ("class_specifier", "struct_specifier"),
        doc_marks=_DOXYGEN,
    ),
    Language(
        "PHP",
        "code",
        (".php",),
        "//",
        _C_BLOCK,
        "php",
        ("function_definition", "method_declaration"),
        ("class_declaration", "interface_declaration", "trait_declaration", "enum_declaration"),
        doc_marks=_DOC_BLOCK,
    ),
    Language(
        "Ruby", "code", (".rb",), "#", ("=begin", "=end"), "ruby", ("method", "singleton_method"), ("class", "module")
    ),
    Language(
        "Kotlin",
        "code",
        (".kt", ".kts"),
        "//",
        _C_BLOCK,
        "kotlin",
        ("function_declaration", "secondary_constructor", "anonymous_function"),
        ("class_declaration", "object_declaration"),
        ("line_comment", "multiline_comment"),
        doc_marks=_DOC_BLOCK,
    ),
    Language(
        "Scala",
        "code",
        (".scala",),
        "//",
        _C_BLOCK,
        "scala",
        ("function_definition",),
        ("class_definition", "object_definition", "trait_definition", "enum_definition"),
        ("comment", "block_comment"),
        doc_marks=_DOC_BLOCK,
    ),
    Language("Shell", "code", (".sh", ".bash"), "#", (), "bash", ("function_definition",)),
    Language(
        "SQL",
        "code",
        (".sql",),
        "--",
        _C_BLOCK,
        "sql",
        ("create_function",),
        ("create_table",),
        ("comment", "marginalia"),
    ),
    Language("Cython", "code", (".pyx", ".pxd"), "#"),
    Language(
        "Fortran",
        "code",
        (".f", ".f90", ".for"),
        "!",
        (),
        "fortran",
        ("function", "subroutine"),
        ("module", "derived_type_definition"),
    ),
    Language(
        "Cuda",
        "code",
        (".cu", ".cuh"),
        "//",
        _C_BLOCK,
        "cuda",
        ("function_definition",),
        ("class_specifier", "struct_specifier"),
        doc_marks=_DOXYGEN,
    ),
    Language("Markdown", "general", (".md", ".markdown")),
    Language("reStructuredText", "general", (".rst",)),
    Language("Text", "general", (".txt",)),
    Language("HTML", "data", (".html", ".htm")),
    Language("CSS", "data", (".css",), "", _C_BLOCK),
    Language("JSON", "data", (".json",)),
    Language("YAML", "data", (".yaml", ".yml"), "#"),
    Language("TOML", "data", (".toml",), "#"),
    Language("XML", "data", (".xml",), "", ("<!--", "-->")),
    Language("CSV", "data", (".csv",)),
)

BY_NAME = {language.name: language for language in LANGUAGES}
BY_EXTENSION = {extension: language for language in LANGUAGES for extension in language.extensions}


def domain_of(name: str) -> str:
    """Return "code", "general" or "data" for a language name; unknown languages are data."""
    return BY_NAME[name].domain if name in BY_NAME else "data"
