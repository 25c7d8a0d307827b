"""Blots out what identifies people and opens doors: e-mail addresses, telephone and card numbers, keys.

Decides by patterns alone, never by a model: what is replaced is the same in every run. Telephone numbers are those
that `phonenumbers` finds, written internationally, ten digits in the form 555-010-1234, and nine to twelve after a
trunk prefix 0, as most countries write theirs; card numbers those with a right check digit; keys those whose issuers
give them a form of their own, and what is called a secret key. Names and addresses are not found. Pure. Called by the
snapshot stage before anything is written.
"""

from __future__ import annotations

import re
from collections import Counter

import phonenumbers
from stdnum import luhn

_KEYS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{36}\b|\bgithub_pat_[A-Za-z0-9_]{22,}\b"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[A-Za-z0-9-]{10,}|\bhf_[A-Za-z0-9]{30,}\b|\bAIza[A-Za-z0-9_-]{35}"
    r"|\b[rsp]k_(?:live|test)_[A-Za-z0-9]{16,}|\bwhsec_[A-Za-z0-9+/=]{24,}|\bglpat-[A-Za-z0-9_-]{20,}"
    r"|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-AgE[A-Za-z0-9_-]{50,}|\bdop_v1_[a-f0-9]{64}\b|\bshp(?:at|ca|pa|ss)_[a-f0-9]{32}\b"
    r"|\bSG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"
    r"|(?i:secret[ _-]?(?:access[ _-]?)?key)[\"']?\s{0,4}(?:[:=]|is)\s{0,4}[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
    r"|\bBearer [A-Za-z0-9._~+/-]{20,}=*"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.DOTALL,
)
# the local part is bounded, or a long run of letters without @ would cost its length squared
_EMAIL = re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b")
_CARD = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")
_NATIONAL = re.compile(r"(?<![\d-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\d-])")
# no date: neither 05-11-2024 10 30 nor 01.02.2024 is anybody's number
_TRUNK = re.compile(
    r"(?<![\w.,:/+-])(?!\(?0\d[-/. ][01]?\d[-/. ](?:19|20)\d\d(?!\d))"
    r"\(?0[1-9]\d{0,4}\)?[ /-]{0,3}\d{2,10}(?:[ -]\d{2,5}){0,4}(?![\w-])"
)
_TRUNK_DIGITS = range(9, 13)
SUSPECT = (
    r"@|PRIVATE KEY|AKIA|ASIA|gh[pousr]_|github_pat_|sk-|xox|hf_|AIza|eyJ|k_live_|k_test_|whsec_|glpat-|npm_|pypi-AgE"
    r"|dop_v1_|shp[acps]|SG\.|(?i:secret)|Bearer |0[1-9][\d() /-]{7}"
    r"|\d(?:[ -]?\d){12}|\d{3}(?:\) ?|[ .-])\d{3}[ .-]\d{4}|(?:\+|00)[\s(]*\d"
)
"""Whatever one of the patterns can find has this in it, and most texts do not; for RE2, of ASCII texts."""
# The same for Python, in parts: what each pattern cannot do without is looked for at a fraction of its price.
_OF_A_KEY = ("PRIVATE KEY", "AKIA", "ASIA", "_", "sk-", "xox", "AIza", "eyJ", "glpat-", "pypi-", "SG.", "Bearer ")
_SECRET = re.compile("secret", re.IGNORECASE)
_OF_A_LINE_OUT = ("00", "+", "\uff0b")
_TEN_DIGITS = re.compile(r"\d(?:[ ().-]{0,2}\d){9}")
_LINE_OUT = re.compile(r"(?:\+|00)[\s(]*\d")
_DIALLED = re.compile(r"[+\uff0b]|(?<!\d)00[1-9]")


def redact(text: str, found: Counter[str]) -> str:
    """Return the text with `[EMAIL]`, `[PHONE]`, `[CARD]` and `[KEY]` in place of what was found.

    Args:
        text: any text.
        found: counts what was replaced, by kind.
    """
    if any(part in text for part in _OF_A_KEY) or _SECRET.search(text):
        text = _replaced(_KEYS, "KEY", text, found)
    if "@" in text:
        text = _replaced(_EMAIL, "EMAIL", text, found)
    has_ten_digits = _TEN_DIGITS.search(text) is not None  # what is taken out below joins no digits
    if has_ten_digits:
        text = _CARD.sub(lambda match: _card(match[0], found), text)
    if any(part in text for part in _OF_A_LINE_OUT):
        text = _without_phones(text, found)
    if has_ten_digits:
        text = _replaced(_NATIONAL, "PHONE", text, found)
    return _TRUNK.sub(lambda match: _trunk(match[0], found), text) if "0" in text else text


def _replaced(pattern: re.Pattern[str], kind: str, text: str, found: Counter[str]) -> str:
    text, count = pattern.subn(f"[{kind}]", text)
    if count:
        found[kind.lower()] += count
    return text


def _card(text: str, found: Counter[str]) -> str:
    digits = re.sub(r"[ -]", "", text)
    if not digits.isascii() or not luhn.is_valid(digits):
        return text
    found["card"] += 1
    return "[CARD]"


def _trunk(text: str, found: Counter[str]) -> str:
    if sum(each.isdigit() for each in text) not in _TRUNK_DIGITS:
        return text
    found["phone"] += 1
    return "[PHONE]"


def _without_phones(text: str, found: Counter[str]) -> str:
    if not (_DIALLED.search(text) and _LINE_OUT.search(text)):
        return text
    # in these texts 00 is how a line out is dialled; the library knows only the plus, so it is asked with one
    asked = re.sub(r"(?<!\d)00(?=[1-9])", " +", text)
    for match in reversed(list(phonenumbers.PhoneNumberMatcher(asked, None))):
        start = match.start
        if text[start - 1 : start + 1] == "00" and asked[start] == "+":
            start -= 1
        text = f"{text[:start]}[PHONE]{text[match.end :]}"
        found["phone"] += 1
    return text
