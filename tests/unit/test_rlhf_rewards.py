"""Rewards of answers: each component by hand, their weighted sum, and what a formula may name."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ratchet_api.answer_reward import AnswerReward, Catalogue
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.metrics.generation import answer_bleu, distinct, taken_up
from ratchet_jobs.rlhf.components.form import PATIENCE_SECONDS
from ratchet_jobs.rlhf.components.formula import unlike_others
from ratchet_jobs.rlhf.components.length import fit
from ratchet_jobs.rlhf.components.recommendation import Named, read_catalogue, worth
from ratchet_jobs.rlhf.components.wanted_words import said_of
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.rewards import AnswerRewards
from ratchet_jobs.rlhf.said import Rows, Sources
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadLabelsError, BadModelError

TEXTS = ("thank you very much thank you very much", "Sorry, no!")
RIGHT = {
    (7, 8): [Demonstration((Turn("user", "have this"),), "thank you very much")],
    (9,): [Demonstration((Turn("user", "a film?"),), "sorry no", ("Very Much", "Heat"), "sad")],
}


def episodes() -> Episodes:
    """Two answers, to the prompts 7 8 and 9, the shorter of which is padded."""
    prompts, real = torch.tensor([[7, 8], [0, 9]]), torch.tensor([[True, True], [False, True]])
    mask = torch.tensor([[True] * 8, [True] * 2 + [False] * 6])
    nothing = torch.zeros(mask.shape)
    return Episodes(prompts, real, mask.long(), mask, nothing, nothing, nothing, torch.tensor([True, False]))


def rewarded(
    *components: dict[str, Any], texts: Sequence[str] = TEXTS, rows: Rows = RIGHT, **sources: Any
) -> AnswerRewards:
    made = [AnswerReward.model_validate(each) for each in components]
    return AnswerRewards(made, texts=lambda _: texts, max_new_tokens=8, sources=Sources(rows=rows, **sources))


def test_a_curriculum_weighs_by_the_answers_drawn_before_and_by_its_end_afterwards() -> None:
    points = [{"atInteraction": 10, "weight": 2.0}, {"atInteraction": 20, "weight": -1.0}]
    rewards = rewarded(
        {"type": "expression", "expression": "1", "curriculum": points},
        {"type": "expression", "name": "ten", "expression": "10"},
    )
    # 2 until 10, halfway to -1 at 15, -1 from 20 on
    for drawn, want in ((0, 12.0), (10, 12.0), (15, 10.5), (20, 9.0), (99, 9.0)):
        rewards.interactions = drawn
        assert rewards(episodes()).tolist() == [want, want]
    ended = rewarded({"type": "expression", "expression": "1", "curriculum": points})
    assert ended(episodes()).tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("formula", "want"),
    [
        # of eight words four differ; of seven pairs four, of six runs of three four: two of six come back
        ("distinct", [0.5, 1.0]),
        ("distinct2", [4 / 7, 1.0]),
        ("repetition", [2 / 6, 0.0]),
        ("distinct_together", [0.5, 1.0]),  # the two share no word
        # of eight words four are right, since the reference has each once; of "Sorry , no !" one in four is
        ("bleu1", [0.5, 0.25]),
        ("ended - tokens / max_tokens", [0.0, -0.25]),
    ],
)
def test_a_formula_is_of_the_answer_itself(formula: str, want: list[float]) -> None:
    assert rewarded({"type": "expression", "expression": formula})(episodes()).tolist() == pytest.approx(want)


def test_variety_among_answers_adds_up_to_distinct_1() -> None:
    texts = ["I like it", "I like Heat", "i Like that that", ""]
    # I and like are said three times; that twice by one answer, which counts it once
    want = [(1 / 3 + 1 / 3 + 1) / 3, (1 / 3 + 1 / 3 + 1) / 3, (1 / 3 + 1 / 3 + 1) / 4, 0.0]
    found = unlike_others(texts, [1, 2, 3, 4])
    assert found == pytest.approx(want)
    lengths = [len(text.split()) for text in texts]
    together = sum(part * words for part, words in zip(found, lengths, strict=True)) / sum(lengths)
    assert together == pytest.approx(distinct(texts, order=1))


def test_answers_to_one_prompt_are_not_held_against_each_other() -> None:
    # Heat is said by two answers to prompt 1 and by one of two to prompt 2: by half an answer on average
    found = unlike_others(["Heat", "Heat", "Heat", "no"], [1, 1, 2, 2])
    assert found == pytest.approx([1 / 1.5, 1 / 1.5, 1 / 2, 1.0])


def test_what_an_answer_takes_up_are_the_long_words_of_the_turn_before_it() -> None:
    rows: Rows = {
        (7, 8): [
            Demonstration((Turn("user", "Heat?"), Turn("assistant", "no"), Turn("user", "Was Alien GREAT?")), "yes")
        ]
    }
    # "alien" and "great" of alien, great, says and heat; said twice counts once, and Heat was said before the last turn
    texts = ("Alien, alien was great, says Heat", "Was it? no")
    formula = {"type": "expression", "expression": "overlap"}
    assert rewarded(formula, texts=texts, rows=rows)(episodes()).tolist() == [0.5, 0.0]
    assert taken_up("was it", "was it") == 0.0, "short words say nothing"


def test_an_answer_is_held_against_all_right_ones_of_its_prompt() -> None:
    # unigrams: 4 of 5 words are right, and it is longer than the reference, so nothing is taken off
    assert answer_bleu("thank you very much indeed", ["thank you very much"], order=1) == pytest.approx(0.8)
    assert answer_bleu("no", ["sorry", "no"], order=2) == pytest.approx(1.0)
    assert answer_bleu("", ["sorry"], order=1) == 0.0


def test_words_count_once_whatever_their_case_and_what_stands_around_them() -> None:
    assert said_of("Sorry, no! no", ("SORRY", "no", "maybe", "n")) == 0.5
    assert said_of("", ("a",)) == 0.0


def test_components_are_weighed_and_told_apart() -> None:
    rewards = rewarded(
        {"type": "words", "words": ["sorry"], "weight": -2.0},
        {"type": "expression", "expression": "ended"},
        {"type": "expression", "expression": "tokens", "weight": 0.5},
    )
    assert rewards(episodes()).tolist() == [0.0 + 1.0 + 4.0, -2.0 + 0.0 + 1.0]
    assert rewards.latest == {"words": 0.5, "expression": 0.5, "expression-3": 5.0}


def test_a_formula_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(BadConfigError, match=r"names 'rouge'; there are: .*bleu1"):
        rewarded({"type": "expression", "expression": "rouge"})


def test_a_component_is_told_by_its_name_and_two_of_one_name_are_numbered() -> None:
    length = {"type": "length", "minWords": 4}
    rewards = rewarded(length | {"name": "long"}, length, length)
    rewards(episodes())
    # of "Sorry, no!" there are two words of four
    assert rewards.latest == {"long": 0.75, "length": 0.75, "length-3": 0.75}


def test_a_reward_model_that_is_not_there_is_refused_with_both_ways_to_name_one() -> None:
    """P39."""
    with pytest.raises(BadConfigError, match=r"set stages.rewardModel, or name one .* by the reward's model"):
        rewarded({"type": "rewardModel"})


def test_one_listed_word_makes_an_answer_unsafe_however_long_the_list_is() -> None:
    assert rewarded({"type": "safety", "words": ["no", "never", "THANK"]})(episodes()).tolist() == [0.0, 0.0]
    assert rewarded({"type": "safety", "words": ["nothing", "thanks"]})(episodes()).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("words", "want"), [(0, 0.0), (2, 0.5), (4, 1.0), (6, 1.0), (8, 0.75), (12, 0.5)])
def test_a_length_is_worth_less_the_further_it_is_off(words: int, want: float) -> None:
    assert fit(words, least=4, most=6) == want


def test_a_format_is_of_the_whole_answer() -> None:
    said = ['{"film": "Heat"}', '{"film": "Heat"} ok']
    assert rewarded({"type": "format", "pattern": r"\{.*\}"}, texts=said)(episodes()).tolist() == [1.0, 0.0]
    schema = {"type": "object", "required": ["film"], "properties": {"film": {"$ref": "#/$defs/name"}}}
    schema["$defs"] = {"name": {"type": "string", "maxLength": 4}}
    wanted = {"type": "format", "jsonSchema": json.dumps(schema)}
    assert rewarded(wanted, texts=said)(episodes()).tolist() == [1.0, 0.0]
    assert rewarded(wanted, texts=['{"film": "Casino"}', "[" * 100_000])(episodes()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"pattern": "("}, r"pattern '\(' cannot be read: missing \)"),
        ({"jsonSchema": "{]"}, "jsonSchema is no JSON: .*; correct it"),
        ({"jsonSchema": '{"type": 3}'}, "jsonSchema is no JSON Schema: 3 is not valid"),
        ({"jsonSchema": '{"$ref": "https://elsewhere.example/s"}'}, "refers to 'https://elsewhere.example/s'.*nothing"),
        ({"jsonSchema": '{"$ref": "#/$defs/none"}'}, "refers to '.*none', which it does not hold"),
    ],
)
def test_a_format_that_cannot_be_asked_for_is_refused_with_the_field(wanted: dict[str, str], message: str) -> None:
    """P39."""
    with pytest.raises(BadConfigError, match=message):
        rewarded({"type": "format"} | wanted, texts=["{}", "{}"])(episodes())


def test_a_pattern_that_never_ends_ends_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PATIENCE_SECONDS > 1, "a busy machine must not fail a run"
    monkeypatch.setattr("ratchet_jobs.rlhf.components.form.PATIENCE_SECONDS", 0.01)
    with pytest.raises(BadConfigError, match="without one repetition inside another"):
        rewarded({"type": "format", "pattern": r"(\w|\w\w)+\d"}, texts=["a" * 200, ""])(episodes())


def test_the_longest_item_counts_once_where_its_words_follow_each_other() -> None:
    named = Named(["Heat", "The Heat", "the heat!", "Ran", "!"])
    assert len(named.items) == 3
    assert named("I saw THE HEAT, heat and the heat; I ran") == [("the", "heat"), ("heat",), ("ran",)]
    assert named("theheat") == []
    assert Named(["Heat", "Heat Wave"])("heat wave") == [("heat", "wave")]


@pytest.mark.parametrize(
    ("named", "right", "want"),
    [
        ("b a", "a", 0.5),
        ("a b", "a", 1.0),
        ("b", "a", 0.0),
        ("", "a", 0.0),
        ("a b", "", 0.5),
        ("b", "", 1.0),
        ("", "", 0.0),
    ],
)
def test_a_recommendation_is_worth_more_the_earlier_the_right_item_is_named(
    named: str, right: str, want: float
) -> None:
    assert worth([(item,) for item in named.split()], {(item,) for item in right.split()}) == want


def test_rows_say_which_item_is_right_and_what_none_mentions_is_no_item() -> None:
    said = ["very much", "Heat or very much"]
    both = ({"type": "recommendation"}, {"type": "itemRatio"})
    rewards = rewarded(*both, texts=said, mentioned=frozenset({"Very Much", "Ran"}))
    assert rewards(episodes()).tolist() == [1.0 + 1.0, 1.0 + 1.0], "Heat is right and no item, so very much comes first"
    assert rewarded(*both, texts=["no", "Heat"], mentioned=frozenset({"Ran"}))(episodes()).tolist() == [0.0, 0.0]
    other = rewarded(*both, texts=["no", "Ran"], mentioned=frozenset({"Ran"}))
    assert other(episodes()).tolist() == [0.0, 2.0], "of a row whose items are no items any is right"
    with pytest.raises(BadDataError, match=r"itemRatio has no items: .* set spec.columns.items of the dataset, or cat"):
        rewarded({"type": "itemRatio"})


@pytest.mark.parametrize(
    ("name", "text", "column"),
    [
        ("films.txt", "Heat\n\nRan\n", None),
        ("films.csv", "name,year\nHeat,1995\nRan,1985\n", None),
        ("films.jsonl", '{"of": {"title": "Ran"}}\n{"of": {}}\nno json\n{"of": {"title": "Heat"}}\n', "of.title"),
    ],
)
def test_a_catalogue_is_a_list_or_a_column(tmp_path: Path, name: str, text: str, column: str | None) -> None:
    (tmp_path / name).write_text(text)
    file = Catalogue(uri=f"store://{name}", sha256="0" * 64, column=column)
    assert read_catalogue(tmp_path / name, file) == ["Heat", "Ran"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("films.txt", b"\n!\n", "holds 0 names of items, 1 to 1,000,000 are needed"),
        ("films.txt", b"\xff\xfe", "is no UTF-8"),
        ("films.csv", b"title\nHeat\n", "no row has a text in column 'name'; correct catalogue.column"),
    ],
)
def test_a_catalogue_without_items_is_refused_with_its_name(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    """P39."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadDataError, match=rf"catalogue store://{name}: {message}"):
        read_catalogue(tmp_path / name, Catalogue(uri=f"store://{name}", sha256="0" * 64))


