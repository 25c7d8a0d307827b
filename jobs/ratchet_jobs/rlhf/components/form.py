"""Component `format`: whether a whole answer matches a regular expression, or is JSON of a schema.

A pattern that backtracks without end is stopped: an answer that takes it longer than `PATIENCE_SECONDS` ends the stage,
since a reward that depended on the machine's speed could not be repeated. A schema may refer to itself and to nothing
else: nothing is fetched.
"""

from __future__ import annotations

import json
from typing import Any

import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from ratchet_api.answer_reward import AnswerReward
from ratchet_jobs.rlhf.said import Component, Sources
from ratchet_jobs.runtime.errors import BadConfigError

PATIENCE_SECONDS = 5.0
"""With one answer; a pattern that does not explode takes microseconds."""
FIELD = "stages.rlhf.rewards"


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component.

    Raises:
        BadConfigError: pattern or schema is malformed.
    """
    return _matching(wanted.pattern) if wanted.pattern is not None else _valid(str(wanted.json_schema))


def _matching(text: str) -> Component:
    try:
        pattern = regex.compile(text)
    except regex.error as error:
        raise BadConfigError(f"{FIELD}: pattern {text!r} cannot be read: {error}; correct it") from error

    def matches(answer: str) -> float:
        try:
            return float(pattern.fullmatch(answer, timeout=PATIENCE_SECONDS) is not None)
        except TimeoutError as error:
            raise BadConfigError(
                f"{FIELD}: pattern {text!r} takes over {PATIENCE_SECONDS:g} s with the answer {answer[:80]!r}; write "
                "it without one repetition inside another"
            ) from error

    return lambda said: said.each(matches)


def _valid(text: str) -> Component:
    try:
        schema = json.loads(text)
        Draft202012Validator.check_schema(schema)
    except (ValueError, RecursionError) as error:
        raise BadConfigError(f"{FIELD}: jsonSchema is no JSON: {error}; correct it") from error
    except SchemaError as error:
        raise BadConfigError(f"{FIELD}: jsonSchema is no JSON Schema: {error.message}; correct it") from error
    validator = Draft202012Validator(schema, registry=Registry())

    def holds(answer: str) -> float:
        try:
            found: Any = json.loads(answer)
        except (ValueError, RecursionError):
            return 0.0
        try:
            return float(validator.is_valid(found))
        except Unresolvable as error:
            raise BadConfigError(
                f"{FIELD}: jsonSchema refers to {error.ref!r}, which it does not hold, and nothing is fetched; define "
                "it under $defs"
            ) from error

    return lambda said: said.each(holds)
