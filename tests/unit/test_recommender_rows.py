"""Rows of bench/recommender: which titles are titles, and which turns are answers to somebody who speaks of films."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bench.recommender.rows import _answers, _films
from ratchet_jobs.rlhf.components.recommendation import Named


def database(path: Path, *titles: str, reviews: int = 20) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE omdb (ID INTEGER, Title TEXT)")
        connection.execute("CREATE TABLE tomatoes (ID INTEGER, Reviews INTEGER)")
        connection.executemany("INSERT INTO omdb VALUES (?, ?)", list(enumerate(titles)))
        connection.executemany("INSERT INTO tomatoes VALUES (?, ?)", [(each, reviews) for each in range(len(titles))])
    return path


def test_a_title_is_what_people_write_with_a_capital_more_often_than_without(tmp_path: Path) -> None:
    films = database(tmp_path / "movies.db", "Star Wars", "The Sun", "Thanks for Sharing", "The Edge")
    said = {
        "a": ["I saw Star Wars. The Sun was out", "thanks for sharing, it was on the edge of my seat. Yes"],
        "b": ["Thanks for sharing! I sat in the sun and saw star wars", "No, under the sun. But Star Wars is good"],
    }
    assert _films(films, said) == ["Star Wars"]


def test_turns_of_one_case_say_nothing_of_titles_and_unsaid_ones_must_not_be_common_words_alone(tmp_path: Path) -> None:
    films = database(tmp_path / "movies.db", "Iron Man", "Ex Machina", "Home Again", "Up")
    said = {"a": ["I SAW IRON MAN AGAIN", "i saw iron man at home", "we saw Iron Man"]}
    assert _films(films, said) == ["Ex Machina", "Iron Man"]


def test_the_series_of_a_title_is_a_title_and_films_of_few_reviews_are_none(tmp_path: Path) -> None:
    said = {"a": ["nothing of note"]}
    title = "Pirates of the Caribbean: Dead Men"
    films = database(tmp_path / "movies.db", title)
    assert _films(films, said) == ["Pirates of the Caribbean", title]
    assert _films(database(tmp_path / "unknown.db", title, reviews=19), said) == []


def test_rows_answer_turns_that_speak_of_films_or_name_one() -> None:
    turns = [
        "Which movie is your favourite?",
        "I love Star Wars most of all",  # answers a turn that says movie
        "I have not seen that one yet",  # answers a turn that names a film
        "Well, you really should some time",  # answers a turn of neither
    ]
    rows = list(_answers("chat", turns, Named(["Star Wars"])))
    assert [(row["turns"], row["response"], row["films"]) for row in rows] == [
        ([turns[0]], turns[1], ["star wars"]),
        ([turns[1]], turns[2], []),
    ]
    assert not list(_answers("chat", [turns[0], "Star Wars"], Named(["Star Wars"])))  # too short to follow
