"""Rows that show how to answer: a prompt, or the turns of a dialogue, and the answer to follow.

Decides which rows can be learned from and how they stand in a snapshot. Torch-free. `snapshot` puts rows in, the stages
of generators take them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import pyarrow as pa

from ratchet_api.columns import Columns
from ratchet_api.feedback_dataset import DEMONSTRATIONS, SplitName
from ratchet_jobs.data.reading import Example, is_clean, provenance_of, value_at
from ratchet_jobs.data.snapshots import Manifest, Snapshot
from ratchet_jobs.data.turns import ROLES, Role, Turn, as_text
from ratchet_jobs.runtime.errors import BadDataError

DEMONSTRATIONS_SCHEMA = pa.schema(
    [
        pa.field("text", pa.string(), nullable=False),
        pa.field("response", pa.string(), nullable=False),
        pa.field("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        pa.field("component", pa.uint64(), nullable=False),
        pa.field("subject", pa.string()),
        pa.field("time", pa.timestamp("s", tz="UTC")),
    ]
)
"""`messages` holds the turns before the answer where there are other than one prompt."""
ITEMS_FIELD = pa.field("items", pa.list_(pa.string()))
EMOTION_FIELD = pa.field("emotion", pa.string())
MAX_ITEMS, MAX_NAME = 64, 256
"""Items that a response may mention, and characters of an item's or an emotion's name."""


class Demonstration(NamedTuple):
    """What was asked, and the answer to follow."""

    turns: tuple[Turn, ...]
    """Of the dialogue so far; the last is not the assistant's."""
    response: str
    items: tuple[str, ...] | None = None
    """That the response mentions; None = the row does not say."""
    emotion: str | None = None
    """Of the one who is answered; None = the row does not say."""

    @property
    def prompt(self) -> str:
        """The turns as one text: of a single prompt its words alone."""
        return as_text(self.turns)

    @property
    def messages(self) -> list[dict[str, str]] | None:
        """The turns as the snapshot has them; None = the prompt says it all."""
        if len(self.turns) == 1 and self.turns[0].role == "user":
            return None
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


def shown_columns(columns: Columns) -> dict[str, str]:
    """Return the columns that a file of demonstrations must have, field of spec.columns -> path."""
    named = {key: path for key, path in columns.to_wire().items() if key not in ("label", "text", "response")}
    if columns.messages is not None:
        return named
    answered = named | {"response": columns.response or "response"}
    return answered if columns.turns is not None else answered | {"text": columns.text}


def shown_schema(columns: Columns) -> pa.Schema:
    """Return the columns of a split; those that nobody mapped are not there, so that other digests stay as they are."""
    told = ((columns.items, ITEMS_FIELD), (columns.emotion, EMOTION_FIELD))
    fields = [field for path, field in told if path is not None]
    return pa.schema([*DEMONSTRATIONS_SCHEMA, *fields])


def to_demonstration(fields: Mapping[str, Any], columns: Columns) -> tuple[Example, Demonstration] | str:
    """Read a row, or return the rule that refuses it; the example's one label is the response."""
    if columns.messages is not None:
        shown = _from_messages(fields, columns.messages)
    else:
        shown = _from_turns(fields, columns.turns, columns) if columns.turns else _from_pair(fields, columns)
    if isinstance(shown, str):
        return shown
    told = _told(fields, columns)
    if isinstance(told, str):
        return told
    shown = shown._replace(items=told.items, emotion=told.emotion)
    provenance = provenance_of(fields, columns)
    if isinstance(provenance, str):
        return provenance
    return Example(shown.prompt, (shown.response,), *provenance), shown


def of_pair(prompt: str, response: str) -> Demonstration | str:
    """Make a demonstration of a prompt and its answer, or return the rule that refuses them."""
    for text, empty in ((prompt, "EmptyPrompt"), (response, "EmptyResponse")):
        if not text.strip():
            return empty
        if not is_clean(text):
            return "ControlCharacter"
    return Demonstration((Turn("user", prompt.strip()),), response.strip())


def _from_pair(fields: Mapping[str, Any], columns: Columns) -> Demonstration | str:
    prompt, response = value_at(fields, columns.text), value_at(fields, columns.response or "response")
    for value, word in ((prompt, "Prompt"), (response, "Response")):
        if value is None:
            return f"Empty{word}"
        if not isinstance(value, str):
            return f"{word}NotString"
    return of_pair(prompt, response)


