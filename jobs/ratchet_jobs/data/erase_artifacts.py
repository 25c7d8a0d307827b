"""Takes a person's words out of what runs stored beside their weights: the answers of an evaluation, and its page.

Decides by the words themselves: a text of the person that stands in a value of an evaluation, whole or in part, is
blotted out there, and the page beside it is replaced by a line that says why. Only these files are looked at: they
alone hold words, and nobody shall be able to change configuration or weights by what they type. Whatever is changed has
a mark beside it, which keeps the artifact's digest good. Any step may be repeated. Called by `erase`, before the log
and the snapshots are rewritten, since the words are known from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ratchet_jobs.runtime.commit import ERASED_FILE, ErasedFiles, erased_files
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store

WORDY = ("evaluation.json", "comparison.json")
"""Files of a stage that may quote what people said."""
PAGE = "report.html"
"""Shows what these hold."""
BLOT = "[ERASED]"
SHORTEST = 16
"""Characters below which a text is nobody's own: it would be found in what others said."""
_KNOWN_BY = 40
"""Characters by which a text is found again; tables cut longer ones off."""


def beginnings_of(texts: Iterable[str], labels: Collection[str]) -> tuple[str, ...]:
    """Return by what a person's texts are found again.

    Args:
        texts: what the person said and was told.
        labels: names of classes, which are nobody's words.
    """
    stripped = {text.strip()[:_KNOWN_BY].strip() for text in texts}
    long = (text for text in stripped if len(text) >= SHORTEST)
    return tuple(sorted(text for text in long if not any(text in label for label in labels)))


def quoting_files(store: Store, namespace: str, beginnings: Collection[str]) -> Sequence[str]:
    """Return the keys of the files below the namespace's runs that quote one of these texts.

    A page comes before the evaluation by which it is found, so that one that is not reached is found again.
    """
    found: list[str] = []
    keys = [info.key for info in store.list(f"{namespace}/runs")] if beginnings else []
    for key in (key for key in keys if key.rpartition("/")[2] in WORDY):
        value = _parsed(key, store.read(key))
        if _blotted(value, beginnings) != value:
            page = f"{key.rpartition('/')[0]}/{PAGE}"
            found += [page, key] if page in keys and page not in found else [key]
    return found


def blot_out(store: Store, key: str, beginnings: Collection[str], erasure: str) -> None:
    """Take the texts out of one file.

    The mark says first what the file is to be: whoever reads in between may find either.
    """
    before = store.read(key)
    after = _cleaned(key, before, beginnings, erasure)
    parts = key.split("/")  # ns/runs/RUN/STAGE/ATTEMPT/file
    directory, name = "/".join(parts[:5]), "/".join(parts[5:])
    known = erased_files(store, directory)
    mark = ErasedFiles(
        erasures=tuple(sorted({*known.erasures, erasure})),
        committed={name: hashlib.sha256(before).hexdigest()} | known.committed,
        now=known.now | {name: hashlib.sha256(after).hexdigest()},
    )
    store.write(f"{directory}/{ERASED_FILE}", mark.model_dump_json(by_alias=True, indent=1).encode())
    store.write(key, after)


def _cleaned(key: str, data: bytes, beginnings: Collection[str], erasure: str) -> bytes:
    if key.endswith(".json"):
        return (json.dumps(_blotted(_parsed(key, data), beginnings), indent=2, ensure_ascii=False) + "\n").encode()
    said = f"This page quoted a person who was erased (erasure {erasure}). Its numbers are in evaluation.json."
    return f'<!doctype html><html lang="en"><title>Erased</title><p>{said}</p></html>\n'.encode()


def _blotted(value: Any, beginnings: Collection[str]) -> Any:
    if isinstance(value, dict):
        return {key: _blotted(part, beginnings) for key, part in value.items()}
    if isinstance(value, list):
        return [_blotted(part, beginnings) for part in value]
    return BLOT if isinstance(value, str) and any(text in value for text in beginnings) else value


def _parsed(key: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise StoreCorrupt(
            f"object {key}: is no JSON ({error}), so whom it quotes cannot be seen; restore or delete it, then "
            "erase again"
        ) from error
