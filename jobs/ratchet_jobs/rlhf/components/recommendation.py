"""Components `recommendation` and `itemRatio`: which items of a catalogue an answer names, and where the right one is.

An item is named where its words follow each other in the answer, whatever their case and the punctuation between them;
of items that overlap the longest counts, from left to right. A row says by columns.items which items are right for its
prompt; of a prompt that says none, any item is, and the fewer are named the better.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ratchet_api.answer_reward import AnswerReward
from ratchet_api.answer_reward import Catalogue as CatalogueFile
from ratchet_jobs.data.demonstrations import Demonstration
from ratchet_jobs.data.reading import RawRow, format_of, read_rows, value_at
from ratchet_jobs.metrics.generation import spoken
from ratchet_jobs.rlhf.said import Component, Said, Sources, numbers
from ratchet_jobs.runtime.errors import BadDataError

FIELD = "stages.rlhf.rewards: catalogue"
COLUMN = "name"
MAX_ITEMS = 1_000_000

Item = tuple[str, ...]
"""The words of an item's name."""


class Named:
    """Finds the items that a text names."""

    def __init__(self, names: Iterable[str]) -> None:
        """Note how long the items are that begin with each word: a long catalogue then costs a text no more time.

        Args:
            names: of the items; one without any word names nothing and is left out.
        """
        self.items: set[Item] = {item for name in names if (item := tuple(spoken(name)))}
        lengths: dict[str, set[int]] = {}
        for item in self.items:
            lengths.setdefault(item[0], set()).add(len(item))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def __call__(self, text: str) -> list[Item]:
        """Different items of a text, in the order in which it names them."""
        words, place = spoken(text), 0
        found: dict[Item, None] = {}
        while place < len(words):
            runs = (tuple(words[place : place + length]) for length in self._lengths.get(words[place], ()))
            item = next((run for run in runs if run in self.items), None)
            if item is not None:
                found.setdefault(item)
            place += 1 if item is None else len(item)
        return list(found)


def worth(named: Sequence[Item], right: set[Item]) -> float:
    """1 / place of the first right item among those named, 0 if there is none; without any right, 1 / how many."""
    if not right:
        return 1 / len(named) if named else 0.0
    return next((1 / place for place, item in enumerate(named, 1) if item in right), 0.0)


def make(wanted: AnswerReward, sources: Sources) -> Component:
    """The component `recommendation`.

    Raises:
        BadDataError: there is no item to name.
    """
    named = items_of(wanted, sources)

    def worths(said: Said) -> Tensor:
        rows = zip(said.texts, said.rows, strict=True)
        return numbers(worth(named(text), _right(known, named)) for text, known in rows)

    return worths


def make_ratio(wanted: AnswerReward, sources: Sources) -> Component:
    """The component `itemRatio`.

    Raises:
        BadDataError: there is no item to name.
    """
    named = items_of(wanted, sources)
    return lambda said: said.each(lambda text: float(bool(named(text))))


def items_of(wanted: AnswerReward, sources: Sources) -> Named:
    """The items of the catalogue, or of the rows.

    Raises:
        BadDataError: there is none, or the file cannot be read.
    """
    if wanted.catalogue is not None:
        file = wanted.catalogue
        return Named(read_catalogue(sources.catalogue(file), file))
    named = Named(sources.mentioned)
    if not named.items:
        raise BadDataError(
            f"stages.rlhf.rewards: type {wanted.type} has no items: no row of the train split mentions any; set "
            "spec.columns.items of the dataset, or catalogue"
        )
    return named


def read_catalogue(path: Path, file: CatalogueFile) -> list[str]:
    """Names of a file's items.

    Args:
        path: where it lies.
        file: what it is called, and which column holds the name.

    Raises:
        BadDataError: it holds no items, or too many.
    """
    if file.uri.endswith(".txt"):
        try:
            names = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise BadDataError(f"{FIELD} {file.uri}: is no UTF-8 ({error}); save it as UTF-8") from error
    else:
        column = file.column or COLUMN
        rows = read_rows(path, format_of(file.uri, None), name=file.uri)
        values = [value_at(row.fields, column) for row in rows if isinstance(row, RawRow)]
        if values and not any(isinstance(value, str) for value in values):
            raise BadDataError(f"{FIELD} {file.uri}: no row has a text in column {column!r}; correct catalogue.column")
        names = [value for value in values if isinstance(value, str)]
    items = {name for name in names if spoken(name)}
    if not items or len(items) > MAX_ITEMS:
        raise BadDataError(
            f"{FIELD} {file.uri}: holds {len(items):,} names of items, 1 to {MAX_ITEMS:,} are needed; name another file"
        )
    return sorted(items)


def _right(rows: Sequence[Demonstration], named: Named) -> set[Item]:
    """The items of the catalogue that a prompt's rows mention."""
    mentioned = {tuple(spoken(item)) for row in rows for item in row.items or ()}
    return mentioned & named.items
