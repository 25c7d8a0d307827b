"""Image layers as plain tar streams: made from a directory, hashed in one pass, sent to containerd in another.

No archive is ever written to disk: a layer of several GB would cost its size three times over. Entries are sorted and
owned by root, so equal trees give equal digests. Decides bytes only; what goes into a layer is `images`' business.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

_BLOCK = 512
_CHUNK = 1 << 20


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes, /) -> object:
        """Take all the bytes."""


@dataclass(frozen=True)
class Layer:
    """A layer whose digest is known.

    Attributes:
        digest: sha256:… of the uncompressed tar, which is both blob digest and diff id.
        size: bytes of the tar.
        send: writes the tar; absent for a layer that containerd already has.
    """

    digest: str
    size: int
    send: Callable[[Sink], None] | None = None


class _Meter:
    """Counts and hashes what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.hash.update(data)
        self.size += len(data)


def measured(send: Callable[[Sink], None]) -> Layer:
    """Run a tar writer once for its digest and size."""
    meter = _Meter()
    send(meter)
    return Layer(f"sha256:{meter.hash.hexdigest()}", meter.size, send)


def tar_file(path: Path) -> Callable[[Sink], None]:
    """Return a writer that sends an existing tar as it is."""

    def send(sink: Sink) -> None:
        with path.open("rb") as source:
            _copy(source, sink, path.stat().st_size)

    return send


def tree(root: Path) -> Callable[[Sink], None]:
    """Return a writer that sends a directory's content as a tar with paths relative to it."""

    def send(sink: Sink) -> None:
        for path in _walk(root):
            status = path.lstat()
            entry = tarfile.TarInfo(str(path.relative_to(root)))
            entry.mode = status.st_mode & 0o7777
            entry.mtime = int(status.st_mtime)  # compiled Python files are valid for this very second of their source
            if path.is_symlink():
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
            elif path.is_dir():
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = status.st_size
            sink.write(entry.tobuf(tarfile.PAX_FORMAT))
            if entry.isreg():
                with path.open("rb") as source:
                    _copy(source, sink, entry.size)
                _pad(sink, entry.size)
        sink.write(bytes(2 * _BLOCK))

    return send


def _walk(root: Path) -> Iterator[Path]:
    """Everything below root, parents before children, each directory sorted by name."""
    for entry in sorted(root.iterdir(), key=lambda path: path.name):
        yield entry
        if entry.is_dir() and not entry.is_symlink():
            yield from _walk(entry)


def _copy(source: BinaryIO, sink: Sink, size: int) -> None:
    left = size
    while left:
        data = source.read(min(_CHUNK, left))
        if not data:
            raise OSError(f"{source.name} became {left} bytes shorter while it was read")
        sink.write(data)
        left -= len(data)


def _pad(sink: Sink, size: int) -> None:
    if size % _BLOCK:
        sink.write(bytes(_BLOCK - size % _BLOCK))


def write_oci_archive(sink: Sink, name: str, layers: list[Layer], config: dict[str, object], present: set[str]) -> None:
    """Write an OCI image archive; layers whose digest is in `present` are named but not sent.

    Args:
        sink: receives the tar.
        name: full image name, used as reference.
        layers: bottom first.
        config: the image config's `config` object (Env, User, Entrypoint, …).
        present: digests that the receiver has already.
    """
    image = {
        "architecture": _ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    image_bytes = json.dumps(image, sort_keys=True).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": _descriptor("application/vnd.oci.image.config.v1+json", image_bytes),
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}
            for layer in layers
        ],
    }
    manifest_bytes = json.dumps(manifest, sort_keys=True).encode()
    reference = {
        **_descriptor("application/vnd.oci.image.manifest.v1+json", manifest_bytes),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }
    _send_file(sink, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    for content in (image_bytes, manifest_bytes):
        _send_file(sink, f"blobs/sha256/{hashlib.sha256(content).hexdigest()}", content)
    sent = set(present)
    for layer in layers:
        if layer.digest not in sent and layer.send is not None:
            header = tarfile.TarInfo(f"blobs/sha256/{layer.digest.removeprefix('sha256:')}")
            header.size = layer.size
            sink.write(header.tobuf(tarfile.PAX_FORMAT))
            layer.send(sink)
            _pad(sink, layer.size)
            sent.add(layer.digest)
    _send_file(sink, "index.json", json.dumps({"schemaVersion": 2, "manifests": [reference]}).encode())
    sink.write(bytes(2 * _BLOCK))


_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _descriptor(media_type: str, content: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _send_file(sink: Sink, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    sink.write(header.tobuf(tarfile.PAX_FORMAT))
    sink.write(content)
    _pad(sink, len(content))
