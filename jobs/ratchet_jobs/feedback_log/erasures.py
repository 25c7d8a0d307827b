"""Who was erased: a small record per erasure, which every reader of the log looks at first.

Decides the layout. From the moment the record stands, nothing of the person is read from the log, whatever segments
still hold; `erase` then takes it out of them. A record names keyed hashes only. Called by readers and by `erase`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from pydantic import Field, ValidationError

from ratchet_api.base import StatusModel, Timestamp, digest_of
from ratchet_api.erasure import ErasureReport
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


def report_key(namespace: str, name: str) -> str:
    """Key of the proof."""
    return f"{erasures_prefix(namespace)}/{name}/report.json"


def record_key(namespace: str, name: str) -> str:
    """Key of a record."""
    return f"{erasures_prefix(namespace)}/{name}/request.json"


def request_erasure(store: Store, namespace: str, subjects: Collection[str], *, now: datetime) -> ErasureRecord:
    """Record who is to be erased; the first record of a person stays."""
    record = ErasureRecord(subjects=tuple(sorted(subjects)), requested=now)
    store.create(record_key(namespace, record.id), record.model_dump_json(by_alias=True).encode())
    found = find_record(store, namespace, record.id)
    return record if found is None else found


def find_record(store: Store, namespace: str, name: str) -> ErasureRecord | None:
    """Return the record of an erasure, or None."""
    key = record_key(namespace, name)
    return ErasureRecord.model_validate_json(store.read(key)) if store.exists(key) else None


def read_report(store: Store, namespace: str, name: str) -> ErasureReport | None:
    """Return the proof of an erasure, or None while there is none."""
    key = report_key(namespace, name)
    return ErasureReport.model_validate_json(store.read(key)) if store.exists(key) else None


def write_report(store: Store, namespace: str, report: ErasureReport) -> str:
    """Put the proof beside its record; return its key."""
    key = report_key(namespace, report.id)
    store.write(key, report.model_dump_json(by_alias=True, indent=1).encode())
    return key


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
