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


class Demonstration(NamedTuple):
    """What was asked, and the answer to follow."""

    turns: tuple[Turn, ...]
    """Of the dialogue so far; the last is not the assistant's."""
    response: str

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
    return named | {"text": columns.text, "response": columns.response or "response"}


def to_demonstration(fields: Mapping[str, Any], columns: Columns) -> tuple[Example, Demonstration] | str:
    """Read a row, or return the rule that refuses it; the example's one label is the response."""
    shown = _from_messages(fields, columns.messages) if columns.messages else _from_pair(fields, columns)
    if isinstance(shown, str):
        return shown
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


def _from_messages(fields: Mapping[str, Any], path: str) -> Demonstration | str:
    said = value_at(fields, path)
    if said is None:
        return "MissingMessages"
    if not isinstance(said, list) or len(said) < 2:
        return "TooFewMessages" if isinstance(said, list) else "MessagesNotAList"
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
    # a snapshot of feedback has no such column: there is one prompt to each answer
    said: Sequence[list[dict[str, Any]] | None] = (
        table.column("messages").to_pylist() if "messages" in table.column_names else [None] * len(texts)
    )
    return [
        Demonstration(
            (Turn("user", text),) if messages is None else tuple(Turn(m["role"], m["content"]) for m in messages),
            response,
        )
        for text, response, messages in zip(texts, responses, said, strict=True)
    ]