class Feels:
    """A classifier that finds a text sad to the share of its words that are "sad"."""

    labels = ("happy", "sad")
    tasks: tuple[str, ...] = ()

    def predict_proba(self, texts: Sequence[str]) -> np.ndarray:
        sad = [text.split().count("sad") / max(1, len(text.split())) for text in texts]
        return np.array([[1 - share, share] for share in sad])


EMPATHY = {"type": "empathy", "classifier": {"uri": "store://feelings", "sha256": "f" * 64}}


def test_empathy_is_the_chance_that_both_feel_the_same() -> None:
    rows = {
        (7, 8): [Demonstration((Turn("user", "sad sad sad day"),), "oh")],  # 3/4 sad, as the classifier says
        (9,): [Demonstration((Turn("user", "a day"),), "oh", None, "sad")],  # sad, as the row says
    }
    rewards = rewarded(EMPATHY, texts=["sad too", "sad or not sad"], rows=rows, classifier=lambda _: Feels())
    assert rewards(episodes()).tolist() == pytest.approx([0.25 * 0.5 + 0.75 * 0.5, 0.5])
    rewards = rewarded(EMPATHY, texts=[" ", "sad"], rows=rows, classifier=lambda _: Feels())
    assert rewards(episodes()).tolist() == pytest.approx([0.0, 1.0]), "saying nothing is no sympathy"


