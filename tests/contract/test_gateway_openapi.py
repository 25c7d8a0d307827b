"""Requests made up from the gateway's own OpenAPI document, good and bad ones: no answer that it does not name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ratchet_gateway.training import LocalTraining
from tests.gateway_app import key_of, listening

pytestmark = pytest.mark.slow

OPERATIONS = {
    "POST /v1/feedback",
    "POST /v1/interactions",
    "POST /api/policies/feedback/{policy}",
    "GET /api/policies/{policy}",
    "GET /api/policies/{policy}/feedback",
    "GET /api/policies/{policy}/feedback/count",
    "GET /api/policies/{policy}/rollout",
    "POST /api/policies/train_policy/{policy}",
    "GET /api/policies/train_policy/{policy}/{run}",
    "POST /v1/erasures",
    "GET /v1/erasures/{erasure}",
    "GET /v1/review",
    "GET /v1/review/{policy}",
    "GET /v1/review/{policy}/stats",
    "GET /v1/review/{policy}/datasets",
}

# What holds between fields, or follows from the alphabet, and stands in descriptions instead of the schema.
BETWEEN_FIELDS = (
    "between the years 1 and 9999 in UTC",  # a date-time of the schema whose offset leaves them
    "neither response nor label",
    "neither label nor failed",
    "chosen and rejected are the same text",
    "is blank",
    "valid unicode",
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    limits = {"key_events_per_minute": 10**9, "subject_events_per_minute": 10**9}
    training = LocalTraining(lambda body: None, lambda plural, name: None)
    with listening(tmp_path_factory.mktemp("gateway"), training=training, **limits) as url:
        yield url


@pytest.fixture(scope="module")
def operations(gateway: str) -> dict[str, schemathesis.schemas.APIOperation]:
    document = schemathesis.openapi.from_url(f"{gateway}/openapi.json")
    return {found.ok().label: found.ok() for found in document.get_all_operations()}


def test_the_document_lists_the_routes_that_exist(operations: dict[str, schemathesis.schemas.APIOperation]) -> None:
    assert set(operations) == OPERATIONS


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_answer_is_one_that_the_document_names(
    operations: dict[str, schemathesis.schemas.APIOperation], label: str, mode: GenerationMode
) -> None:
    """Status, content type and body as documented, never a 500; what the document forbids is refused."""

    @given(case=operations[label].as_strategy(generation_mode=mode))
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    def check(case: schemathesis.Case) -> None:
        if mode is GenerationMode.POSITIVE:
            about_the_router(case)
        answer = case.call(headers={"Authorization": f"Bearer {key_of('all')}"})
        case.validate_response(answer, excluded_checks=[positive_data_acceptance])
        codes.append(answer.status_code)
        if mode is GenerationMode.POSITIVE and answer.status_code == 422:
            assert any(rule in answer.json()["detail"] for rule in BETWEEN_FIELDS), answer.text

    codes: list[int] = []
    check()
    if mode is GenerationMode.POSITIVE:
        good = {
            "POST /api/policies/train_policy/{policy}": {200, 202, 400, 404},  # ten samples or not; none stays
            "GET /api/policies/train_policy/{policy}/{run}": {404},
            "POST /v1/erasures": {202},
            "GET /v1/erasures/{erasure}": {404},
        }.get(label, {200})
        assert sum(code in good for code in codes) > len(codes) / 3, "made-up good requests are often taken"


def about_the_router(case: schemathesis.Case) -> None:
    """Make the request one about the policy that there is; made-up interaction ids are never good.

    Fields that only go together are seldom made up together, so that half of them is taken out.
    """
    if "policy" in case.path_parameters:
        case.path_parameters["policy"] = "router"
    elif isinstance(case.body, dict) and case.path != "/v1/erasures":
        for event in case.body.get("events", [case.body]):
            event.pop("interactionId", None)
            event["policy"] = "router"
            if event.get("dropped") is None or event.get("recorder") is None:
                event.pop("dropped", None)
                event.pop("recorder", None)
