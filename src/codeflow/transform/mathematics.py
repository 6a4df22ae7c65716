"""The stage `mathematics`: prose with formulas, its formulas kept as TeX between dollars (Code-Flow §2).

    run(config, {documents}, output) -> documents-*.parquet with the tags `n_formulas` and `formula_share`

Documents come from any collection: docstrings of installed packages, documentation in repositories, crawled pages as
text. The notations of reStructuredText (the role and the directive `math`) and of Markdown (dollars, `\\(`, `\\[`)
become one, `$...$` and `$$...$$`; of a formula nothing changes but its indentation. Documents with the tag `n_formulas`
are of the domain mathematics: they are graded on its rubric, and scored by its classifier.

Not covered: MathML, formulas that an extraction has already torn into lines of symbols (they are not recognised, and a
document whose formulas do not close is dropped), and numbered references to formulas, which stay as they are.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field

from codeflow.core.config import Config
from codeflow.core.languages import domain_of
from codeflow.core.manifest import Counts, Manifest, seal
from codeflow.core.types import Document
from codeflow.transform.operator import with_tags, with_text

N_FORMULAS, FORMULA_SHARE = "n_formulas", "formula_share"
_DIRECTIVE = re.compile(r"^([ \t]*)\.\. math::[ \t]*(.*)\n((?:[ \t]*\n|\1[ \t]+\S.*(?:\n|\Z))*)", re.M)
_OPTION = re.compile(r"^[ \t]*:(?:label|nowrap|name|class|no-wrap):.*\n?", re.M)
_ROLE = re.compile(r":math:`((?:[^`\\]|\\.)+)`", re.S)
_ROUND = re.compile(r"\\\(((?:[^\n]|\n(?!\s*\n))+?)\\\)")
_SQUARE = re.compile(r"\\\[((?:[^\n]|\n(?!\s*\n))+?)\\\]")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$(?=[^\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?![\w$])", re.S)
_MARKED = re.compile(r"\\[a-zA-Z]+|[\^_=<>+*/|-]|^\s*[A-Za-z]'*\s*$")  # what tells a formula from a price
_BRACE = re.compile(r"\\.|[{}]", re.S)
_ENVIRONMENT = re.compile(r"\\(begin|end)\{([^{}]*)\}")


class MathematicsConfig(Config):
    """Which documents count as mathematics."""

    min_formulas: int = Field(default=3, ge=1)
    min_formula_share: float = Field(default=0.02, ge=0, le=1)  # of the characters
    max_torn_share: float = Field(default=0.1, ge=0, le=1)  # of the formulas, whose braces or environments do not close


def run(config: MathematicsConfig, inputs: Mapping[str, Path], output: Path) -> Manifest:
    """Keep the documents of `inputs["documents"]` that are mathematics.

    Counts: dropped `not_prose`, `few_formulas` and `torn_formulas`; notes: formulas kept.
    """
    from codeflow.core.records import read_shards, write_records

    dropped: Counter[str] = Counter()
    n_formulas = 0

    def kept() -> Iterator[Document]:
        nonlocal n_formulas
        for document in read_shards(inputs["documents"], "documents", Document):
            found = mathematics_of(document, config)
            if isinstance(found, str):
                dropped[found] += 1
            else:
                n_formulas += int(found.tags[N_FORMULAS])
                yield found

    n_kept = write_records(output / "documents-00000.parquet", kept(), Document)
    counts = Counts(
        read=n_kept + sum(dropped.values()),
        kept=n_kept,
        dropped=dict(sorted(dropped.items())),
        notes={"formulas": n_formulas},
    )
    return seal(output, counts)


def mathematics_of(document: Document, config: MathematicsConfig) -> Document | str:
    """Return the document in one notation with its tags, or the reason why it is no mathematics."""
    if domain_of(document.language) != "general":
        return "not_prose"
    text = in_dollars(document.text, document.language)
    found = formulas(text)
    share = sum(map(len, found)) / max(1, len(text))
    if len(found) < config.min_formulas or share < config.min_formula_share:
        return "few_formulas"
    if sum(not closes(formula) for formula in found) > config.max_torn_share * len(found):
        return "torn_formulas"
    return with_tags(with_text(document, text), {N_FORMULAS: float(len(found)), FORMULA_SHARE: round(share, 6)})


def in_dollars(text: str, language: str) -> str:
    """Return the text with every formula as `$...$` or `$$...$$`.

    Markdown has its own notations; everything else is read as reStructuredText, which the docstrings of packages are.
    """
    if language == "Markdown":
        text = _SQUARE.sub(lambda found: f"$${found[1]}$$", text)
        return _ROUND.sub(lambda found: f"${found[1].strip()}$", text)
    text = _DIRECTIVE.sub(_displayed, text)
    return _ROLE.sub(lambda found: f"${found[1].strip()}$", text)


def _displayed(found: re.Match[str]) -> str:
    indent, argument, block = found.groups()
    body = textwrap.dedent(_OPTION.sub("", block)).strip("\n")
    inside = "\n".join(part for part in (argument.strip(), body) if part)
    if not inside.strip():
        return found[0]
    whole = f"{argument}\n{block}"
    n_breaks = whole[len(whole.rstrip()) :].count("\n")
    return textwrap.indent(f"$$\n{inside}\n$$", indent) + "\n" * max(1, n_breaks)


def formulas(text: str) -> list[str]:
    """Return the TeX of the formulas of a text in dollars, in order. Prices and shell variables are none."""
    found = (first or second for first, second in _FORMULA.findall(text))
    return [formula for formula in found if _MARKED.search(formula)]


def closes(formula: str) -> bool:
    """Say whether braces nest, environments end as they began, and every `\\left` has its `\\right`."""
    depth = 0
    for token in _BRACE.findall(formula):
        depth += (token == "{") - (token == "}")
        if depth < 0:
            return False
    open_environments: list[str] = []
    for what, name in _ENVIRONMENT.findall(formula):
        if what == "begin":
            open_environments.append(name)
        elif not open_environments or open_environments.pop() != name:
            return False
    n_left, n_right = (len(re.findall(rf"\\{side}(?![a-zA-Z])", formula)) for side in ("left", "right"))
    return depth == 0 and not open_environments and n_left == n_right
