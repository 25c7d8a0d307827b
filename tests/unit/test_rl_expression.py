"""Reward expressions: what they compute, that guarded rows stay unharmed, and that nothing but arithmetic gets in."""

from __future__ import annotations

import pytest
import torch

from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.rewards.expression import MAX_LENGTH, Expression
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError

# row 0: right, confidence 0.5; row 1: wrong, confidence 0.25
BATCH = RewardBatch.with_labels(
    torch.tensor([0, 1]),
    torch.tensor([[0.5, 0.5], [0.75, 0.25]]),
    torch.tensor([0, 0]),
    step=7,
    latency_ms=torch.tensor([4.0, 9.0]),
)

VALUES = [
    ("correct + 2", (3.0, 2.0)),
    ("1 - confidence", (0.5, 0.75)),
    ("-correct * +3", (-3.0, 0.0)),
    ("1 / confidence", (2.0, 4.0)),
    ("latency_ms % 4", (0.0, 1.0)),
    ("confidence ** 2", (0.25, 0.0625)),
    ("2 + 3 * 4", (14.0, 14.0)),
    ("label_prob", (0.5, 0.75)),
    ("max_prob", (0.5, 0.75)),
    ("entropy", (0.6931472, 0.5623351)),
    ("classes", (2.0, 2.0)),
    ("step", (7.0, 7.0)),
    ("sqrt(latency_ms)", (2.0, 3.0)),
    ("log(exp(correct))", (1.0, 0.0)),
    ("abs(correct - 2)", (1.0, 2.0)),
    ("min(latency_ms, 5)", (4.0, 5.0)),
    ("max(latency_ms, 5)", (5.0, 9.0)),
    ("clip(latency_ms, 5, 8)", (5.0, 8.0)),
    ("correct == 1", (1.0, 0.0)),
    ("correct != 1", (0.0, 1.0)),
    ("confidence < 0.5", (0.0, 1.0)),
    ("confidence <= 0.5", (1.0, 1.0)),
    ("confidence > 0.25", (1.0, 0.0)),
    ("confidence >= 0.25", (1.0, 1.0)),
    ("0.25 <= confidence < 0.5", (0.0, 1.0)),
    ("not correct", (0.0, 1.0)),
    ("correct and confidence > 0.4", (1.0, 0.0)),
    ("correct and confidence > 0.6", (0.0, 0.0)),
    ("correct or confidence > 0.4", (1.0, 0.0)),
    ("correct or confidence > 0.2", (1.0, 1.0)),
    ("5 if correct else -confidence", (5.0, -0.25)),
]


@pytest.mark.parametrize(("text", "want"), VALUES, ids=[text for text, _ in VALUES])
def test_value(text: str, want: tuple[float, ...]) -> None:
    torch.testing.assert_close(Expression(text)(BATCH), torch.tensor(want), rtol=0, atol=1e-6)


GUARDED = [
    ("1 / correct if correct > 0 else 0", (1.0, 0.0)),
    ("0 if correct == 0 else 1 / correct", (1.0, 0.0)),
    ("correct > 0 and 1 / correct > 0", (1.0, 0.0)),
    ("correct == 0 or 1 / correct > 2", (0.0, 1.0)),
    ("log(correct) if correct else -1", (0.0, -1.0)),
]


@pytest.mark.parametrize(("text", "want"), GUARDED, ids=[text for text, _ in GUARDED])
def test_a_row_that_a_condition_keeps_out_does_not_divide(text: str, want: tuple[float, ...]) -> None:
    assert Expression(text)(BATCH).tolist() == list(want)


UNDEFINED = [
    ("1 / correct", "divides by zero in row 1 of the batch; guard it"),
    ("1 % correct", "divides by zero in row 1"),
    ("1 / (confidence - 0.5)", "divides by zero in row 0"),
    ("log(correct)", "takes the logarithm of a number not above 0 in row 1"),
    ("sqrt(correct - 1)", "takes the root of a negative number in row 1"),
    ("exp(1000)", "is not finite in row 0"),
    ("9 ** 9 ** 9", "is not finite in row 0"),
    ("(0 - 8) ** 0.5", "is not finite in row 0"),
    ("1 if correct else 1 / correct", "divides by zero in row 1"),
]


@pytest.mark.parametrize(("text", "want"), UNDEFINED, ids=[text for text, _ in UNDEFINED])
def test_what_has_no_value_names_expression_and_row(text: str, want: str) -> None:
    with pytest.raises(BadDataError) as caught:
        Expression(text)(BATCH)
    assert str(caught.value).startswith(f"reward expression: {text!r} {want}")


REFUSED = [
    ("__import__('os').system('x')", "calls something that is no function"),
    ("open('/etc/passwd')", "names 'open'; there are: abs, exp"),
    ("correct.__class__", "uses Attribute"),
    ("().__class__.__bases__[0]", "uses Subscript"),
    ("[1, 2]", "uses List"),
    ("{1: 2}", "uses Dict"),
    ("'text'", "holds 'text'; only numbers"),
    ("b'text'", "only numbers"),
    ("True", "holds True; only numbers"),
    ("None", "holds None"),
    ("1j", "holds 1j"),
    ("...", "holds Ellipsis"),
    ("f'{correct}'", "uses JoinedStr"),
    ("lambda: 1", "uses Lambda"),
    ("[x for x in correct]", "uses ListComp"),
    ("(x := 1)", "uses NamedExpr"),
    ("correct if correct in (1, 2) else 0", "uses "),
    ("correct is 1", "uses "),
    ("1 // 2", "uses FloorDiv"),
    ("1 << 30", "uses LShift"),
    ("~1", "uses Invert"),
    ("correct @ correct", "uses MatMult"),
    ("reward", "names 'reward'; there are: correct, confidence"),
    ("abs", "names 'abs'; there are: correct"),
    ("correct(1)", "names 'correct'; there are: abs"),
    ("min(1)", "gives min 1 arguments, it takes 2"),
    ("abs()", "gives abs 0 arguments"),
    ("abs(*correct)", "named or starred arguments"),
    ("abs(x=correct)", "named or starred arguments"),
    ("10000000", "holds a number above 1e+06"),
    ("1e999", "holds a number above"),
    ("-" + "9" * 400, "holds a number above"),
    ("correct; 1", "cannot be read"),
    ("x = 1", "cannot be read"),
    ("", "cannot be read"),
    ("(" * 300, "cannot be read"),
    ("1\0", "cannot be read"),
    ("1 + " * 124 + "1", "parts, at most 120; simplify it"),
    ("1 " + " " * MAX_LENGTH, "502 characters, at most 500; shorten it"),
]


@pytest.mark.filterwarnings("ignore::SyntaxWarning")  # Python's own remark on `correct is 1`
@pytest.mark.parametrize(("text", "want"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_anything_but_arithmetic_is_refused(text: str, want: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        Expression(text)
    assert str(caught.value).startswith("reward expression: ")
    assert want in str(caught.value)


def test_latency_is_asked_for_only_where_it_is_named() -> None:
    batch = RewardBatch.with_labels(BATCH.actions, BATCH.probs, torch.tensor([0, 0]))
    assert Expression("correct")(batch).tolist() == [1.0, 0.0]
    with pytest.raises(BadDataError, match="reward expression: needs measured latency"):
        Expression("latency_ms")(batch)
