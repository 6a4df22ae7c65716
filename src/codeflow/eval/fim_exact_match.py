"""Fill in the middle on held-out code, by level: exact match and mean edit similarity of greedy completions.

A case is one split of one document (`transform.fim`), windowed so that prompt and middle fit the context. The model is
given `<|fim_prefix|>pre<|fim_suffix|>suf<|fim_middle|>` (Code-Flow §2) and must end with `<|im_end|>`; an output that
does not end is no exact match. Short middles only, as `max_middle_characters` says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codeflow.core.languages import domain_of
from codeflow.core.storage import sha256_text
from codeflow.core.types import Document, Score
from codeflow.eval.metrics import Share, edit_similarity
from codeflow.eval.records import Generated, Scorer

if TYPE_CHECKING:
    from codeflow.model.generate import Generation
    from codeflow.tokens.tokenizer import Tokenizer
    from codeflow.transform.fim import Fim

NAME = "fim"
SCORER = "fim-exact-1"
_MIN_MIDDLE_CHARACTERS = 3
_SMALLEST_WINDOW = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One completion to make: prompt ids, and the middle that was taken out."""

    level: str
    document: str
    prompt: tuple[int, ...]
    prompt_text: str
    middle: str


def cases(
    documents: Sequence[Document], tokenizer: Tokenizer, per_level: int, sizes: Sizes, seed: int
) -> tuple[list[Case], dict[str, int]]:
    """Return up to `per_level` cases of each level, from documents in the order given; count what had no place."""
    from codeflow.transform.fim import LEVELS, Source, generator

    code = [document for document in documents if domain_of(document.language) == "code"]
    found: list[Case] = []
    missed: Counter[str] = Counter()
    sources = [Source(document.text, document.language) for document in code]
    for level in LEVELS:
        n = 0
        for document, source in zip(code, sources, strict=True):
            if n == per_level:
                break
            rng = generator(seed, document.id, "evaluate", level)
            fim = source.split(level, rng, _MIN_MIDDLE_CHARACTERS, sizes.max_middle_characters)
            case = _case(document, level, fim, tokenizer, sizes) if fim else None
            if case is None:
                missed[f"fim/{level}: " + ("prompt or middle too long" if fim else "no place in a document")] += 1
                continue
            found.append(case)
            n += 1
    return found, dict(missed)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of a case, in characters and tokens."""

    max_middle_characters: int
    context_characters: int
    prompt_tokens: int
    middle_tokens: int


def _case(document: Document, level: str, fim: Fim, tokenizer: Tokenizer, sizes: Sizes) -> Case | None:
    from codeflow.tokens.special import FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX
    from codeflow.transform.fim import window

    if len(tokenizer.encode(fim.middle)) + 1 > sizes.middle_tokens:  # and the end
        return None
    before, after, middle = (tokenizer.special_id(name) for name in (FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE))
    room = sizes.context_characters
    while room >= max(_SMALLEST_WINDOW, len(fim.middle)):
        cut = window(fim, room)
        ids = [before, *tokenizer.encode(cut.prefix), after, *tokenizer.encode(cut.suffix), middle]
        if len(ids) <= sizes.prompt_tokens:
            text = f"{FIM_PREFIX}{cut.prefix}{FIM_SUFFIX}{cut.suffix}{FIM_MIDDLE}"
            return Case(level, document.id, tuple(ids), text, fim.middle)
        room = room * 3 // 4
    return None


def judge(
    scorer: Scorer, found: Sequence[Case], outputs: Sequence[Generation], tokenizer: Tokenizer
) -> tuple[list[Score], list[Generated]]:
    """Return scores over all levels and by level, and the rows of generations."""
    rows: list[Generated] = []
    exact: dict[str, list[Share]] = {"": []}
    similar: dict[str, list[Share]] = {"": []}
    for case, output in zip(found, outputs, strict=True):
        ended = output.stop_reason == "stop"
        text = tokenizer.decode(output.ids[:-1] if ended else output.ids)
        matches = ended and text == case.middle
        similarity = edit_similarity(text, case.middle)
        for subset in ("", case.level):
            exact.setdefault(subset, []).append(Share(float(matches), 1.0))
            similar.setdefault(subset, []).append(Share(similarity, 1.0))
        rows.append(
            Generated(
                benchmark=NAME,
                subset=case.level,
                checkpoint=scorer.checkpoint,
                task=case.document,
                sample=0,
                prompt=case.prompt_text,
                output=text,
                reference=case.middle,
                passed=matches,
                reward=similarity,
                reason="exact" if matches else ("differs" if ended else "did not end"),
                fault="" if matches else "model",
                sandbox="",
                backend="",
                prompt_sha256=sha256_text(case.prompt_text),
                scorer=SCORER,
            )
        )
    scores = [scorer.score("exact_match", subset, shares) for subset, shares in exact.items() if shares]
    scores += [scorer.score("edit_similarity", subset, shares) for subset, shares in similar.items() if shares]
    return scores, rows
