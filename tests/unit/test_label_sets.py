"""Classes of two policies: the same in whatever order, and told apart as far as their names are kept."""

from __future__ import annotations

import pytest

from ratchet_api.label_sets import NAMES_BYTES, LabelSet, difference


def test_order_and_repetition_make_no_other_set() -> None:
    assert LabelSet.of(["spam", "ham", "spam"]) == LabelSet.of(("ham", "spam"))
    assert LabelSet.of(["spam", "ham"]).count == 2


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("ab", "ba", ""),
        ("ab", "abc", "added 'c' (2 labels before, 3 now)"),
        ("abc", "ab", "removed 'c' (3 labels before, 2 now)"),
        ("ab", "ax", "added 'x', removed 'b' (2 labels before, 2 now)"),
        ("ab", "abcdefg", "added 'c', 'd', 'e' and 2 more (2 labels before, 7 now)"),
    ],
)
def test_what_differs_is_told_by_name(before: str, after: str, told: str) -> None:
    assert difference(LabelSet.of(list(before)), LabelSet.of(list(after))) == told


def test_of_very_many_classes_names_are_kept_within_their_bytes_and_none_is_called_missing_that_was_left_out() -> None:
    many = [f"class-{number:04d}" for number in range(2000)]
    kept = LabelSet.of(many)
    assert sum(len(name.encode()) for name in kept.names) <= NAMES_BYTES
    assert kept.count == 2000
    assert difference(kept, LabelSet.of(["aaa", *many])) == "added 'aaa' (2000 labels before, 2001 now)"
    hidden = difference(kept, LabelSet.of([*many, "zzz"]))
    assert hidden == "they differ in labels that the status does not list (2000 labels before, 2001 now)"


def test_the_longest_names_leave_none_over_the_bound_and_sets_without_names_are_still_told_apart() -> None:
    wide = LabelSet.of([f"{number}" + "ü" * 127 for number in range(9)])
    assert 0 < len(wide.names) < 9
    bare = LabelSet.of(["a", "b"]).without_names()
    assert difference(bare, LabelSet.of(["b", "a"])) == ""
    assert difference(bare, LabelSet.of(["b", "c"])).startswith("they differ in labels that the status does not list")
