"""Who was erased: a small record per erasure, which every reader of the log looks at first.

Decides the layout. From the moment the record stands, nothing of the person is read from the log, whatever segments
still hold; `erase` then takes it out of them. A record names keyed hashes only. Called by readers and by `erase`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, ValidationError

from ratchet_api.base import StatusModel, Timestamp, digest_of
from ratchet_jobs.runtime.errors import StoreCorrupt
from ratchet_jobs.runtime.store import Store


class ErasureRecord(StatusModel):
    """One person's erasure."""

    subjects: tuple[str, ...] = Field(strict=False)
    """The person under every key that was kept."""
    requested: Timestamp

    @property
    def id(self) -> str:
        """Name of the erasure: the same however often it is asked for with the same keys."""
        return digest_of(sorted(self.subjects))[:32]


def erasures_prefix(namespace: str) -> str:
    """Folder of the records."""
    return f"{namespace}/erasures"


def record_key(namespace: str, name: str) -> str:
    """Key of a record."""
    return f"{erasures_prefix(namespace)}/{name}/request.json"


def erased_subjects(store: Store, namespace: str) -> Sequence[str]:
    """Return the pseudonyms of everybody who was erased, sorted.

    Raises:
        StoreCorrupt: a record cannot be read; going on would bring an erased person back.
    """
    found: set[str] = set()
    for info in store.list(erasures_prefix(namespace)):
        if not info.key.endswith("/request.json"):
            continue
        try:
            found.update(ErasureRecord.model_validate_json(store.read(info.key)).subjects)
        except ValidationError as error:
            raise StoreCorrupt(
                f"object {store.uri}/{info.key}: is no erasure record; restore it, so that who was erased stays erased"
            ) from error
    return sorted(found)
