"""A judge of answers made of human labels that the reward model never learned from: it tells when the reward is gamed.

    features   mean of the *reference's* last hidden states over an answer's tokens, scaled by their spread
    judge      ridge regression on them: of a rated answer its score, of a pair that the better one is above the other

It shares neither rows nor weights with the reward model, and the weights it reads from do not move, so what a policy
finds to please the reward model need not please it. Decides whether it is worth asking: each held-out row is foretold
by a judge that did not see its prompt, and one that does not foretell better than chance is not made. Never trains a
weight of the trunk. Made by the reward-model stage and the door, asked by `LanguagePPO` after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ratchet_jobs.rlhf.breakers import SIGMAS
from ratchet_jobs.rlhf.calibration import Floats
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.reward_model import Rated, Row
from ratchet_jobs.rlhf.scorers import Answer, answer_tokens, mean_over_answer
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.rlhf.wording import Format
from ratchet_jobs.runtime.errors import BadModelError

JUDGE_FILE = "held_out_judge.safetensors"
LEAST_PROMPTS = 12
"""Held-out prompts below which no judge is made: its worth could not be told from chance."""
MOST_ROWS = 1000
"""Held-out rows that a judge is made of; the time to make it grows with their cube."""
_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Of the ridge, in units of one row's own size; the one that foretells best is taken."""
_BATCH = 16


class Fit(NamedTuple):
    """A ridge regression through the origin, and how well it foretells rows of prompts that it did not see."""

    weight: Floats
    """(D,)"""
    foretold: Floats
    """(N,) what the fit without a row's prompt says of it."""


@dataclass(frozen=True, slots=True)
class HeldOutJudge:
    """A linear readout of the reference; called with episodes it is the `judge` of `LanguagePPO`."""

    trunk: Trunk
    weight: Tensor
    """(D,) float32."""
    center: Tensor
    """(D,) float32; features of an answer that is worth `offset`."""
    offset: float
    agreement: float
    """Share of held-out rows whose side of the middle (ratings) or order (pairs) it foretells without their prompt."""

    def __call__(self, episodes: Episodes) -> Tensor:
        """What the held-out labels say of answers, on these labels' scale without its ends, (B,)."""
        ids, mask, answered = episodes.whole()
        features = mean_over_answer(self.trunk.reference_hidden(ids, mask), answered)
        weight, center = self.weight.to(features.device), self.center.to(features.device)
        return self.offset + 0.5 * ((features - center) @ weight)

    def save(self, folder: Path) -> None:
        """Write it beside the reward model; equal judges give equal bytes."""
        numbers = torch.tensor([self.offset, self.agreement], dtype=torch.float64)
        tensors = {"weight": self.weight, "center": self.center, "numbers": numbers}
        save_file(tensors, folder / JUDGE_FILE, metadata={"base": self.trunk.digest})

    @staticmethod
    def reads(folder: Path, trunk: Trunk) -> bool:
        """Whether what `save` wrote, if anything, was made on this very trunk."""
        try:
            with safe_open(folder / JUDGE_FILE, framework="pt") as opened:
                return (opened.metadata() or {}).get("base") == trunk.digest
        except (OSError, SafetensorError):
            return False

    @classmethod
    def load(cls, folder: Path, trunk: Trunk) -> Self | None:
        """Read the judge that was saved beside a reward model; None = none was made.

        Raises:
            BadModelError: the file cannot be read, or belongs to another base.
        """
        file = folder / JUDGE_FILE
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                base = (opened.metadata() or {})["base"]
                weight, center, numbers = (opened.get_tensor(name) for name in ("weight", "center", "numbers"))
                offset, agreement = numbers.tolist()
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BadModelError(f"{file}: cannot be read: {error}; take a folder as it was saved") from error
        width = int(trunk.config.hidden_size)
        if base != trunk.digest or weight.shape != (width,) or center.shape != (width,):
            raise BadModelError(
                f"{file}: of base {base[:12]} and {len(weight)} features, but this is {trunk.digest[:12]} with "
                f"{width}; use the base model that its reward model was trained on"
            )
        return cls(trunk, weight, center, offset, agreement)