def test_a_classifier_that_does_not_know_an_emotion_is_refused_with_what_it_knows() -> None:
    """P39."""
    rows = {(9,): [Demonstration((Turn("user", "a"),), "b", None, "proud")]}
    with pytest.raises(
        BadLabelsError, match=r"store://feelings: it tells happy, sad, and rows .* emotion 'proud'; name"
    ):
        rewarded(EMPATHY, rows=rows, classifier=lambda _: Feels())
    several = type("Several", (Feels,), {"tasks": ("mood", "topic")})
    with pytest.raises(BadModelError, match="it has the tasks mood, topic; name a classifier of emotions alone"):
        rewarded(EMPATHY, classifier=lambda _: several())


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("answer_rewards")
    monkeypatch.setitem(sys.modules, "answer_rewards", module)
    return module


OWN = {"type": "entryPoint", "entryPoint": "answer_rewards:score", "name": "own", "weight": 2.0}


def test_own_code_is_asked_with_prompts_answers_and_the_rows_of_the_prompts(own_module: ModuleType) -> None:
    asked: list[Any] = []

    def score(prompts: list[str], answers: list[str], rows: list[list[dict[str, Any]]]) -> list[float]:
        asked.append((list(prompts), list(answers), rows))
        answers.clear()  # its own copy
        return [0.25, 1.0]

    own_module.score = score  # type: ignore[attr-defined]
    rewards = rewarded(OWN, {"type": "words", "words": ["sorry"]})
    assert rewards(episodes()).tolist() == [0.5, 3.0], "twice what it says, and the words"
    assert rewards.latest == {"own": 0.625, "words": 0.5}
    ((prompts, answers, rows),) = asked
    assert prompts == ["have this", "a film?"]
    assert answers == list(TEXTS)
    film = {"turns": [{"role": "user", "content": "a film?"}], "response": "sorry no"}
    assert rows[1] == [film | {"items": ["Very Much", "Heat"], "emotion": "sad"}]
    assert rows[0][0]["items"] is rows[0][0]["emotion"] is None


