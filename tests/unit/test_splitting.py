"""Laws of the split: independent of order, whole components, stable, and near its percentages."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.feedback_dataset import Split
from ratchet_jobs.data.splitting import cap_of, components, hash64, normalised, split_of

KEYS = st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(100, 110))), max_size=60)


@given(KEYS, st.randoms(use_true_random=False))
def test_components_do_not_depend_on_the_order_of_rows(keys: list[tuple[int, int | None]], rng: random.Random) -> None:
    places = list(range(len(keys)))
    rng.shuffle(places)
    straight, shuffled = components(keys), components([keys[i] for i in places])
    assert [straight[i] for i in places] == shuffled


@given(KEYS)
def test_rows_that_share_a_text_or_a_group_are_one_component(keys: list[tuple[int, int | None]]) -> None:
    found = components(keys)
    for i, (text, group) in enumerate(keys):
        for j, (other_text, other_group) in enumerate(keys):
            if text == other_text or (group is not None and group == other_group):
                assert found[i] == found[j]


def test_rows_that_share_nothing_are_their_own_components() -> None:
    assert len(set(components([(1, None), (2, None), (3, 100), (4, 101)]))) == 4


def test_a_chain_of_shared_texts_and_groups_is_one_component() -> None:
    # text 1 - group 100 - text 2 - group 101 - text 3
    assert len(set(components([(1, 100), (2, 100), (2, 101), (3, 101)]))) == 1


def test_shares_come_near_the_percentages() -> None:
    split = Split(train_percent=70, validation_percent=20, test_percent=10)
    count = Counter(split_of(hash64(str(i)), split) for i in range(20_000))
    # five standard deviations of a binomial with n = 20,000: at most 5 * sqrt(20000 * .7 * .3) = 324 rows
    assert abs(count["train"] - 14_000) < 324
    assert abs(count["validation"] - 4_000) < 283
    assert abs(count["test"] - 2_000) < 213


def test_widening_train_moves_no_train_row_out() -> None:
    narrow = Split(train_percent=60, validation_percent=20, test_percent=20)
    wide = Split(train_percent=80, validation_percent=10, test_percent=10)
    hashes = [hash64(str(i)) for i in range(2_000)]
    assert {h for h in hashes if split_of(h, narrow) == "train"} < {h for h in hashes if split_of(h, wide) == "train"}


def test_another_salt_splits_otherwise() -> None:
    hashes = [hash64(str(i)) for i in range(500)]
    plain, salted = ([split_of(h, Split(salt=s)) for h in hashes] for s in ("", "x"))
    assert plain != salted


@pytest.mark.parametrize(
    ("one", "other", "want_equal"),
    [
        pytest.param("Hello  World", "hello world\n", True, id="case and blanks"),
        pytest.param("ﬁne", "fine", True, id="ligature"),
        pytest.param("Straße", "STRASSE", True, id="case folding"),
        pytest.param("hello world", "hello, world", False, id="punctuation counts"),
    ],
)
def test_what_counts_as_equal_text(one: str, other: str, want_equal: bool) -> None:
    assert (normalised(one) == normalised(other)) is want_equal


def test_hash_of_parts_tells_the_parts_apart() -> None:
    assert hash64("ab", "c") != hash64("a", "bc")


@given(st.lists(st.integers(1, 500), min_size=1, max_size=40), st.floats(1, 100))
def test_capped_subjects_hold_at_most_their_share_and_the_cap_is_the_largest(amounts: list[int], share: float) -> None:
    """P29."""
    cap = cap_of(Counter(amounts), share)
    kept = [min(a, cap) for a in amounts]
    if cap:
        assert max(kept) <= share / 100 * sum(kept) + 1e-9
    for higher in range(cap + 1, max(amounts) + 1):
        rest = [min(a, higher) for a in amounts]
        assert max(rest) > int(sum(rest) * share / 100), higher


def test_one_subject_alone_cannot_have_a_tenth() -> None:
    assert cap_of({100: 1}, 10) == 0
    # 20 subjects of 5 rows: 100 rows, 10 % of 100 is 10 >= 5: nothing is cut
    assert cap_of({5: 20}, 10) == 5
