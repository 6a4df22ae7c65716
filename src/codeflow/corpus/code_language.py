"""The programming language of a piece of code without a file name: what markup says, else distinctive signs.

Names are those of `core/languages.py`. A guess needs several distinctive signs and a clear lead, otherwise there is
none: a wrong label is worse than a missing one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from codeflow.core.languages import BY_NAME

_ALIASES = {
    "Python": "py py3 python2 python3 ipython ipython3 pycon py3tb sage python-repl",
    "JavaScript": "js jsx node nodejs mjs es6 ecmascript jscript",
    "TypeScript": "ts",
    "Java": "java8 java11",
    "C#": "csharp cs c-sharp",
    "Go": "golang",
    "Rust": "rs",
    "C": "ansi-c",
    "C++": "cpp cxx cplusplus c-plus-plus",
    "PHP": "php5 php7",
    "Ruby": "rb irb",
    "Kotlin": "kt kts",
    "Shell": "sh bash zsh shell-session console shellscript bash-session",
    "SQL": "mysql postgresql postgres plpgsql psql tsql sqlite plsql",
    "Cython": "pyx",
    "Fortran": "f90 f95",
    "HTML": "html5 xhtml htm html-basic",
    "JSON": "json5 jsonc",
    "YAML": "yml",
    "XML": "xsd xslt",
    "Markdown": "md",
    "reStructuredText": "rst rest",
    "Text": "plaintext plain txt nohighlight no-highlight output none",
}
_BY_ALIAS = {alias: name for name, aliases in _ALIASES.items() for alias in (name.lower(), *aliases.split())} | {
    name.lower(): name for name in BY_NAME
}
_PREFIX = re.compile(r"^(?:language|lang|highlight(?:-source|-text)?|brush|code|sourcecode|src)[-_:]+")
_GUESS_CHARACTERS = 4_000
_MIN_SCORE = 3
_LEAD = 2.0  # times the runner-up's score

# (pattern, weight, words of which each match holds one, told apart by |) by language; a pattern counts once per line it
# matches in, at most _MAX_LINES times. Letter case does not count in SQL, whose words are written small.
_MAX_LINES = 3
_SIGNS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Python": (
        (r"^\s*(?:async )?def \w+\(.*\)(?: *->.+)?:\s*(?:#.*)?$", 3, "def "),
        (r"^\s*class \w+(?:\([\w., =]*\))?:\s*$", 3, "class "),
        (r"^(?:from [\w.]+ )?import [\w., *()]+(?: as \w+)?\s*$", 2, "import "),
        (r"^\s*(?:if|elif|for|while|with|try|except|else|finally)\b[^{;]*:\s*(?:#.*)?$", 2, ":"),
        (
            r"^\s*(?:print\(|self\.\w+|raise \w+|@\w+|return (?:None|True|False|self)\b)",
            1,
            "print(|self.|raise |@|return ",
        ),
        (r"^>>> ", 3, ">>> "),
    ),
    "JavaScript": (
        (r"\b(?:const|let) (?:\w+|[{\[][\w, ]+[}\]]) = ", 2, "const |let "),
        (r"(?:^|[=(,] ?)function ?\w* ?\(", 2, "function"),
        (r"=> ?[{(\w]", 1, "=>"),
        (
            r"\b(?:console\.\w+\(|document\.|window\.|require\(['\"]|module\.exports|addEventListener)",
            3,
            "console.|document.|window.|require(|module.exports|addEventListener",
        ),
        (r"^\s*(?:export default|import .+ from ['\"])", 2, "export default|import "),
        (r"^\s*var \w+ = .*;?\s*$", 1, "var "),
        (r"===|!==", 1, "===|!=="),
    ),
    "TypeScript": (
        (r"^\s*(?:export )?(?:interface|type) \w+(?:<[\w, ]+>)? ?[={]", 3, "interface |type "),
        (
            r"\b(?:const|let|readonly|private|public) \w+\??: (?:string|number|boolean|\w+\[\]|any|void)\b",
            4,
            "const |let |readonly |private |public ",
        ),
        (r"\(\w+\??: \w+(?:<.*>|\[\])?(?:, \w+\??: .+)*\)(?:: \w+.*)? ?(?:=>|\{)", 3, ": "),
    ),
    "Java": (
        (r"^\s*public (?:static |final |abstract )*(?:class|interface|enum|record) \w+", 3, "public "),
        (
            r"^\s*(?:public|private|protected) (?:static |final |synchronized )*[\w<>\[\], ]+ \w+\(.*\)",
            2,
            "public |private |protected ",
        ),
        (r"^\s*import (?:static )?(?:java|javax|org|com)\.[\w.]+(?:\.\*)?;", 4, "import "),
        (r"\bSystem\.(?:out|err)\.print|\bnew (?:ArrayList|HashMap|Scanner)\b|@Override", 3, "System.|new |@Override"),
        (r"^package [\w.]+;", 3, "package "),
    ),
    "C#": (
        (r"^\s*using (?:System|Microsoft)[\w.]*;", 4, "using "),
        (r"^\s*namespace [\w.]+\s*[;{]?\s*$", 2, "namespace "),
        (
            r"\bConsole\.(?:Write|Read)|\{ get; (?:private )?set; \}|\bstring\.\w+\(|\bIEnumerable<",
            3,
            "Console.|{ get; |string.|IEnumerable<",
        ),
        (
            r"^\s*(?:public|private|internal) (?:static |async |override )*(?:class|void|string|int|Task)\b",
            2,
            "public |private |internal ",
        ),
    ),
    "Go": (
        (r"^package \w+\s*$", 4, "package "),
        (r"^func (?:\(\w+ \*?\w+\) )?\w+\(.*\).*\{\s*$", 3, "func "),
        (r"\w+(?:, \w+)* := ", 2, " := "),
        (r"\bfmt\.\w+\(|\bif err != nil|\bgo func\(|\bchan \w+", 3, "fmt.|err != nil|go func(|chan "),
        (r"^type \w+ (?:struct|interface) ?\{", 3, "type "),
    ),
    "Rust": (
        (r"^\s*(?:pub(?:\(crate\))? )?(?:async )?fn \w+(?:<.+>)?\(.*\)", 3, "fn "),
        (r"\blet (?:mut )?\w+(?:: [\w<>&]+)? = ", 1, "let "),
        (r"\b(?:println|vec|format|panic|assert_eq)!\(|#\[derive\(|\bimpl(?:<.+>)? \w+", 3, "!(|#[derive(|impl"),
        (r"^\s*use (?:std|crate|super|self|\w+)::", 3, "use "),
        (r"\.unwrap\(\)|&mut |Option<|Result<", 2, ".unwrap()|&mut |Option<|Result<"),
    ),
    "C": (
        (r"^\s*#\s*include\s*<(?:stdio|stdlib|string|stdint|unistd|math|errno|assert|stdbool|ctype)\.h>", 4, "include"),
        (
            r"\b(?:printf|malloc|free|sizeof|fprintf|scanf|memcpy|strlen)\s*\(",
            2,
            "printf|malloc|free|sizeof|scanf|memcpy|strlen",
        ),
        (
            r"^\s*(?:static |const |unsigned |struct )*(?:int|void|char|float|double|size_t) \*?\w+\(.*\)\s*[{;]?\s*$",
            2,
            "int |void |char |float |double |size_t ",
        ),
        (r"^\s*(?:typedef )?struct \w* ?\{|\w->\w", 2, "struct |->"),
        (r"^\s*#\s*(?:define|ifdef|ifndef|endif)\b", 1, "define|ifdef|ifndef|endif"),
    ),
    "C++": (
        (
            r"^\s*#\s*include\s*<(?:iostream|vector|string|memory|map|algorithm|utility|functional|cmath|set)>",
            5,
            "include",
        ),
        (r"\bstd::|\bcout\s*<<|\bcin\s*>>", 4, "std::|cout|cin"),
        (r"^\s*template\s*<", 4, "template"),
        (
            r"^\s*using namespace \w+;|^\s*namespace \w+(?:::\w+)* \{|^\s*(?:public|private|protected):\s*$",
            4,
            "namespace |public:|private:|protected:",
        ),
        (r"\b(?:const )?auto ?& ?\w+|\bnullptr\b|\w+::\w+\(", 2, "auto|nullptr|::"),
    ),
    "PHP": (
        (r"<\?php", 8, "<?php"),
        (r"^\s*\$\w+ = .*;\s*$", 3, "$"),
        (r"\$this->|\$\w+\[['\"]|\becho ['\"$]", 3, "$|echo "),
    ),
    "Ruby": (
        (r"^\s*def (?:self\.)?\w+[?!]?(?:\([\w, :=*&]*\))?\s*$", 3, "def "),
        (r"^\s*end\s*$", 1, "end"),
        (
            r"\bdo \|\w+(?:, \w+)*\||^\s*(?:require|require_relative|attr_accessor|attr_reader) ['\":]",
            4,
            "do |require|attr_accessor|attr_reader",
        ),
        (
            r"^\s*(?:puts|unless|elsif|module [A-Z]|class [A-Z]\w*(?: < [\w:]+)?\s*$)",
            2,
            "puts|unless|elsif|module |class ",
        ),
    ),
    "Kotlin": (
        (r"^\s*(?:override |private |suspend |internal |inline )*fun (?:<.+> )?[\w.]+\(.*\)", 4, "fun "),
        (r"^\s*(?:private |override )*va[lr] \w+(?:: [\w<>?]+)? (?:=|by) ", 2, "val |var "),
        (r"^\s*data class \w+\(|\blistOf\(|\?\.let \{|\bwhen ?\(.*\) \{", 4, "data class |listOf(|?.let {|when"),
    ),
    "Scala": (
        (r"^\s*(?:override |private |implicit )*def \w+(?:\[.+\])?(?:\(.*\))*(?:: [\w\[\], ]+)? =", 4, "def "),
        (r"^\s*(?:case class|sealed trait|object) \w+", 3, "case class |sealed trait |object "),
        (r"^\s*(?:lazy )?val \w+(?:: [\w\[\], ]+)? = ", 2, "val "),
        (r"\bcase \w+(?:\(.*\))? => ", 2, "case "),
    ),
    "Shell": (
        (r"^#!.*\b(?:ba|z|da)?sh\b", 8, "#!"),
        (
            r"^\s*(?:\$ |# )?(?:sudo|apt(?:-get)?|cd|mkdir|export|echo|chmod|curl|git|pip3?|npm|docker|grep|ls|cp|rm) ",
            2,
            "sudo |apt|cd |mkdir |export |echo |chmod |curl |git |pip|npm |docker |grep |ls |cp |rm ",
        ),
        (r"^\s*(?:if \[\[? |then$|fi$|done$|esac$|for \w+ in .*; do)", 3, "if [|then|fi|done|esac|; do"),
        (r"\$\{\w+[}:]|\$\(\w+", 1, "${|$("),
    ),
    "SQL": (
        (
            r"^\s*(?:SELECT\b.*|INSERT INTO \w+|UPDATE \w+ SET|DELETE FROM \w+|ALTER TABLE \w+|DROP TABLE \w+)",
            3,
            "select|insert into |update |delete from |alter table |drop table ",
        ),
        (r"^\s*CREATE (?:OR REPLACE )?(?:TEMP )?(?:TABLE|VIEW|INDEX|FUNCTION|DATABASE)\b", 4, "create "),
        (
            r"^\s*(?:FROM \w+|WHERE \w+|GROUP BY|ORDER BY|(?:LEFT |INNER )?JOIN \w+)|\bFROM \w+ (?:WHERE|JOIN)\b",
            2,
            "from |where |group by|order by|join ",
        ),
    ),
    "HTML": ((r"^\s*<!DOCTYPE html|^\s*</?(?:html|head|body|div|span|p|a|ul|li|table|form|script)\b[^>]*>", 3, "<"),),
    "CSS": (
        (r"^\s*[.#]?[\w-]+(?:[ ,>:.#\w-]+)? \{\s*$", 1, " {"),
        (r"^\s*(?:[a-z]+-)*[a-z]+: [^;{}]+;\s*$", 1, ": "),
        (r"^@media\b", 3, "@media"),
    ),
    "JSON": ((r'^\s*"[\w-]+": (?:["\[{\d]|true|false|null)', 2, '": '),),
    "XML": (
        (r"^\s*<\?xml ", 6, "<?xml "),
        (r"^\s*<[a-z]+:\w+[^>]*>|xmlns[:=]", 3, "<|xmlns"),
    ),
}
_ANY_CASE = ("SQL",)
_COMPILED = {
    name: tuple(
        (re.compile(pattern, re.IGNORECASE if name in _ANY_CASE else 0), weight, tuple(words.split("|")))
        for pattern, weight, words in signs
    )
    for name, signs in _SIGNS.items()
}
_MAX_LINE_CHARACTERS = 300  # of a line, so that no pattern works long on a minified one


def named_language(hints: Iterable[str]) -> str:
    """Return the language that class names such as `language-py`, `brush: js` or `highlight-source-c++` state, or "".

    "Text" is a statement too (`language-none`, `output`): this is no code. `hints` are the values of class, lang and
    data-lang attributes, the nearest element first.
    """
    for hint in hints:
        for word in re.split(r"[\s;]+", hint.lower()):
            if name := _BY_ALIAS.get(word) or _BY_ALIAS.get(_PREFIX.sub("", word)):
                return name
    return ""


def guessed_language(code: str) -> str:
    """Return the language that the first 4,000 characters look like, or "" where nothing leads clearly."""
    lines = [line[:_MAX_LINE_CHARACTERS] for line in code[:_GUESS_CHARACTERS].splitlines()]
    lowered = [line.lower() for line in lines]
    scores = {name: _score(lines, lowered if name in _ANY_CASE else lines, name) for name in _COMPILED}
    if scores["TypeScript"] >= _MIN_SCORE:  # what is added to JavaScript decides, so its signs do not speak against it
        scores["TypeScript"] += scores.pop("JavaScript")
    if scores["C++"] >= _MIN_SCORE:
        scores["C++"] += scores.pop("C")
    (first, best), (_, second) = sorted(scores.items(), key=lambda item: -item[1])[:2]
    if best < _MIN_SCORE or best < _LEAD * second:
        return ""
    return first


def _score(lines: list[str], searched: list[str], name: str) -> int:
    """Sum the weights of what matches; `searched` are the lines in the case in which their words are looked for."""
    text, total = "\n".join(searched), 0
    for pattern, weight, words in _COMPILED[name]:
        present = [word for word in words if word in text]
        n = 0
        for line, seen in zip(lines, searched, strict=True) if present else ():
            if any(word in seen for word in present) and pattern.search(line):
                n += 1
                if n == _MAX_LINES:
                    break
        total += n * weight
    return total
