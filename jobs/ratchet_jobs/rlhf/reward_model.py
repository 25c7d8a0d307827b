"""A model of what people think of an answer, learned from scores and from pairs, on a scale of 0 to 1.

 1. Rows are split by prompt: no held-out prompt was trained on.
 2. Loss of a rated answer: cross-entropy between sigmoid(raw) and its score (a proper scoring rule also for scores
    between 0 and 1), or with rating_loss ordinal that of the levels that it is above (`ordinal.py`); of a pair:
    -log sigmoid(raw of the better - raw of the worse) (Bradley and Terry 1952).
 3. Held-out rows calibrate (`calibration.py`) and tell how good it is: each row is calibrated by the *other* half of
    the held-out rows before it counts, so that the error told is not that of numbers fitted to it.

Deviation from the usual code: no trainer of a library, since the adapter shares the policy's trunk, which a trainer
would wrap, move and save as a model of its own (docs/adr/0016-reward-model-on-the-trunk.md).
Called by the door and by recipes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ratchet_api.feedback import MIN_TRAIN_SAMPLES
from ratchet_api.reward_model import RatingLoss
from ratchet_jobs.metrics.classification import expected_calibration_error
from ratchet_jobs.models.batching import bucketed_batches
from ratchet_jobs.models.card import REWARD_MODEL_FILE as CARD_FILE
from ratchet_jobs.models.schedule import learning_rate_factor
from ratchet_jobs.rl.learner import Stepper
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.calibration import Floats, Scaling, fit_differences, fit_scores
from ratchet_jobs.rlhf.critic import Quality, calibrated_by_halves, calibrated_qualities, quality_losses
from ratchet_jobs.rlhf.generate import Episodes
from ratchet_jobs.rlhf.ordinal import Levels
from ratchet_jobs.rlhf.scorers import Answer, Built, EncoderScorer, Scorer, TrunkScorer
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError, NotANumberError

WEIGHTS_FILE = "reward_model.safetensors"
_FORMAT = "ratchet.dev/reward-model-v1"


class Rated(NamedTuple):
    """An answer and the score that somebody gave it."""

    prompt: str
    response: str
    score: float
    """0..1, higher is better."""
    qualities: tuple[float, ...] = ()
    """Of a critic's row: 0..1 for each quality of its scorer."""


class Preferred(NamedTuple):
    """Two answers of which somebody preferred one."""

    prompt: str
    chosen: str
    rejected: str


Row = Rated | Preferred


class RewardStep(NamedTuple):
    """One step of training."""

    loss: float
    learning_rate: float
    """Of the adapter."""
    grad_norm: float
    """Before clipping."""
    rows: int