def _from_turns(fields: Mapping[str, Any], path: str, columns: Columns) -> Demonstration | str:
    said, response = value_at(fields, path), value_at(fields, columns.response or "response")
    if said is None:
        return "MissingTurns"
    if not isinstance(said, list):
        return "TurnsNotAList"
    if not said:
        return "EmptyPrompt"
    if response is None:
        return "EmptyResponse"
    if not isinstance(response, str):
        return "ResponseNotString"
    if all(isinstance(each, str) for each in said):
        # the one who answers next is the assistant, so whoever spoke last is the user, and before that in turn
        roles = ("user", "assistant")
        said = [{"role": roles[(len(said) - 1 - n) % 2], "content": text} for n, text in enumerate(said)]
    return _from_list([*said, {"role": "assistant", "content": response}])


class _Told(NamedTuple):
    items: tuple[str, ...] | None
    emotion: str | None


def _told(fields: Mapping[str, Any], columns: Columns) -> _Told | str:
    """What a row says of its response and of the one who is answered, or the rule that refuses it."""
    items, emotion = (value_at(fields, path) if path else None for path in (columns.items, columns.emotion))
    if emotion is not None and not _is_name(emotion):
        return "InvalidEmotion"
    names = [items] if isinstance(items, str) else items
    if names is not None:
        if not isinstance(names, list) or not all(_is_name(name) for name in names):
            return "InvalidItem"
        if len(names) > MAX_ITEMS:
            return "TooManyItems"
        names = tuple(dict.fromkeys(name.strip() for name in names))
    return _Told(names, None if emotion is None else emotion.strip())


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_NAME and is_clean(value)


def _from_messages(fields: Mapping[str, Any], path: str) -> Demonstration | str:
    said = value_at(fields, path)
    if said is None:
        return "MissingMessages"
    if not isinstance(said, list) or len(said) < 2:
        return "TooFewMessages" if isinstance(said, list) else "MessagesNotAList"
    return _from_list(said)


def _from_list(said: Sequence[Any]) -> Demonstration | str:
    """Make a demonstration of the turns of a dialogue, two at least, or return the rule that refuses them."""
    turns: list[Turn] = []
    for each in said:
        role, content = (each.get("role"), each.get("content")) if isinstance(each, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            return "InvalidMessage"
        if not content.strip():
            return "EmptyResponse" if len(turns) == len(said) - 1 else "EmptyPrompt"
        if not is_clean(content):
            return "ControlCharacter"
        turns.append(Turn(cast(Role, role), content.strip()))
    if turns[-1].role != "assistant":
        return "LastNotAssistant"
    if turns[-2].role == "assistant":
        return "AssistantTwice"
    return Demonstration(tuple(turns[:-1]), turns[-1].content)


def check_demonstrations(manifest: Manifest) -> None:
    """Refuse a snapshot that a generator cannot learn from.

    Raises:
        BadDataError: it is of another type.
    """
    if manifest.type != DEMONSTRATIONS:
        raise BadDataError(
            f"spec.datasetRef: its snapshot {manifest.digest[:12]}… is of type {manifest.type}; a generator's stages "
            f"learn from type {DEMONSTRATIONS}: name such a dataset"
        )


def read_demonstrations(snapshot: Snapshot, split: SplitName) -> list[Demonstration]:
    """Read one split, in the order of the snapshot.

    Raises:
        BadDataError: the snapshot is of another type.
    """
    check_demonstrations(snapshot.manifest)
    table = snapshot.table(split)
    texts, responses = table.column("text").to_pylist(), table.column("response").to_pylist()

    def column(name: str) -> list[Any]:
        # a snapshot of feedback has one prompt to each answer, and one of prompts says neither item nor emotion
        return table.column(name).to_pylist() if name in table.column_names else [None] * len(texts)

    return [
        Demonstration(
            (Turn("user", text),) if messages is None else tuple(Turn(m["role"], m["content"]) for m in messages),
            response,
            None if items is None else tuple(items),
            emotion,
        )
        for text, response, messages, items, emotion in zip(
            texts, responses, *(column(name) for name in ("messages", "items", "emotion")), strict=True
        )
    ]
