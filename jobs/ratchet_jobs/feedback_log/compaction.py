"""Takes a person's events out of the log's segments, so that no stored byte of them is left.

Decides which events are a person's: those that carry one of their pseudonyms, and whatever is about an answer that was
given to them. A segment is written anew under its own writer and number before the old one is deleted, so positions
that snapshots recorded stay good, and a process that dies in between is finished by the next. Called by `erase`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

from pydantic_core import from_json

from ratchet_api.feedback import SAMPLE_TAG
from ratchet_jobs.feedback_log.reader import fetch_segment, list_segments
from ratchet_jobs.feedback_log.segment import Segment, lines_of, pack
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store

_TEXTS = ("input", "prompt", "response", "correction", "chosen", "rejected", "comment", "notes")
_SAMPLE = f'"{SAMPLE_TAG}"'.encode()


def interactions_of(store: Store, namespace: str, subjects: Collection[str]) -> set[str]:
    """Return the ids of the answers that were given to a person."""
    needles = [subject.encode() for subject in subjects]
    found = set()
    for _, lines in _log(store, namespace):
        for line in lines:
            if any(needle in line for needle in needles):
                event = from_json(line)
                if event.get("subject") in subjects and event["kind"] != "feedback" and "interaction" in event:
                    found.add(str(event["interaction"]))
    return found


def texts_of(store: Store, namespace: str, subjects: Collection[str], interactions: Collection[str]) -> set[str]:
    """Return what a person said and was told, as far as the log still has it."""
    found: set[str] = set()
    for _, lines in _log(store, namespace):
        kept = set(_without(lines, subjects, interactions))
        for event in (from_json(line) for line in lines if line not in kept):
            found.update(str(event[name]) for name in _TEXTS if name in event)
    return found


def copies_of(store: Store, namespace: str, beginnings: Collection[str]) -> set[str]:
    """Return the ids of answers that were copied from an evaluation to be compared, and that quote a person.

    Args:
        store: of the log.
        namespace: whose log.
        beginnings: by what the person's texts are found again.
    """
    found: set[str] = set()
    for _, lines in _log(store, namespace) if beginnings else ():
        for event in (from_json(line) for line in lines if _SAMPLE in line):
            if event["kind"] == "interaction" and SAMPLE_TAG in event.get("tags", {}):
                said = [str(event[name]) for name in _TEXTS if name in event]
                if any(text in each for text in beginnings for each in said):
                    found.add(str(event["interaction"]))
    return found


def votes_on(store: Store, namespace: str, interactions: Collection[str]) -> set[str]:
    """Return the ids of the feedback on these answers."""
    return {
        str(event["id"])
        for _, lines in _log(store, namespace)
        for event in (from_json(line) for line in lines if any(each.encode() in line for each in interactions))
        if event["kind"] == "feedback" and event.get("interaction") in interactions
    }


def affected_segments(
    store: Store, namespace: str, subjects: Collection[str], interactions: Collection[str]
) -> dict[Segment, int]:
    """Return the segments that hold events of a person, and how many each holds."""
    found = {}
    for segment, lines in _log(store, namespace):
        kept = _without(lines, subjects, interactions)
        if len(kept) < len(lines):
            found[segment] = len(lines) - len(kept)
    return found


def compact(store: Store, segment: Segment, subjects: Collection[str], interactions: Collection[str]) -> None:
    """Replace a segment by one without a person's events; doing it again changes nothing.

    Raises:
        StoreCorrupt: the segment cannot be trusted, or something else has the new one's key.
    """
    kept = _without(lines_of(segment, fetch_segment(store, segment)), subjects, interactions)
    data = pack(kept)
    folder, sha = segment.key.rpartition("/")[0], hashlib.sha256(data).hexdigest()[:32]
    key = f"{folder}/{segment.epoch}-{segment.seq:08d}-{len(kept)}-{sha}.jsonl.zst"
    if key == segment.key:
        return
    if not store.create(key, data):
        raise StoreCorrupt(f"log segment {key}: holds other bytes than its name says; move it away and erase again")
    store.delete([segment.key])


def _log(store: Store, namespace: str) -> Iterator[tuple[Segment, list[bytes]]]:
    for segment in list_segments(store, namespace)[0]:
        yield segment, lines_of(segment, fetch_segment(store, segment))


def _without(lines: list[bytes], subjects: Collection[str], interactions: Collection[str]) -> list[bytes]:
    """Return the lines that are not a person's; most are not even looked into."""
    needles = [each.encode() for each in (*subjects, *interactions)]
    return [
        line
        for line in lines
        if not any(needle in line for needle in needles) or not _is_theirs(from_json(line), subjects, interactions)
    ]


def _is_theirs(event: dict[str, str], subjects: Collection[str], interactions: Collection[str]) -> bool:
    return event.get("subject") in subjects or event.get("interaction") in interactions
