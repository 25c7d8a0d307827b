"""One segment of the log: its name, its bytes, and what proves that they are whole.

Decides the layout of keys and of the file. A segment is zstd over JSON lines, one event each, and never changes; its
key says who wrote it (`epoch`, unique per process), in which order (`seq`), how many events it holds and the first
half of the SHA-256 of its bytes. So a listing alone counts events, and any change of the bytes is noticed. Never
touches a store. Used by the writer and by every reader.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import zstandard
from pydantic_core import from_json

from ratchet_jobs.runtime.errors import StoreCorrupt

MAX_SEGMENT_BYTES = 64 << 20
"""Unpacked; far above what a writer makes, so that a planted file cannot fill a reader's memory."""
_LEVEL = 3
_NAME = re.compile(
    r"\d{4}-\d\d-\d\d/\d\d/\d\d/"
    r"(?P<epoch>[0-9TZ]{16}[0-9a-f]{16})-(?P<seq>\d{8})-(?P<events>\d+)-(?P<sha>[0-9a-f]{32})\.jsonl\.zst"
)


class Segment(NamedTuple):
    """What a segment's key says. Sorted by writer, then by that writer's order."""

    epoch: str
    seq: int
    events: int
    sha: str
    """The first 32 hex digits of the SHA-256 of the stored bytes."""
    key: str
    size: int
    """Bytes as stored; 0 where the listing was not asked."""


def log_prefix(namespace: str) -> str:
    """Folder of a namespace's log in the store."""
    return f"{namespace}/log"


def folder_of(at: datetime) -> str:
    """Folder of a minute below the log: small enough to be listed every few seconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%d/%H/%M")


def new_epoch(now: datetime) -> str:
    """Name a writer: its start, for people, and 64 random bits, for uniqueness. No two processes share one."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}{secrets.token_hex(8)}"


def pack(lines: Sequence[bytes]) -> bytes:
    """Compress events, one JSON line each; zstd adds the length and a checksum of the content."""
    content = b"\n".join([*lines, b""])
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(content)


def segment_key(namespace: str, *, epoch: str, seq: int, events: int, data: bytes, at: datetime) -> str:
    """Return the key of a new segment; `at` decides only the folder."""
    sha = hashlib.sha256(data).hexdigest()[:32]
    return f"{log_prefix(namespace)}/{folder_of(at)}/{epoch}-{seq:08d}-{events}-{sha}.jsonl.zst"


def parse_key(namespace: str, key: str, size: int = 0) -> Segment | None:
    """Return what a key says, or None when no writer of ours made it."""
    found = _NAME.fullmatch(key.removeprefix(f"{log_prefix(namespace)}/"))
    if found is None:
        return None
    return Segment(found["epoch"], int(found["seq"]), int(found["events"]), found["sha"], key, size)


def is_whole(segment: Segment, data: bytes) -> bool:
    """Tell whether these are the bytes that were written under the key."""
    return hashlib.sha256(data).hexdigest()[:32] == segment.sha


def content_of(segment: Segment, data: bytes) -> bytes:
    """Return a segment's events as JSON lines in one piece.

    Raises:
        StoreCorrupt: the bytes are not those that were written, or hold another number of events than the key says.
    """
    if not is_whole(segment, data):
        raise StoreCorrupt(
            f"log segment {segment.key}: its {len(data)} bytes are not those that were written (sha256 differs); "
            "restore the object from a backup or a replica; delete it only if its events may be lost"
        )
    try:
        if zstandard.frame_content_size(data) > MAX_SEGMENT_BYTES:  # a frame that tells its size gets all it asks for
            raise ValueError(f"unpacks to more than {MAX_SEGMENT_BYTES} bytes")
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_SEGMENT_BYTES)
    except (zstandard.ZstdError, ValueError) as error:
        raise StoreCorrupt(f"log segment {segment.key}: cannot be read ({error}); no writer of ours made it") from error
    lines = content.count(b"\n")
    if lines != segment.events or (content and not content.endswith(b"\n")):
        raise StoreCorrupt(
            f"log segment {segment.key}: holds {lines} events, its name says {segment.events}; "
            "no writer of ours made it"
        )
    return content


def lines_of(segment: Segment, data: bytes) -> list[bytes]:
    """Return a segment's events as the JSON lines that they are.

    Raises:
        StoreCorrupt: as for `content_of`.
    """
    return content_of(segment, data).split(b"\n")[:-1]


def unpack(segment: Segment, data: bytes) -> list[dict[str, Any]]:
    """Return a segment's events.

    Raises:
        StoreCorrupt: as for `lines_of`, or a line is no JSON.
    """
    try:
        return [from_json(line) for line in lines_of(segment, data)]
    except ValueError as error:
        raise StoreCorrupt(f"log segment {segment.key}: cannot be read ({error}); no writer of ours made it") from error
