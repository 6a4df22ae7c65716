from __future__ import annotations

import pytest

from codeflow.core.records import read_shards
from codeflow.core.types import Document
from codeflow.eval.fim_exact_match import Sizes, cases, judge
from codeflow.eval.records import Scorer
from codeflow.model.generate import Generation
from codeflow.tokens.special import IM_END_ID, SPECIAL_IDS
from codeflow.tokens.tokenizer import Tokenizer

_SIZES = Sizes(max_middle_characters=60, context_characters=300, prompt_tokens=160, middle_tokens=40)


@pytest.fixture(scope="module")
def setting(world):
    tokenizer = Tokenizer.load(world["tokenizer"])
    return list(read_shards(world["documents"], "heldout", Document)), tokenizer


def test_cases_come_apart_and_fit(setting):
    documents, tokenizer = setting
    found, missed = cases(documents, tokenizer, 3, _SIZES, seed=0)
    texts = {d.id: d.text for d in documents}
    levels = {case.level for case in found}
    assert {"random_boundary", "random_line", "statement", "expression"} <= levels
    for case in found:
        prefix, rest = case.prompt_text.removeprefix("<|fim_prefix|>").split("<|fim_suffix|>")
        suffix = rest.removesuffix("<|fim_middle|>")
        assert prefix + case.middle + suffix in texts[case.document]
        assert len(case.prompt) <= _SIZES.prompt_tokens
        assert len(tokenizer.encode(case.middle)) < _SIZES.middle_tokens
        assert case.prompt[0] == SPECIAL_IDS["<|fim_prefix|>"]
        assert case.prompt[-1] == SPECIAL_IDS["<|fim_middle|>"]
    assert cases(documents, tokenizer, 3, _SIZES, seed=0) == (found, missed)
    assert cases(documents, tokenizer, 3, _SIZES, seed=1)[0] != found
    assert all(n <= 3 for n in (sum(c.level == level for c in found) for level in levels))


def test_what_has_no_place_is_counted(setting):
    documents, tokenizer = setting
    found, missed = cases(documents, tokenizer, 3, Sizes(60, 300, 2, 40), seed=0)
    assert found == []
    assert any("too long" in reason for reason in missed)


def test_only_the_middle_and_its_end_match(setting):
    documents, tokenizer = setting
    (case, other, third), _ = cases(documents, tokenizer, 3, _SIZES, seed=0)[0][:3], None
    middle = [tokenizer.encode(c.middle) for c in (case, other, third)]
    outputs = [
        Generation([*middle[0], IM_END_ID], [], "stop"),
        Generation(middle[1], [], "length"),  # the right text, but it did not end
        Generation([*middle[2], *tokenizer.encode(" x"), IM_END_ID], [], "stop"),
    ]
    scores, rows = judge(Scorer("fim", "c", {}, 50, 0), [case, other, third], outputs, tokenizer)
    assert [row.passed for row in rows] == [True, False, False]
    assert [row.reason for row in rows] == ["exact", "did not end", "differs"]
    by_name = {(s.metric, s.subset): s for s in scores}
    assert by_name["exact_match", ""].value == pytest.approx(1 / 3)
    assert by_name["exact_match", ""].n == 3
    assert 0.5 < by_name["edit_similarity", ""].value < 1
