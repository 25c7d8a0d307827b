"""The models take and refuse what the table says; tests/contract/test_crd_cases.py asks an API server the same."""

from __future__ import annotations

import pytest

from ratchet_api.kinds import FEEDBACK_DATASET, KINDS, SpecError
from tests.spec_cases import ACCEPTED, CASES, REFUSED, Case


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.rule)
def test_the_model_accepts(case: Case) -> None:
    kind = KINDS[case.kind]
    manifest = {"metadata": {"name": "x"}, "spec": case.spec}
    spec = kind.parse_spec(manifest)
    # and what it gives back is the same spec, however often it goes around
    again = kind.parse_spec(kind.manifest("x", spec))
    assert again == spec


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.rule)
def test_the_model_refuses_and_names_object_field_and_cause(case: Case) -> None:
    with pytest.raises(SpecError) as refusal:
        KINDS[case.kind].parse_spec({"metadata": {"name": "my-object"}, "spec": case.spec})
    text = str(refusal.value)
    assert text.startswith(f"{case.kind} 'my-object': ")
    assert case.field in text
    assert case.pydantic in text
    assert len(text) < 1000, "a refusal must fit into a condition's message"


def test_every_case_says_its_rule_once_and_changes_something() -> None:
    rules = [case.rule for case in CASES]
    assert len(set(rules)) == len(rules)
    assert all(case.change or case.accepted for case in CASES)
    assert all(case.pydantic and case.server for case in REFUSED)


def test_inline_rows_that_no_pod_could_carry_are_refused_with_their_size_and_the_way_out() -> None:
    rows = [{"text": "é" * 4000, "label": "a"}] * 17  # 17 * 8,000 bytes; 16 of them fit into 128 KiB
    spec = {"type": "classification", "source": {"inline": rows}}
    body = {"kind": "FeedbackDataset", "metadata": {"name": "notes"}, "spec": spec}
    with pytest.raises(
        SpecError, match=r"'notes'.*spec\.source: inline: the texts and labels hold 136,000 bytes.*under objects"
    ):
        FEEDBACK_DATASET.parse_spec(body)
    FEEDBACK_DATASET.parse_spec(body | {"spec": {"type": "classification", "source": {"inline": rows[:16]}}})
