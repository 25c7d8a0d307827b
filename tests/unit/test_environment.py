"""How every process of ours reads its environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet_api.environment import Environment, SettingsError
from ratchet_api.stage import StoreConfig

LEVELS = ("debug", "Info")


def test_what_is_absent_or_blank_means_the_default() -> None:
    for read in (Environment({}), Environment({"X": " "})):
        assert (read.text("X", "a"), read.number("X", 2, 1, 3), read.choice("X", "debug", LEVELS)) == ("a", 2, "debug")
        assert (read.words("X"), read.path("X"), read.flag("X"), read.choices("X", "debug", LEVELS)) == (
            (),
            None,
            False,
            ("debug",),
        )


def test_blanks_do_not_count_and_capitals_do_not_in_words_that_are_listed() -> None:
    read = Environment({"WORDS": " a ,, B", "LEVEL": " INFO", "MANY": "info, DEBUG", "YES": "TRUE", "FILE": " /a b "})
    assert (read.words("WORDS"), read.choice("LEVEL", "debug", LEVELS)) == (("a", "B"), "Info")
    assert (read.choices("MANY", "debug", LEVELS), read.flag("YES")) == (("Info", "debug"), True)
    assert read.path("FILE") == Path("/a b")


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "11", "1e3"])
def test_a_number_beyond_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=rf"^X='{text}' is out of bounds; set a number between 0 and 10$"):
        Environment({"X": text}).number("X", 1, 0, 10)


def test_each_refusal_names_the_variable_its_value_and_what_to_set() -> None:
    read = Environment({"X": "Loud, debug", "Y": "maybe"})
    refused = {
        "Z is not set; set it to a place": lambda: read.needed("Z", "a place"),
        "Y='maybe' is not a number; set one between 0 and 1": lambda: read.number("Y", 0, 0, 1),
        "Y='maybe' is unknown; set true or false": lambda: read.flag("Y"),
        "Y='maybe' is unknown; set one of debug, Info": lambda: read.choice("Y", "debug", LEVELS),
        "X='Loud' is unknown; set one of debug, Info": lambda: read.choices("X", "debug", LEVELS),
    }
    for want, ask in refused.items():
        with pytest.raises(SettingsError) as caught:
            ask()
        assert str(caught.value) == want


def test_every_process_names_its_store_alike() -> None:
    named = {"RATCHET_STORE_URI": " s3://b/root ", "RATCHET_STORE_ENDPOINT": "http://seaweed:8333"}
    assert Environment(named).store() == StoreConfig(
        uri="s3://b/root", endpoint="http://seaweed:8333", region="us-east-1"
    )
    assert Environment({"RATCHET_STORE_URI": "file:///x", "RATCHET_STORE_ENDPOINT": " "}).store().endpoint is None
    with pytest.raises(SettingsError, match=r"^RATCHET_STORE_URI is not set; set it to s3://BUCKET"):
        Environment({"RATCHET_STORE_REGION": "eu-central-1"}).store()