@pytest.mark.parametrize(
    ("said", "want"),
    [
        pytest.param([0.5], r"gave shape \(1,\) for 2 answers; return one number per answer", id="too few"),
        pytest.param(0.5, r"gave shape \(\) for 2 answers", id="one for all"),
        pytest.param([[0.5], [0.5]], r"gave shape \(2, 1\) for 2 answers", id="rows of one"),
        pytest.param(
            [0.5, float("nan")], r"gave nan for the answer 'Sorry, no!'; return numbers from 0 to 1", id="NaN"
        ),
        pytest.param([1.5, 0.5], r"gave 1.5 for the answer 'thank you", id="too much"),
        pytest.param([0.5, -0.1], r"gave -0.1 for the answer 'Sorry", id="less than nothing"),
        pytest.param([float("inf"), 0.5], r"gave inf for the answer 'thank", id="without end"),
        pytest.param("good", r"raised \w+: .*; mend the function", id="no numbers"),
        pytest.param(None, r"raised \w+: .*; mend the function", id="nothing"),
        pytest.param(KeyError("threshold"), r"raised KeyError: 'threshold'; mend the function", id="it raises"),
    ],
)
def test_own_code_that_answers_with_something_else_is_named(own_module: ModuleType, said: Any, want: str) -> None:
    def score(*_: Any) -> Any:
        if isinstance(said, Exception):
            raise said
        return said

    own_module.score = score  # type: ignore[attr-defined]
    with pytest.raises(BadConfigError, match=rf"^stages.rlhf.rewards: entryPoint: 'answer_rewards:score' {want}"):
        rewarded(OWN)(episodes())


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("no_such_module:score", "is not in this image .*; build it in"),
        ("answer_rewards:absent", "is not in this image .*; build it in"),
        ("answer_rewards:number", "is a int; name a function"),
        ("breaks_at_import:score", "importing breaks_at_import raised ValueError: no licence; mend the module"),
    ],
)
def test_own_code_that_is_not_there_is_refused_before_anything_is_drawn(
    own_module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, want: str
) -> None:
    own_module.number = 3  # type: ignore[attr-defined]
    (tmp_path / "breaks_at_import.py").write_text("raise ValueError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadConfigError, match=rf"^stages.rlhf.rewards: entryPoint: '{name}'.*{want}"):
        rewarded(OWN | {"entryPoint": name})
