"""A version's generation config in its server: it acts where a request says nothing, and a request's own word wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from ratchet_api.environment import SettingsError
from ratchet_api.feedback import InteractionBatch
from ratchet_api.generation import Generation, KeptGeneration
from ratchet_jobs.data.turns import Turn
from ratchet_serving.generation.answers import check_defaults
from ratchet_serving.settings import Settings
from tests import generator_server
from tests.generator_server import CHAT, CONTEXT, RING, Counting, Gateway, Words
from tests.unit import test_serving as classifiers


class Told(Words):
    """A template that takes a system message as words like the others."""

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        return self.plain(" ".join(turn.content for turn in turns))


def asked(words: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}]} | more


async def answer(config: dict[str, Any], body: dict[str, Any], *, path: str = CHAT) -> Any:
    """The answer to a request and what the gateway is told of it."""
    gateway = Gateway()
    more: dict[str, Any] = {"ring": RING, "gateway": gateway, "wording": Told()}
    async with generator_server.server(Counting(), generation=Generation.model_validate(config), **more) as client:
        response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json(), InteractionBatch.model_validate({"events": gateway.records}).events[0]


LIKELY = math.e**10 / (math.e**10 + 39)
"""Of the word that comes next, at temperature 2: its logit is 20, that of the 39 others 0."""


@pytest.mark.parametrize(
    ("config", "more", "temperature", "propensity"),
    [
        pytest.param({}, {}, "1", math.e**20 / (math.e**20 + 39), id="as trained"),
        pytest.param({"temperature": 2}, {}, "2", LIKELY, id="the version's temperature"),
        pytest.param({"temperature": 0}, {"temperature": 2}, "2", LIKELY, id="the request's"),
        pytest.param({"temperature": 2}, {"temperature": 0}, "0", 1.0, id="the request's, though 0"),
        pytest.param({"temperature": 2, "topP": 0.5}, {}, "2", 1.0, id="the version's mass, which one word has"),
        pytest.param({"temperature": 2, "topP": 0.5}, {"top_p": 1}, "2", LIKELY, id="the request's mass"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
async def test_tokens_are_drawn_as_the_version_has_it_unless_the_request_says_how(
    config: dict[str, Any], more: dict[str, Any], temperature: str, propensity: float, path: str
) -> None:
    body = (asked("w3") if path == CHAT else {"prompt": "w3"}) | {"seed": 7}
    _, record = await answer(config | {"maxTokens": 1}, body | more, path=path)
    assert record.tags["temperature"] == temperature
    assert record.action_propensity == pytest.approx(propensity, rel=1e-9 if propensity == 1 else 1e-6)
    assert (propensity == 1) == (record.action_propensity == 1)


@pytest.mark.parametrize(
    ("more", "tokens"),
    [({}, 3), ({"max_tokens": 5}, 5), ({"max_completion_tokens": 2}, 2)],
    ids=["the version's", "the request's", "by its newer name"],
)
async def test_an_answer_is_as_long_as_the_version_has_it_unless_the_request_says_how_long(
    more: dict[str, Any], tokens: int
) -> None:
    body, _ = await answer({"maxTokens": 3, "temperature": 0}, asked("w3", **more))
    assert body["usage"]["completion_tokens"] == tokens


async def test_a_conversation_begins_with_the_versions_system_prompt_and_the_record_says_so() -> None:
    """What was drawn was drawn given the prompt, so that who learns from the log must know of it."""
    body, record = await answer({"systemPrompt": "w20 w21", "temperature": 0}, asked("w36"))
    assert body["usage"]["prompt_tokens"] == 3
    assert record.input == "system: w20 w21\nuser: w36"


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_requests_own_system_message_is_the_only_one(role: str) -> None:
    turns = [{"role": role, "content": "w9"}, {"role": "user", "content": "w36"}]
    body, record = await answer({"systemPrompt": "w20 w21", "temperature": 0}, {"messages": turns})
    assert (body["usage"]["prompt_tokens"], record.input) == (2, "system: w9\nuser: w36")


async def test_an_empty_system_prompt_is_none() -> None:
    body, record = await answer({"systemPrompt": "", "temperature": 0}, asked("w36"))
    assert (body["usage"]["prompt_tokens"], record.input) == (1, "w36")


async def test_a_text_is_gone_on_with_as_it_is_whatever_the_system_prompt() -> None:
    config = {"systemPrompt": "w20 w21", "temperature": 0}
    body, record = await answer(config, {"prompt": "w36"}, path="/v1/completions")
    assert (body["usage"]["prompt_tokens"], record.input) == (1, "w36")


def test_a_system_prompt_that_the_policy_cannot_be_told_ends_the_server_with_the_reason() -> None:
    with pytest.raises(SettingsError, match="systemPrompt: the base model's chat template refuses"):
        check_defaults(Words(), CONTEXT, KeptGeneration(system_prompt="w3"))  # type: ignore[arg-type]
    long = KeptGeneration(system_prompt=" ".join(["w3"] * CONTEXT))
    with pytest.raises(SettingsError, match=f"about {CONTEXT + 1} tokens and the policy's context {CONTEXT}"):
        check_defaults(Told(), CONTEXT, long)  # type: ignore[arg-type]
    check_defaults(Words(), CONTEXT, KeptGeneration(system_prompt=""))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("threshold", "want"),
    # confidences 0.880797 and 0.622459; the card's own threshold is 0.7
    [(None, [False, True]), (0.0, [False, False]), (0.62, [False, False]), (0.9, [True, True])],
)
async def test_a_classifier_abstains_below_the_versions_threshold(threshold: float | None, want: list[bool]) -> None:
    config = KeptGeneration(abstain_threshold=threshold)
    async with classifiers.server(classifiers.Lengths(), generation=config) as client:
        told = (await client.post("/v1/classify", json={"texts": ["12345678", "12345"]})).json()
        kserve = await client.post("/v1/models/router:predict", json={"instances": ["12345678", "12345"]})
    assert [each["abstain"] for each in told["results"]] == want
    assert [each["abstain"] for each in kserve.json()["predictions"]] == want


async def test_a_versions_threshold_is_that_of_each_task() -> None:
    config = KeptGeneration(abstain_threshold=0.95)
    async with classifiers.server(classifiers.Lengths(4), classifiers.TASKS, generation=config) as client:
        told = (await client.post("/v1/classify", json={"text": "12345678"})).json()["tasks"]
    # softmax(4, 0) = 0.982 of topic; mood knows nothing: 0.5
    assert {task: said["abstain"] for task, said in told.items()} == {"topic": False, "mood": True}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{", "cannot be: it: Invalid JSON"),
        ('{"temperature": "hot"}', "cannot be: temperature: Input should be a valid number"),
        ('{"temperature": 3}', "cannot be: temperature: Input should be less than or equal to 2"),
        ('{"heat": 1}', "cannot be: heat: Extra inputs are not permitted"),
        ("{}", "generation is empty; give temperature"),
        ("[]", "cannot be: it: Input should be an object"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(text: str, want: str) -> None:
    with pytest.raises(SettingsError, match=r"RATCHET_SERVING_GENERATION=.*set JSON such as") as caught:
        Settings.from_env({"RATCHET_SERVING_POLICY": "helper", "RATCHET_SERVING_GENERATION": text})
    assert want in str(caught.value)


def test_a_config_in_words() -> None:
    long = KeptGeneration(temperature=0.2, max_tokens=9, system_prompt="Be brief.\n" + "No jokes. " * 9)
    assert long.sentence == "temperature 0.2, maxTokens 9, systemPrompt “Be brief. No jokes. No jokes. No jokes.…”"
    assert KeptGeneration(system_prompt="").sentence == "no systemPrompt"
    assert KeptGeneration().sentence == "no generation config"
