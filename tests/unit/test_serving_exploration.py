"""Answers that are drawn instead of being the likeliest, and the probability that is recorded of each."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from ratchet_api.feedback import InteractionBatch
from ratchet_serving.answers import Answerer, Assignment, Signer
from ratchet_serving.messages import AskMany, AskOne
from ratchet_serving.pairing import Pairing
from tests.unit.test_serving import CARD, EXPERIMENT, NOW, RING, Gateway, Lengths, new_metrics, server


def answerer(*chances: float) -> Answerer:
    """One that draws these numbers; three classes, of which the first is likeliest."""
    card = CARD.model_copy(update={"labels": ("card", "loan", "other"), "abstain_threshold": 0.4, "temperature": 1.0})
    signer = Signer(RING, timedelta(hours=1), lambda: NOW)
    return Answerer(card, "router", 3, signer, new_metrics(), iter(chances).__next__)


HALF = np.log(np.array([[0.5, 0.3, 0.2]]))


@pytest.mark.parametrize(
    ("chances", "label", "confidence", "propensity"),
    [
        # 0.9 of the answers are the likeliest, 0.1 are drawn: 0.9 + 0.1 * 0.5, and 0.1 * 0.3, 0.1 * 0.2
        ((0.1,), "card", 0.5, 0.95),
        ((0.09, 0.49), "card", 0.5, 0.95),
        ((0.09, 0.51), "loan", 0.3, 0.03),
        ((0.0, 0.99), "other", 0.2, 0.02),
    ],
)
def test_a_drawn_answer_is_recorded_with_its_probability(
    chances: tuple[float, ...], label: str, confidence: float, propensity: float
) -> None:
    ask = AskOne(text="t", probabilities=True)
    answers = answerer(*chances).answer(ask, HALF, Assignment("ann", explore=0.1))
    assert answers.body["label"] == label
    assert answers.body["confidence"] == pytest.approx(confidence)
    assert answers.body["probabilities"] == pytest.approx({"card": 0.5, "loan": 0.3, "other": 0.2})
    assert answers.records[0]["label"] == label
    assert answers.records[0]["actionPropensity"] == pytest.approx(propensity)


def test_answers_are_drawn_as_often_as_they_say() -> None:
    """Each answer's frequency is its propensity; without that, what is learned from the log would be biased."""
    draws = np.random.default_rng(1)
    drawn = replace(answerer(), chance=draws.random)
    ask, who = AskMany(texts=("t",) * 250), Assignment("ann", explore=0.5)
    records = [r for _ in range(20) for r in drawn.answer(ask, np.repeat(HALF, 250, axis=0), who).records]
    propensities = {record["label"]: record["actionPropensity"] for record in records}
    assert propensities == pytest.approx({"card": 0.75, "loan": 0.15, "other": 0.1})
    for label, propensity in propensities.items():
        share = sum(record["label"] == label for record in records) / len(records)
        assert share == pytest.approx(propensity, abs=4 * (propensity * (1 - propensity) / 5000) ** 0.5)


def test_nobody_draws_where_it_would_teach_nothing_or_spoil_a_comparison() -> None:
    unsure = np.log(np.array([[0.36, 0.34, 0.3]]))
    for logits, who in (
        (unsure, Assignment("ann", explore=1.0)),  # it abstains
        (HALF, Assignment("ann", pairing=Pairing(9, EXPERIMENT, "r"), explore=1.0)),  # a shadow is asked, too
        (HALF, Assignment("ann")),
    ):
        record = answerer().answer(AskOne(text="t"), logits, who).records[0]
        assert (record["label"], record["actionPropensity"]) == ("card", 1.0)


async def test_only_a_router_says_that_answers_are_drawn() -> None:
    gateway, headers = Gateway(), {"x-ratchet-explore": "0.5"}
    async with server(Lengths(), ring=RING, gateway=gateway, behind_router=True) as client:
        assert (await client.post("/v1/classify", json={"text": "abcdefgh"}, headers=headers)).status_code == 200
        for said in ("1.5", "-1", "nan", "much"):
            refused = await client.post("/v1/classify", json={"text": "t"}, headers={"x-ratchet-explore": said})
            assert refused.status_code == 422
            assert f"x-ratchet-explore '{said}'" in refused.json()["detail"]
    async with server(Lengths(), ring=RING, gateway=gateway) as client:
        await client.post("/v1/classify", json={"text": "abcdefgh"}, headers=headers)
    explored, plain = InteractionBatch.model_validate({"events": gateway.records}).events
    assert explored.action_propensity is not None
    assert explored.action_propensity < 1
    assert plain.action_propensity == 1
