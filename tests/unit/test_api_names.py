"""Names of children: valid for Kubernetes, different for different owners, the same every time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratchet_api.names import (
    child_name,
    index_key,
    label_value,
    owner_prefix,
    run_name_for_template,
    short_hash,
    snapshot_prefix,
    stage_prefix,
)
from ratchet_api.stage import Stage

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
POD_SUFFIX = 6  # "-" and five characters, which the Job controller adds

labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
owners = st.lists(labels, min_size=1, max_size=12).map(".".join).filter(lambda name: len(name) <= 253)
attempts = st.integers(1, 10_000_000)
stages = st.sampled_from([stage.value for stage in Stage])


@given(owners, stages, attempts)
def test_a_childs_name_and_its_pods_name_are_dns_labels(owner: str, stage: str, attempt: int) -> None:
    name = child_name(owner, stage, attempt)
    assert DNS_LABEL.fullmatch(name)
    assert len(name) + POD_SUFFIX <= 63
    assert name.endswith(f"-{stage}-{attempt}"), "people read stage and attempt off the name"


@given(owners, owners, stages, stages, attempts, attempts)
def test_different_children_have_different_names(a: str, b: str, s: str, t: str, m: int, n: int) -> None:
    if (a, s, m) != (b, t, n):
        assert child_name(a, s, m) != child_name(b, t, n)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("a.b", "a-b", id="a dot and a dash"),
        pytest.param("x" * 252 + "a", "x" * 252 + "b", id="253 characters that differ in the last"),
        pytest.param("x" * 60 + ".a", "x" * 60 + ".b", id="a dot beyond the cut"),
        pytest.param("x.y", "x.y.z", id="one more part"),
        pytest.param("a" * 40, "a" * 41, id="one character around the cut"),
    ],
)
def test_owners_that_look_alike_do_not_share_children(one: str, other: str) -> None:
    assert child_name(one, "supervised", 1) != child_name(other, "supervised", 1)


@pytest.mark.parametrize(
    ("owner", "want"),
    [
        pytest.param("router", "router-supervised-2", id="short names are left as they are"),
        # 52 - len("supervised-2") - 1 = 39 characters of owner still fit
        pytest.param("a" * 39, "a" * 39 + "-supervised-2", id="the longest that is not cut"),
        # 52 - 12 - 8 - 2 = 30 characters, then the hash of the whole name
        pytest.param("a" * 40, "a" * 30 + "-" + short_hash("a" * 40) + "-supervised-2", id="the shortest that is cut"),
        pytest.param("a.b", "a-b-" + short_hash("a.b") + "-supervised-2", id="a dot becomes a dash and a hash"),
    ],
)
def test_a_childs_name_by_hand(owner: str, want: str) -> None:
    assert child_name(owner, "supervised", 2) == want


@given(owners)
def test_a_label_value_is_valid_and_keeps_what_fits(text: str) -> None:
    value = label_value(text)
    assert len(value) <= 63
    assert LABEL_VALUE.fullmatch(value)
    assert value == text or len(text) > 63


def test_long_owners_have_different_label_values() -> None:
    assert label_value("x" * 252 + "a") != label_value("x" * 252 + "b")


@given(owners, st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_stamped_runs_name_is_valid_and_follows_from_its_inputs(policy: str, digest: str) -> None:
    name = run_name_for_template(policy, digest)
    assert len(name) <= 63
    assert SUBDOMAIN.fullmatch(name)
    assert name == run_name_for_template(policy, digest)
    assert name.endswith(digest[:10])
    assert name != run_name_for_template(policy, "g" + digest[1:])


def test_store_keys_by_hand() -> None:
    uid = "0123456789ab-cdef"
    assert owner_prefix("team", "runs", "router", uid) == "team/runs/router-01234567"
    assert stage_prefix("team", "runs", "router", uid, "evaluate") == "team/runs/router-01234567/evaluate"
    assert index_key("team", "d" * 64) == f"team/index/{'d' * 64}.json"
    assert snapshot_prefix("team", "d" * 64) == f"team/snapshots/{'d' * 64}"


def test_a_recreated_object_of_the_same_name_gets_another_prefix() -> None:
    first = owner_prefix("team", "runs", "router", "11111111-1111")
    assert first != owner_prefix("team", "runs", "router", "22222222-1111")