@dataclass(frozen=True, slots=True)
class RewardSettings:
    """Settings of reward-model training.

    Raises:
        BadConfigError: a setting is out of range.
    """

    rating_loss: RatingLoss = "regression"
    """How a rated answer teaches: by its score, or by the levels that it is above."""
    num_epochs: int = 3
    batch_size: int = 8
    """Rows per step; a pair is one row."""
    learning_rate: float = 2e-4
    """Of the adapter, at its peak."""
    head_learning_rate: float = 2e-3
    warmup_ratio: float = 0.1
    held_out_share: float = 0.2
    """Of the prompts."""
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("num_epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BadConfigError(f"{name}: {getattr(self, name)}; give a whole number from 1 up")
        for name in ("learning_rate", "head_learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise BadConfigError(f"{name}: {getattr(self, name)}; give a number above 0")
        if self.rating_loss not in get_args(RatingLoss):
            raise BadConfigError(f"rating_loss: {self.rating_loss!r}; give one of {', '.join(get_args(RatingLoss))}")
        if not 0 <= self.warmup_ratio <= 1:
            raise BadConfigError(f"warmup_ratio: {self.warmup_ratio}; give a number from 0 to 1")
        if not 0 < self.held_out_share < 1:
            raise BadConfigError(f"held_out_share: {self.held_out_share}; give a number above 0 and below 1")


@dataclass(frozen=True, slots=True)
class RewardMetrics:
    """How good a reward model is on rows that it never saw."""

    held_out: int
    """Rows."""
    pair_accuracy: float | None
    """Share of held-out pairs, given or formed of answers whose scores differ, that it ranks as people did; None = no
    pair."""
    mean_squared_error: float | None
    """Between scores of rated answers; None = none was held out."""
    ece: float | None
    """Expected calibration error of the scores, ten bins; None = no rated answer was held out."""
    quality_errors: Mapping[str, float]
    """Mean squared error of each quality; of a critic alone."""


class RewardModel:
    """A scorer with its scale; called with episodes it is a reward of PPO."""

    def __init__(
        self,
        scorer: Scorer,
        scaling: Scaling = Scaling(),  # noqa: B008 - immutable
        qualities: Mapping[str, Scaling] = MappingProxyType({}),
    ) -> None:
        self.scorer, self.scaling, self.qualities = scorer, scaling, qualities

    def scores(self, answers: Sequence[Answer], *, batch_size: int = 16) -> Floats:
        """Scores in 0..1, higher is better: (N,)."""
        return self.scaling(raw_numbers(self.scorer, answers, batch_size=batch_size))

    def parts(self, answers: Sequence[Answer], *, batch_size: int = 16) -> Floats:
        """The same, and of a critic each quality in the order of `qualities`: (N, 1 + Q), 0..1."""
        raw = raw_numbers_of_all(self.scorer, answers, batch_size=batch_size)
        scalings = (self.scaling, *self.qualities.values())
        return np.stack([scaling(raw[:, place]) for place, scaling in enumerate(scalings)], axis=1)

    @property
    def reads_text(self) -> bool:
        """Whether it must be asked by `parts`, in words: it stands on an encoder of its own."""
        return isinstance(self.scorer, EncoderScorer)

    def of_episodes(self, episodes: Episodes) -> Tensor:
        """Scores (B,) of answers that are tokens of the trunk already."""
        return self.parts_of_episodes(episodes)[:, 0]

    def parts_of_episodes(self, episodes: Episodes) -> Tensor:
        """The same, and of a critic each quality in the order of `qualities`: (B, 1 + Q), 0..1."""
        if not isinstance(self.scorer, TrunkScorer):
            raise BadConfigError(f"reward model: of kind {self.scorer.kind} reads text; give it the decoded answers")
        with torch.no_grad():
            raw = self.scorer.of_tokens(*episodes.whole())
        scalings = (self.scaling, *self.qualities.values())
        slopes, offsets = (
            torch.tensor(list(each), device=raw.device) for each in zip(*map(astuple, scalings), strict=True)
        )
        return torch.sigmoid(slopes * raw + offsets)

    def save(self, folder: Path) -> None:
        """Write weights and scale; equal models give equal bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        parameters = self.scorer.parameters()
        save_file({n: p.detach().cpu().contiguous() for n, p in parameters.items()}, folder / WEIGHTS_FILE)
        card = {"format": _FORMAT, "kind": self.scorer.kind, "base": self.scorer.digest, **asdict(self.scaling)}
        if isinstance(self.scorer, EncoderScorer):
            card |= self.scorer.as_card()
        if self.qualities:
            card["qualities"] = [{"name": name, **asdict(scaling)} for name, scaling in self.qualities.items()]
        (folder / CARD_FILE).write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path, scorer: Scorer) -> RewardModel:
        """Put saved weights and scale onto a scorer of the same kind on the same base.

        Raises:
            BadModelError: the files cannot be read, or belong to another kind of scorer or another base.
        """
        try:
            card = json.loads((folder / CARD_FILE).read_bytes())
            kind, base, scaling = card["kind"], card["base"], Scaling(float(card["slope"]), float(card["offset"]))
            named = {each["name"]: Scaling(each["slope"], each["offset"]) for each in card.get("qualities", ())}
            weights = load_file(folder / WEIGHTS_FILE)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BadModelError(
                f"reward model {folder}: cannot be read: {error}; take a folder as it was saved"
            ) from error
        if (kind, base) != (scorer.kind, scorer.digest):
            raise BadModelError(
                f"reward model {folder}: of kind {kind} on base {base[:12]}, but this is {scorer.kind} on "
                f"{scorer.digest[:12]}; use the base model that it was trained on"
            )
        parameters = scorer.parameters()
        wanted = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if wanted != given:
            odd = sorted(wanted.items() ^ given.items())[0]
            raise BadModelError(
                f"reward model {folder}: its weights do not fit, first at {odd[0]}; set lora_r as it was trained with"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(weights[name])
        return cls(scorer, scaling, named)


class RewardTraining:
    """Training of a reward model between steps, so that it can be left and gone on with; see the module's text."""

    def __init__(self, scorer: Scorer, rows: Sequence[Row], settings: RewardSettings, *, seed: int) -> None:
        """Split the rows and make the optimizer; nothing is computed yet.

        Args:
            scorer: trained in place.
            rows: at least MIN_TRAIN_SAMPLES.
            settings: of training.
            seed: of split, order and dropout.

        Raises:
            BadDataError: too few rows, or rows that teach nothing.
        """
        check_rows(rows)
        self.done = 0
        self._known_order: tuple[int, list[list[int]]] = -1, []
        self._scorer, self._settings, self._seed = scorer, settings, seed
        self._train, self.held_out = split_rows(rows, share=settings.held_out_share, seed=seed)
        self._lengths = _lengths(scorer, self._train) if isinstance(scorer, EncoderScorer) else None
        self._per_epoch = -(-len(self._train) // settings.batch_size)
        self.steps = settings.num_epochs * self._per_epoch
        parameters = dict(scorer.parameters())
        self._levels: Levels | None = None
        rated = [row.score for row in self._train if isinstance(row, Rated)]
        if settings.rating_loss == "ordinal" and rated:
            self._levels = Levels(rated)
            device = next(iter(parameters.values())).device
            self._levels.thresholds.data = self._levels.thresholds.data.to(device)
            parameters["head.thresholds"] = self._levels.thresholds
        heads = [p for name, p in parameters.items() if name.startswith("head.")]
        adapter = [p for name, p in parameters.items() if not name.startswith("head.")]
        self._optimizer = torch.optim.AdamW(
            [{"params": adapter, "lr": settings.learning_rate}, {"params": heads, "lr": settings.head_learning_rate}],
            weight_decay=0.01,
        )
        self._stepper = Stepper(parameters, self._optimizer, max_grad_norm=settings.max_grad_norm)

    def step(self) -> RewardStep:
        """Take one step on the next batch.

        Raises:
            NotANumberError: the loss or a gradient is not finite.
        """
        settings, step = self._settings, self.done
        epoch, place = divmod(step, self._per_epoch)
        batch = [self._train[row] for row in self._order(epoch)[place]]
        factor = learning_rate_factor(step, steps=self.steps, warmup_ratio=settings.warmup_ratio)
        _set_rate(self._optimizer, factor)
        with torch.random.fork_rng(devices=[]), self._scorer.training():
            torch.manual_seed(int(generator_for(self._seed, "dropout", step).initial_seed()))
            loss = row_losses(self._scorer, batch, levels=self._levels).mean()
            if not bool(torch.isfinite(loss)):
                raise NotANumberError(f"reward model, step {step + 1}: loss {float(loss)}; lower its learning_rate")
            torch.autograd.backward(loss)
        norm = self._stepper.step()
        self.done += 1
        return RewardStep(float(loss.detach()), settings.learning_rate * factor, norm, len(batch))

    def _order(self, epoch: int) -> Sequence[Sequence[int]]:
        """The batches of an epoch; of an encoder's those of like length stand together, which pads less."""
        if epoch == self._known_order[0]:
            return self._known_order[1]
        size = self._settings.batch_size
        if self._lengths is not None:
            found = [batch.tolist() for batch in bucketed_batches(self._lengths, size, seed=self._seed, epoch=epoch)]
        else:
            generator = generator_for(self._seed, "reward-model", epoch)
            order = torch.randperm(len(self._train), generator=generator).tolist()
            found = [order[at : at + size] for at in range(0, len(order), size)]
        self._known_order = epoch, found
        return found

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, for a safetensors file of a checkpoint."""
        return self._stepper.state() | {"done": torch.tensor(self.done)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave; going on gives the bits that never stopping would have given."""
        self.done = int(tensors["done"])
        self._stepper.load_state({name: tensor for name, tensor in tensors.items() if name != "done"})

    def finished(self) -> tuple[RewardModel, RewardMetrics]:
        """Calibrate on the held-out rows, and tell how good the model is on them."""
        return _calibrated(self._scorer, self.held_out)


def train_reward_model(
    scorer: Scorer,
    rows: Sequence[Row],
    settings: RewardSettings,
    *,
    seed: int,
    after_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> tuple[RewardModel, RewardMetrics]:
    """Learn from rated answers and pairs in one go; `RewardTraining` has the arguments and errors.

    Args:
        scorer: trained in place.
        rows: at least MIN_TRAIN_SAMPLES.
        settings: of training.
        seed: of split, order and dropout.
        after_step: told step (from 1), steps and loss.
    """
    training = RewardTraining(scorer, rows, settings, seed=seed)
    while training.done < training.steps:
        loss = training.step().loss
        after_step(training.done, training.steps, loss)
    return training.finished()


def row_losses(scorer: Scorer, rows: Sequence[Row], *, levels: Levels | None = None) -> Tensor:
    """Loss of each row, (B,) with gradient, rated rows first.

    Args:
        scorer: asked once for all answers.
        rows: B of either kind.
        levels: of ratings that teach by their order; None = by their scores.
    """
    rated = [row for row in rows if isinstance(row, Rated)]
    pairs = [row for row in rows if isinstance(row, Preferred)]
    answers = [Answer(row.prompt, row.response) for row in rated]
    answers += [Answer(row.prompt, row.chosen) for row in pairs] + [Answer(row.prompt, row.rejected) for row in pairs]
    critic = any(row.qualities for row in rated)
    every = scorer.every(answers) if critic else scorer.raw(answers).unsqueeze(1)
    raw = every[:, 0]
    single, better, worse = raw.split([len(rated), len(pairs), len(pairs)])
    scores = torch.tensor([row.score for row in rated], device=raw.device)
    if levels is not None:
        rating = levels.losses(single, scores)
    else:
        rating = nn.functional.binary_cross_entropy_with_logits(single, scores, reduction="none")
    if critic:
        rating = rating + quality_losses(every[: len(rated), 1:], [row.qualities for row in rated])
    return torch.cat([rating, -nn.functional.logsigmoid(better - worse)])


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows that teach nothing.

    Raises:
        BadDataError: naming the first row that cannot be used, or what all of them lack.
    """
    if len(rows) < MIN_TRAIN_SAMPLES:
        raise BadDataError(f"Insufficient feedback: {len(rows)} samples (minimum {MIN_TRAIN_SAMPLES} required)")
    for number, row in enumerate(rows):
        if not row.prompt.strip():
            raise BadDataError(f"feedback {number}: prompt is empty; give the text that was answered")
        if isinstance(row, Preferred):
            if row.chosen == row.rejected:
                raise BadDataError(f"feedback {number}: chosen and rejected are the same answer; leave the pair out")
        elif not 0.0 <= row.score <= 1.0:
            raise BadDataError(f"feedback {number}: score {row.score}; give a number from 0 (worst) to 1 (best)")
    scores = {row.score for row in rows if isinstance(row, Rated)}
    if len(scores) == 1 and all(isinstance(row, Rated) for row in rows):
        raise BadDataError(
            f"feedback: all {len(rows)} scores are {scores.pop():g}: nothing tells good answers from bad ones; collect "
            "some of each"
        )


def split_rows(rows: Sequence[Row], *, share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and held-out rows; a prompt's rows stay together unless there are fewer than five prompts.

    Args:
        rows: at least two.
        share: of the prompts (or rows) that are held out, at least one of them.
        seed: of the draw.
    """
    by_row = len({row.prompt for row in rows}) < 5
    keys = [str(number) if by_row else row.prompt for number, row in enumerate(rows)]
    ranked = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    out = set(ranked[: max(1, round(share * len(ranked)))])
    train = [row for row, key in zip(rows, keys, strict=True) if key not in out]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in out]


class Saved(NamedTuple):
    """What a saved reward model is to be put onto."""

    base: str
    """Digest of the policy's base, or of the encoder of its own."""
    built: Built | None
    """How the encoder was put together; None = it is an adapter on the policy's trunk."""
    qualities: tuple[str, ...]
    """What it tells besides an answer's worth; nothing unless it is a critic."""


def read_saved(folder: Path) -> Saved:
    """Read a saved reward model's card.

    Raises:
        BadModelError: it cannot be read.
    """
    try:
        card = json.loads((folder / CARD_FILE).read_bytes())
        qualities = tuple(str(each["name"]) for each in card.get("qualities", ()))
        return Saved(card["base"], Built.of_card(card) if card["kind"] == EncoderScorer.kind else None, qualities)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModelError(f"reward model {folder}: cannot be read: {error}; take a folder as it was saved") from error


def saved_rank(folder: Path) -> int | None:
    """Rank of the adapter of a reward model on a trunk, as it was saved; None = it stands on an encoder of its own.

    Raises:
        BadModelError: the file cannot be read, or holds no adapter.
    """
    if read_saved(folder).built is not None:
        return None
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if ".lora_A." in name}
    except (OSError, SafetensorError) as error:
        raise BadModelError(f"reward model {folder}: cannot be read: {error}; take a folder as it was saved") from error
    if len(ranks) != 1:
        raise BadModelError(f"reward model {folder}: holds no adapter of one rank; take one that a trunk was taught")
    return int(ranks.pop())


def _calibrated(scorer: Scorer, held_out: Sequence[Row]) -> tuple[RewardModel, RewardMetrics]:
    rated = [row for row in held_out if isinstance(row, Rated)]
    pairs = [row for row in held_out if isinstance(row, Preferred)]
    every = raw_numbers_of_all(scorer, [Answer(row.prompt, row.response) for row in rated])
    raw = every[:, 0]
    better = raw_numbers(scorer, [Answer(row.prompt, row.chosen) for row in pairs])
    worse = raw_numbers(scorer, [Answer(row.prompt, row.rejected) for row in pairs])
    given = np.array([row.score for row in rated])
    scaling = fit_scores(raw, given) if len(rated) >= len(pairs) else fit_differences(better, worse)
    honest = calibrated_by_halves(raw, given) if len(rated) >= len(pairs) else scaling(raw)
    qualities: dict[str, Quality] = {}
    if scorer.qualities and rated:
        told = calibrated_qualities(every[:, 1:], np.array([row.qualities for row in rated]))
        qualities = dict(zip(scorer.qualities, told, strict=True))
    ranked = Ranked.of_pairs(better, worse) + Ranked.of_scores(raw, given)
    metrics = RewardMetrics(
        held_out=len(held_out),
        pair_accuracy=ranked.share,
        mean_squared_error=float(np.square(honest - given).mean()) if len(rated) else None,
        ece=expected_calibration_error(honest, given, bins=10) if len(rated) else None,
        quality_errors={name: quality.mean_squared_error for name, quality in qualities.items()},
    )
    scalings = {name: qualities[name].scaling if qualities else Scaling() for name in scorer.qualities}
    return RewardModel(scorer, scaling, scalings), metrics


@dataclass(frozen=True, slots=True)
class Ranked:
    """Pairs of which people liked one better, and how many a model ranks likewise; one that it holds equal is half."""

    right: float
    pairs: int

    @classmethod
    def of_pairs(cls, better: Floats, worse: Floats) -> Ranked:
        """Of pairs as they were given, (P,) each."""
        return cls(float((better > worse).sum() + 0.5 * (better == worse).sum()), len(better))

    @classmethod
    def of_scores(cls, raw: Floats, given: Floats) -> Ranked:
        """Of all pairs of N answers whose scores differ, a row of them at a time."""
        found = cls(0.0, 0)
        for place in range(1, len(raw)):
            differ = given[:place] != given[place]
            above, higher = raw[place] - raw[:place][differ], given[place] - given[:place][differ]
            right = (above * higher > 0).sum() + 0.5 * (above == 0).sum()
            found = cls(found.right + float(right), found.pairs + int(differ.sum()))
        return found

    def __add__(self, other: Ranked) -> Ranked:
        """Both together."""
        return Ranked(self.right + other.right, self.pairs + other.pairs)

    @property
    def share(self) -> float | None:
        """Of the pairs; None = there is none."""
        return self.right / self.pairs if self.pairs else None


def _lengths(scorer: EncoderScorer, rows: Sequence[Row]) -> NDArray[np.int64]:
    """Tokens of each row: of a pair, those of the longer answer."""
    first = [Answer(row.prompt, row.chosen if isinstance(row, Preferred) else row.response) for row in rows]
    second = [Answer(row.prompt, row.rejected if isinstance(row, Preferred) else "") for row in rows]
    return np.maximum(scorer.lengths(first), scorer.lengths(second))


def raw_numbers(scorer: Scorer, answers: Sequence[Answer], *, batch_size: int = 16) -> Floats:
    """Raw numbers of any count of answers without gradient, (N,)."""
    return raw_numbers_of_all(scorer, answers, batch_size=batch_size)[:, 0]


def raw_numbers_of_all(scorer: Scorer, answers: Sequence[Answer], *, batch_size: int = 16) -> Floats:
    """The same with those of each quality, (N, 1 + Q)."""
    raw: list[list[float]] = []
    with torch.no_grad():
        for start in range(0, len(answers), batch_size):
            raw += scorer.every(answers[start : start + batch_size]).double().tolist()
    return np.asarray(raw, dtype=np.float64).reshape(len(answers), 1 + len(scorer.qualities))


def _set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
