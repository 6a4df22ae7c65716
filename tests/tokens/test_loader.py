"""The loader is a pure function: any step at once, the same for any ranks, every row once per epoch."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from codeflow.core.config import validate
from codeflow.core.errors import UserError
from codeflow.tokens.batch import DOCUMENT_START, LOSS, Batch, batch_from_rows
from codeflow.tokens.describe import describe_row
from codeflow.tokens.loader import Loader, LoaderPlan, permuted
from codeflow.tokens.mixture import Blend
from codeflow.tokens.pack import PackConfig
from codeflow.tokens.token_shard import TokenSet
from codeflow.tokens.tokenizer import Tokenizer

from .conftest import Packed, plain

CONTEXT = 32
PLAN = LoaderPlan(weights={"code": 0.6, "general": 0.4}, batch_rows=8, context_tokens=CONTEXT, seed=3)


@pytest.fixture(scope="module")
def folder(packed: Packed) -> Path:
    files = {
        name: [[plain(n, f"{name} {n} " + "word " * (n % 20), name, n % 2 == 0) for n in range(a, b)] for a, b in parts]
        for name, parts in {"code": [(0, 40), (40, 70)], "general": [(0, 30)], "empty": [(0, 0)]}.items()
    }
    return packed(files, PackConfig(context_tokens=CONTEXT, cut_slack_tokens=4, group_tokens=400))[0]  # type: ignore[return-value]


def naive_batch(ids: np.ndarray, flags: np.ndarray) -> Batch:
    """Targets, weights and positions, one token at a time."""
    n_rows, context = ids.shape
    targets, positions, starts = np.zeros_like(ids, np.int64), np.zeros(ids.shape, int), np.zeros(ids.shape, int)
    weights = np.zeros(ids.shape)
    for row in range(n_rows):
        start = 0
        for t in range(context):
            start = t if flags[row, t] & DOCUMENT_START else start
            positions[row, t], starts[row, t] = t - start, start
            follows = t + 1 < context and not flags[row, t + 1] & DOCUMENT_START
            targets[row, t] = ids[row, t + 1] if follows else ids[row, t]
            weights[row, t] = 1.0 if follows and flags[row, t + 1] & LOSS else 0.0
    return Batch(ids.astype(np.int64), targets, weights, positions, starts)


def same(left: Batch, right: Batch) -> bool:
    fields = ("ids", "targets", "weights", "positions", "document_starts")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in fields)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32))
def test_targets_weights_and_positions_equal_a_naive_reference(n_rows: int, context: int, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    ids = numbers.integers(0, 50, (n_rows, context), dtype=np.uint32)
    flags = (numbers.integers(0, 2, ids.shape) * LOSS).astype(np.uint8)
    starts = numbers.random(ids.shape) < 0.2
    starts[:, 0] = True
    flags[starts] = DOCUMENT_START
    batch = batch_from_rows(ids, flags)
    assert same(batch, naive_batch(ids, flags))
    kinds = [batch.ids.dtype, batch.targets.dtype, batch.weights.dtype, batch.positions.dtype]
    assert kinds == [np.int64, np.int64, np.float32, np.int32]
    assert batch.document_starts.dtype == np.int32


def _permuted(places: np.ndarray, epoch: int, n_rows: int, key: int) -> np.ndarray:
    shape = len(places)
    return permuted(places, np.full(shape, epoch), np.full(shape, n_rows), np.full(shape, key, np.uint64))


def test_rows_of_different_sets_are_permuted_together_as_alone() -> None:
    places, sizes = np.array([5, 2, 0]), np.array([10, 3, 1])
    epochs, keys = np.array([0, 4, 9]), np.array([1, 2, 3], np.uint64)
    together = permuted(places, epochs, sizes, keys).tolist()
    alone = [_permuted(places[n : n + 1], int(epochs[n]), int(sizes[n]), int(keys[n])).tolist()[0] for n in range(3)]
    assert together == alone


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_permuted_is_a_permutation(n_rows: int, epoch: int, key: int) -> None:
    places = np.arange(n_rows, dtype=np.int64)
    whole = _permuted(places, epoch, n_rows, key)
    assert sorted(whole.tolist()) == places.tolist()
    one = n_rows // 2
    assert _permuted(np.array([one]), epoch, n_rows, key)[0] == whole[one]


def test_epochs_and_sets_have_different_orders() -> None:
    places = np.arange(1000, dtype=np.int64)
    orders = [_permuted(places, epoch, 1000, key) for epoch in (0, 1) for key in (7, 8)]
    for n, order in enumerate(orders):
        assert abs(np.corrcoef(places, order)[0, 1]) < 0.1
        assert all((order == other).mean() < 0.02 for other in orders[:n])


@pytest.mark.parametrize("n_ranks", [1, 2, 4, 8])
def test_ranks_together_are_the_global_batch(folder: Path, n_ranks: int) -> None:
    loader = Loader(PLAN, folder)
    for step in (0, 1, 97, 12_345):
        whole = loader.batch(step)
        parts = [loader.batch(step, rank, n_ranks) for rank in range(n_ranks)]
        assert np.array_equal(np.concatenate([part.ids for part in parts]), whole.ids)
        assert np.array_equal(np.concatenate([part.weights for part in parts]), whole.weights)
        assert sum((part.sets for part in parts), ()) == whole.sets


def test_a_jump_equals_going_step_by_step(folder: Path) -> None:
    sequential = [Loader(PLAN, folder).batch(step) for step in range(60)]
    for step in (59, 3, 31):
        assert same(Loader(PLAN, folder).batch(step), sequential[step])


def test_every_row_comes_once_per_epoch(folder: Path) -> None:
    plan = PLAN.changed(11, {"code": 0.2, "general": 0.8}).changed(30, {"general": 1.0})
    loader = Loader(plan, folder)
    use = loader.describe(50)
    for name in ("code", "general"):
        n_rows = TokenSet(folder, name).n_rows
        taken = [row for step in range(50) for which, row in loader.rows(step) if which == name]
        assert len(taken) == use[name].rows
        assert use[name].tokens == len(taken) * CONTEXT
        assert use[name].epochs == len(taken) / n_rows
        for first in range(0, len(taken) - n_rows + 1, n_rows):
            assert sorted(taken[first : first + n_rows]) == list(range(n_rows))
    assert use["code"].epochs > 1


def test_rows_are_those_of_the_files(folder: Path) -> None:
    loader = Loader(PLAN, folder)
    for step in (0, 5):
        batch = loader.batch(step)
        for place, (name, row) in enumerate(loader.rows(step)):
            ids, flags = TokenSet(folder, name).rows(np.array([row]))
            assert np.array_equal(batch.ids[place], ids[0])
            assert batch.sets[place] == name
            assert batch.weights[place].sum() == (flags & LOSS > 0).sum()


def test_a_later_change_leaves_earlier_steps_alone(folder: Path) -> None:
    changed = Loader(PLAN.changed(10, {"general": 1.0}), folder)
    plain_loader = Loader(PLAN, folder)
    assert all(same(changed.batch(step), plain_loader.batch(step)) for step in range(10))
    assert set(changed.batch(10).sets) == {"general"}
    assert Counter(name for step in range(10) for name in plain_loader.batch(step).sets).most_common(1)[0][0] == "code"


def test_seeds_give_different_rows(folder: Path) -> None:
    other = LoaderPlan.model_validate({**dict(PLAN), "seed": 4})
    assert not same(Loader(PLAN, folder).batch(0), Loader(other, folder).batch(0))


def _plan(**fields: object) -> LoaderPlan:
    return LoaderPlan.model_validate({**dict(PLAN), **fields})


def test_bad_plans_are_user_errors_that_name_the_set(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'empty' has weight but no rows .* sets with rows: code, general"):
        Loader(_plan(weights={"empty": 1.0, "code": 1.0}), folder)
    with pytest.raises(UserError, match=r"'cod' has weight but is in none .* did you mean 'code'"):
        Loader(_plan(weights={"x": Blend(weight=1, of={"cod": 1.0})}), folder)
    with pytest.raises(UserError, match=r"'code' is packed for context_tokens=\[32\], the plan has 65"):
        Loader(_plan(context_tokens=65), folder)
    with pytest.raises(UserError, match=r"no index\.json"):
        Loader(PLAN, tmp_path)
    with pytest.raises(UserError, match="in both"):
        Loader(
            PLAN, [folder, folder.parent / "." / folder.name, folder.parent / ".." / folder.parent.name / folder.name]
        )
    with pytest.raises(UserError, match="steps of changes must grow"):
        validate(LoaderPlan, {"weights": {"a": 1}, "changes": [{"step": 5, "weights": {}}, {"step": 5, "weights": {}}]})
    Loader(_plan(weights={"empty": 0.0, "code": 1.0}), folder)


def test_ranks_that_cannot_share_are_a_user_error(folder: Path) -> None:
    with pytest.raises(UserError, match="batch_rows=8 cannot be shared equally by 3 ranks"):
        Loader(PLAN, folder).batch(0, 0, 3)
    with pytest.raises(UserError, match="rank 2 of 2"):
        Loader(PLAN, folder).batch(0, 2, 2)


def test_a_set_seen_once_runs_out_with_its_name(folder: Path) -> None:
    loader = Loader(_plan(once=("general",)), folder)
    loader.batch(0)
    with pytest.raises(UserError, match="set 'general' must be seen once"):
        loader.batch(5000)


def test_a_later_plan_goes_on_behind_an_earlier_one(folder: Path) -> None:
    weights: dict[str, float | Blend] = {"code": 0.5, "general": 0.5}
    first = Loader(LoaderPlan(weights=weights, batch_rows=2, context_tokens=CONTEXT, seed=3), folder)
    uses = first.describe(2)
    earlier = {row for step in range(2) for row in first.rows(step)}
    only_code = LoaderPlan(weights={"code": 1.0}, batch_rows=1, context_tokens=CONTEXT, seed=3, once=("code",))
    later = only_code.after(first, 2)
    assert later.seen["code"].rows == uses["code"].rows > 0
    loader = Loader(later, folder)
    n_fresh = loader.sets["code"].n_rows - uses["code"].rows
    fresh = {row for step in range(n_fresh) for row in loader.rows(step)}
    assert len(fresh) == n_fresh
    assert not fresh & earlier
    with pytest.raises(UserError, match="'code' must be seen once"):
        loader.rows(n_fresh)
    third = only_code.after(loader, 3)
    assert third.seen["code"].rows == uses["code"].rows + 3
    assert Loader(third, folder).rows(0) == loader.rows(3)


def test_what_was_seen_in_another_order_is_refused(folder: Path) -> None:
    earlier = Loader(PLAN, folder)
    with pytest.raises(UserError, match="'code' was read in the order of seed 3, the plan has 4"):
        _plan(seed=4).after(earlier, 2)
    seen = {"code": {"rows": 2, "of_rows": 1 + earlier.sets["code"].n_rows, "seed": 3}}
    with pytest.raises(UserError, match=r"set 'code' had .* rows when it was seen"):
        Loader(_plan(seen=seen), folder)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        _plan(seen={"code": {"rows": -1, "of_rows": 1, "seed": 3}})


def test_rows_packed_for_a_part_of_the_context_are_joined(folder: Path, packed: Packed) -> None:
    long = packed(
        {"long": [[plain(n, "a b c d " * 40, "long") for n in range(9)]]}, PackConfig(context_tokens=4 * CONTEXT)
    )[0]
    plan = _plan(weights={"long": 0.5, "code": 0.5}, context_tokens=4 * CONTEXT, batch_rows=4, once=("code",))
    loader = Loader(plan, [folder, long])  # type: ignore[list-item]
    read: list[int] = []
    for step in range(4):
        batch, rows = loader.batch(step), loader.rows(step)
        assert batch.ids.shape == (4, 4 * CONTEXT)
        for place, name in enumerate(batch.sets):
            taken = [rows.pop(0) for _ in range(4 if name == "code" else 1)]
            assert {other for other, _ in taken} == {name}
            ids, flags = loader.sets[name].rows(np.array([row for _, row in taken]))
            assert np.array_equal(batch.ids[place], ids.reshape(-1))
            if name == "code":
                assert not batch.positions[place][::CONTEXT].any()  # no document reaches over
                read += [row for _, row in taken]
        assert not rows
        halves = [loader.batch(step, rank, 2) for rank in range(2)]
        assert np.array_equal(np.concatenate([half.ids for half in halves]), batch.ids)
    assert len(set(read)) == len(read) == loader.describe(4)["code"].rows
    with pytest.raises(UserError, match="'code' must be seen once"):
        loader.batch(loader.sets["code"].n_rows)


def test_sets_of_two_artifacts_that_share_names_are_told_apart_by_a_prefix(folder: Path, packed: Packed) -> None:
    long = packed({"code": [[plain(n, "a b c d " * 40, "code") for n in range(9)]]}, PackConfig(context_tokens=64))[0]
    short = Blend(weight=0.5, of={"32/code": 1.0, "32/general": 1.0})
    weights: dict[str, float | Blend] = {"code": 0.5, "short": short}
    loader = Loader(_plan(weights=weights, context_tokens=64), {"": long, "32": folder})  # type: ignore[dict-item]
    assert {name: rows.context_tokens for name, rows in loader.sets.items()} == {
        "code": 64,
        "32/code": 32,
        "32/general": 32,
    }
    alone = Loader(_plan(weights={"code": 1.0}), folder)
    taken = [row for step in range(8) for name, row in loader.rows(step) if name == "32/code"]
    assert taken == [row for step in range(8) for _, row in alone.rows(step)][: len(taken)]  # its own order
    with pytest.raises(UserError, match=r"'32/cod' has weight but is in none .* did you mean '32/code'"):
        Loader(_plan(weights={"32/cod": 1.0}, context_tokens=64), {"": long, "32": folder})  # type: ignore[dict-item]


def test_other_tokens_under_a_seen_name_are_refused(folder: Path) -> None:
    seen = Loader(PLAN, folder).seen_after(2)
    Loader(_plan(seen=seen), folder)
    other = seen["code"].model_copy(update={"content": "ab"})
    with pytest.raises(UserError, match="'code' held other tokens when it was seen"):
        Loader(_plan(seen={"code": other}), folder)


@pytest.mark.parametrize("n_workers", [1, 3])
def test_workers_in_any_order_give_the_batches_of_one(folder: Path, n_workers: int) -> None:
    steps = np.random.default_rng(n_workers).permutation(24).tolist()
    loader = Loader(PLAN, folder)
    with ThreadPoolExecutor(n_workers) as workers:
        batches = dict(zip(steps, workers.map(loader.batch, steps), strict=True))
    other = Loader(PLAN, folder)
    assert all(same(batches[step], other.batch(step)) for step in range(24))


def test_ranks_that_change_in_the_middle_read_what_one_would(folder: Path) -> None:
    plan = PLAN.changed(5, {"code": 1.0})
    whole, resumed = Loader(plan, folder), Loader(plan, folder)
    for step, n_ranks in ((0, 2), (4, 2), (5, 8), (6, 4), (7, 1)):
        ids = np.concatenate([resumed.batch(step, rank, n_ranks).ids for rank in range(n_ranks)])
        assert np.array_equal(ids, whole.batch(step).ids)


def test_a_truncated_or_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / "code-00001.ids.bin"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"code-00001\.ids\.bin has \d+ of \d+ bytes"):
        Loader(PLAN, tmp_path)
    victim.unlink()
    with pytest.raises(UserError, match=r"code-00001\.ids\.bin is missing"):
        Loader(PLAN, tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"index\.json is damaged"):
        Loader(PLAN, tmp_path)


def test_a_described_row_shows_documents_and_mask(folder: Path, tokenizer: Tokenizer) -> None:
    shown = [describe_row(folder, "code", row, tokenizer) for row in range(TokenSet(folder, "code").n_rows)]
    text = next(page for page in shown if "code 1 word " in page)
    assert "⟦code 1 word ⟧<|endoftext|>" in text  # odd samples carry loss on the end token only
    assert "── document 1, tokens 0 to " in text
    assert any("── padding, " in page for page in shown)
    with pytest.raises(UserError, match="no row 999 in set 'code'"):
        describe_row(folder, "code", 999, tokenizer)