def make_judge(trunk: Trunk, held_out: Sequence[Row], *, wording: Format = "dialogue") -> HeldOutJudge | None:
    """Make a judge of held-out rows.

    Args:
        trunk: whose reference is read.
        held_out: rows that the reward model did not learn from; of more than MOST_ROWS the first ones.
        wording: how prompts become tokens, the same as for the policy.

    Returns:
        None where there are fewer than LEAST_PROMPTS prompts, or where the labels cannot be foretold.
    """
    rows = list(held_out)[:MOST_ROWS]
    groups = np.unique([row.prompt for row in rows], return_inverse=True)[1] if rows else np.zeros(0, dtype=np.int64)
    if len(set(groups.tolist())) < LEAST_PROMPTS:
        return None
    better = [Answer(r.prompt, r.response if isinstance(r, Rated) else r.chosen) for r in rows]
    worse = [Answer(r.prompt, r.rejected) for r in rows if not isinstance(r, Rated)]
    features = _features(trunk, [*better, *worse], wording)
    scale = features.std(0) * np.sqrt(features.shape[1])  # so that a row's own size is about 1
    scale[scale == 0.0] = 1.0
    rated = np.array([isinstance(row, Rated) for row in rows])
    scores = np.array([row.score for row in rows if isinstance(row, Rated)])
    center = (features[: len(rows)][rated] if rated.any() else features).mean(0)
    inputs = np.empty((len(rows), features.shape[1]))
    inputs[rated] = features[: len(rows)][rated] - center
    inputs[~rated] = features[: len(rows)][~rated] - features[len(rows) :]
    targets = np.ones(len(rows))
    offset = float(scores.mean()) if rated.any() else 0.5
    targets[rated] = 2.0 * (scores - offset)  # from the worst to the best is as far as from worse to better and back
    fit = fit_ridge(inputs / scale, targets, groups)
    if fit is None or not _foretells(fit.foretold * targets, groups):
        return None
    told = targets != 0.0
    agreement = float((fit.foretold * targets > 0.0)[told].mean())
    weight, middle = (torch.from_numpy(each).float() for each in (fit.weight / scale, center))
    return HeldOutJudge(trunk, weight, middle, offset, agreement)


def fit_ridge(inputs: Floats, targets: Floats, groups: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Fit | None:
    """The ridge regression whose penalty foretells left-out groups best.

    What the fit without group G says of it follows from the whole fit (Hastie, Tibshirani and Friedman, eq. 7.64, by
    blocks): with C = (K + penalty I)^-1 and a = C y its errors there are C_GG^-1 a_G.

    Args:
        inputs: (N, D).
        targets: (N,).
        groups: (N,) numbers from 0; rows of one are left out together.

    Returns:
        None where every target is 0.
    """
    if not targets.any():
        return None
    sizes, turned = np.linalg.eigh(inputs @ inputs.T)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    best: tuple[float, Fit] | None = None
    for penalty in _PENALTIES:
        inverse = (turned / (sizes.clip(0.0) + penalty)) @ turned.T
        dual = inverse @ targets
        errors = np.empty_like(targets)
        for rows in members:
            errors[rows] = np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
        loss = float(np.square(errors).mean())
        if best is None or loss < best[0]:
            best = loss, Fit(inputs.T @ dual, targets - errors)
    return None if best is None else best[1]


def _foretells(products: Floats, groups: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bool:
    """Whether the mean over groups of (foretold x target) is above 0 by more than chance."""
    means = np.bincount(groups, products) / np.bincount(groups)
    return bool(means.mean() > SIGMAS * means.std(ddof=1) / np.sqrt(len(means)))


def _features(trunk: Trunk, answers: Sequence[Answer], wording: Format) -> Floats:
    """(N, D) of any count of answers."""
    found = []
    for start in range(0, len(answers), _BATCH):
        ids, mask, answered = answer_tokens(trunk, answers[start : start + _BATCH], wording)
        found.append(mean_over_answer(trunk.reference_hidden(ids, mask), answered).double().cpu().numpy())
    return np.concatenate(found)
