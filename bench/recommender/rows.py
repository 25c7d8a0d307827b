"""Rows of the recommender: chats about films, the catalogue of films, and sentences of two feelings.

Decides what is kept of each package; the same packages give the same files. Nothing is drawn at random.

 1. Chats in which somebody speaks of films are read.
 2. A title is one that these chats write with a capital at its end more often than without, or else, where nobody says
    it, one that is not made of common words alone.
 3. A row is an answer to a turn that speaks of films or names one.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.ppo.prepare import CSV, REVIEWS
from ratchet_cli.demo.carriers import Asset, Carrier, PinnedFile, fetch
from ratchet_jobs.metrics.generation import spoken
from ratchet_jobs.rlhf.components.recommendation import Item, Named

CHATS = Asset(
    name="chitchat-dataset",
    title="7,168 chats of two people (BYU, MIT)",
    files=(PinnedFile("dataset.json", 40303934, "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a"),),
    carriers=(
        Carrier(
            requirement="chitchat-dataset==0.9.0",
            size=8_105_664,
            sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
            folder="chitchat_dataset/",
        ),
    ),
)
FILMS = Asset(
    name="bokeh-movies",
    title="titles of films (OMDb and Rotten Tomatoes)",
    files=(PinnedFile("movies.db", 8011776, "1d9c6a02e488d0354b2309e16130c58820a91ac2ce417e814c5964f9579a65ac"),),
    carriers=(
        Carrier(
            requirement="bokeh_sampledata==2026.1",
            size=12_835_603,
            sha256="f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
            folder="bokeh_sampledata/_data/",
        ),
    ),
)
TURNS = 1
"""Turns before an answer that a row holds at most; with three a row takes twice the time."""
LEAST_WORDS, MOST_WORDS = 4, 40
"""Of an answer that is followed."""
COMMON = 1500
"""Words said most often: a title of these alone that nobody says is a phrase."""
REVIEWED = 20
"""Reviews by critics that a film needs to be in the catalogue."""
_OF_FILMS = re.compile(r"\b(movies?|films?|cinema|actors?|actress)\b", re.IGNORECASE)
_END = re.compile(r"[.!?]+")


def write_rows(folder: Path, cache: Path, *, most: int) -> dict[str, int]:
    """Write chats.jsonl, films.txt and emotions.csv; returns how many rows each has.

    Args:
        folder: made if missing.
        cache: where packages' files are kept.
        most: rows of chats.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chats = json.loads((fetch(CHATS, cache, advance=lambda *_: None) / "dataset.json").read_bytes())
    said = {name: _turns(chat) for name, chat in sorted(chats.items())}
    said = {name: turns for name, turns in said.items() if any(_OF_FILMS.search(turn) for turn in turns)}
    films = _films(fetch(FILMS, cache, advance=lambda *_: None) / "movies.db", said)
    named = Named(films)
    rows = [row for name, turns in said.items() for row in _answers(name, turns, named)][:most]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "films.txt").write_text("".join(f"{film}\n" for film in films), encoding="utf-8")
    with (fetch(REVIEWS, cache, advance=lambda *_: None) / CSV).open(encoding="utf-8", newline="") as file:
        sentences = [row for row in csv.DictReader(file) if row["source"] != "imdb"]
    with (folder / "emotions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label"))
        table.writerows((row["text"], "positive" if row["label"] == "1" else "negative") for row in sentences)
    naming = sum(bool(row["films"]) for row in rows)
    return {"chats": len(rows), "answers that name a film": naming, "films": len(films), "sentences": len(sentences)}


def _turns(chat: dict[str, Any]) -> list[str]:
    """What two people said in turn; one who went on speaking is one turn."""
    joined = (" ".join(message["text"] for message in turn) for turn in chat["messages"])
    return [" ".join(text.split()) for text in joined]


def _films(database: Path, said: dict[str, list[str]]) -> list[str]:
    """Titles of two words and more that are no phrase, and the series before a colon, each once."""
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT DISTINCT omdb.Title FROM omdb JOIN tomatoes ON omdb.ID = tomatoes.ID WHERE tomatoes.Reviews >= ?",
            (REVIEWED,),
        ).fetchall()
    titles = {" ".join(title.split()) for (title,) in found if len(title) <= 200}
    titles |= {title.split(":")[0].strip() for title in titles}
    titles = {title for title in titles if len(spoken(title)) > 1}
    common, capital = _common(said), _capital(titles, said)

    def is_title(words: Item) -> bool:
        return capital[words] > 0 if words in capital else not common.issuperset(words)

    return sorted(title for title in titles if is_title(tuple(spoken(title))))


def _common(said: dict[str, list[str]]) -> set[str]:
    counts = Counter(word for turns in said.values() for turn in turns for word in spoken(turn))
    return {word for word, _ in counts.most_common(COMMON)}


def _capital(titles: set[str], said: dict[str, list[str]]) -> Counter[Item]:
    """How much more often the last word of a title that is said has a capital; it begins no sentence, as the first may.

    Turns of one case throughout say nothing.
    """
    named, more = Named(titles), Counter[Item]()
    for sentence in (part for turns in said.values() for turn in turns for part in _END.split(turn)):
        if sentence.isupper() or sentence.islower():
            continue
        for item in named(sentence):
            last = _last_word(item, sentence)
            more[item] += 1 if last[0].isupper() else -1
    return more


def _last_word(item: Item, sentence: str) -> str:
    """As the sentence writes it where it first names the item."""
    written = re.findall(r"\w+", sentence)
    folded = [word.casefold() for word in written]
    place = next(at for at in range(len(folded)) if tuple(folded[at : at + len(item)]) == item)
    return str(written[place + len(item) - 1])


def _answers(name: str, turns: list[str], named: Named) -> Iterator[dict[str, Any]]:
    """A row for each turn that answers one about films: what was said before, the answer, the films that it names."""
    for place in range(1, len(turns)):
        before = [turn for turn in turns[max(0, place - TURNS) : place] if turn]
        response = turns[place]
        of_films = bool(before) and bool(_OF_FILMS.search(before[-1]) or named(before[-1]))
        if of_films and LEAST_WORDS <= len(response.split()) <= MOST_WORDS:
            films = [" ".join(item) for item in named(response)]
            yield {"chat": name, "turns": before, "response": response, "films": films}
