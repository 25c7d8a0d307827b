"""What is blotted out of people's words, what is not, and that the database's first look misses none of it."""

from __future__ import annotations

import re
from collections import Counter

import duckdb
import pytest

from ratchet_jobs.data.redaction import SUSPECT, redact

_40 = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
FOUND = [
    ("write to jo.doe+x@mail.example.org, please", "write to [EMAIL], please", "email"),
    ("call +49 30 901820 now", "call [PHONE] now", "phone"),
    ("call 0049 30 901820 now", "call [PHONE] now", "phone"),
    ("call 555-010-1234 or (555) 010 1234", "call [PHONE] or [PHONE]", "phone"),
    ("my number is 030 901820-12", "my number is [PHONE]", "phone"),
    ("it is 030/9018201, ask for Jo", "it is [PHONE], ask for Jo", "phone"),
    ("mobile: 0151 23456789.", "mobile: [PHONE].", "phone"),
    ("mobile 015123456789", "mobile [PHONE]", "phone"),
    ("London (020) 7946 0958", "London [PHONE]", "phone"),
    ("Paris 01 23 45 67 89!", "Paris [PHONE]!", "phone"),
    ("card 4111 1111 1111 1111", "card [CARD]", "card"),
    ("AK" + "IAIOSFODNN7EXAMPLE is mine", "[KEY] is mine", "key"),
    (f"aws_secret_access_key = {_40}", "aws_[KEY]", "key"),
    (f'"SecretAccessKey": "{_40}"', '"[KEY]"', "key"),
    (f"my secret key is {_40}", "my [KEY]", "key"),
    ("ghp_" + "a1" * 18, "[KEY]", "key"),
    ("sk-" + "a1" * 24, "[KEY]", "key"),
    ("sk_live_" + "4eC39HqLyjWDarjt", "[KEY]", "key"),
    ("rk_test_" + "4eC39HqLyjWDarjt", "[KEY]", "key"),
    ("glpat-" + "x" * 20, "[KEY]", "key"),
    ("npm_" + "a1" * 18, "[KEY]", "key"),
    ("SG." + "a" * 22 + "." + "b" * 43, "[KEY]", "key"),
    ("shpat_" + "0f" * 16, "[KEY]", "key"),
    ("dop_v1_" + "0f" * 32, "[KEY]", "key"),
    ("pypi-AgE" + "x" * 60, "[KEY]", "key"),
    ("whsec_" + "a1" * 16, "[KEY]", "key"),
    ("Authorization: Bearer abcdefghij0123456789", "Authorization: [KEY]", "key"),
    ("eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "[KEY]", "key"),
    ("-----BEGIN RSA " + "PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "[KEY]", "key"),
]
KEPT = [
    "it was 5 @ 3",
    "the order 4111 1111 1111 1112 has no right check digit",
    "on 05-11-2024 10 30 and on 09 11 2001 and 01.02.2024",
    "from 2024-01-02 08:00 to 09:30",
    "version 0.12.345.678 of 01/02/2024",
    "the 0123 rows of 0x0123456789",
    "order 12-0123456789-01 of account 1001234567",
    "a secret key opens the door; the secret is out",
    "a risk_live_show in snake_case",
    "10.0.0.1 and 192.168.001.002",
    "007 and 0815",
]


@pytest.mark.parametrize(("text", "want", "kind"), FOUND)
def test_what_identifies_people_and_opens_doors_is_blotted_out(text: str, want: str, kind: str) -> None:
    found: Counter[str] = Counter()
    assert redact(text, found) == want
    assert found == {kind: want.count("[")}


@pytest.mark.parametrize("text", KEPT)
def test_other_texts_stay_as_they_are(text: str) -> None:
    found: Counter[str] = Counter()
    assert (redact(text, found), found) == (text, Counter())


def test_the_databases_first_look_misses_nothing() -> None:
    """Rows that it lets pass are never redacted."""
    texts = [text for text, _, _ in FOUND]
    seen = duckdb.execute(
        "SELECT t FROM (SELECT unnest($texts) AS t) WHERE regexp_matches(t, $pattern)",
        {"texts": texts, "pattern": SUSPECT},
    ).fetchall()
    assert sorted(text for (text,) in seen) == sorted(texts)
    assert re.compile(SUSPECT), "the same for Python"


def test_a_long_text_of_one_kind_of_letter_costs_no_square_of_its_length() -> None:
    """Each would take minutes where a pattern backtracks."""
    for piece in ("0", "01 ", "a", "a.", "secret key ", "+", "(0", "Bearer ", "eyJ", "01/", "sk_live_"):
        redact(piece * 20_000, Counter())
