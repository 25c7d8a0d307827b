"""RLHF for a language model in a notebook or a script: `RLHFTrainer(config).train(feedbacks, output_dir)`.

 1. The feedbacks are checked, and a reward model learns from them on the policy's own trunk, or from an encoder.
 2. PPO, GRPO or RLOO trains the policy on the prompts of the feedbacks for the reward model's score, against which a
    judge made of held-out feedbacks is held.
 3. Start and result answer the prompts and are scored; policy, reward model, results and log are written.

DPO and KTO learn from the feedbacks themselves, without a reward model (`trainer_preference.py`).

Decides the version's folder (`result.py` draws it) and what is written when. The same call, with the same settings and
feedbacks, goes on from the last checkpoint of a training that was cut off, with the bits it would have had. Needs no
cluster.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
import torch
from torch import Tensor

from ratchet_api.feedback import TrainEstimate, TrainModel
from ratchet_api.training_run import Lora
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.config import LOG_ENV, MODELS_ENV, TrainingConfig
from ratchet_jobs.rlhf.estimate import count_parameters, seconds_for, training_operations
from ratchet_jobs.rlhf.feedback import digest_of, read_feedbacks, score_statistics
from ratchet_jobs.rlhf.generate import Episodes, generate, pad_prompts
from ratchet_jobs.rlhf.held_out_judge import HeldOutJudge, make_judge
from ratchet_jobs.rlhf.ppo import LanguagePPO
from ratchet_jobs.rlhf.result import (
    CHECKPOINTS,
    LOG_FILE,
    POLICY_FOLDER,
    RESULTS_FILE,
    REWARD_FOLDER,
    RewardModelQuality,
    TrainingResult,
    write_result,
)
from ratchet_jobs.rlhf.reward_model import Preferred, RewardModel, Row, split_rows, train_reward_model
from ratchet_jobs.rlhf.saving import cut_log, latest_checkpoint, save_checkpoint, save_policy
from ratchet_jobs.rlhf.scorers import Answer, EncoderScorer, Scorer, TrunkScorer
from ratchet_jobs.rlhf.trainer_preference import PreferenceVersion
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk
from ratchet_jobs.rlhf.wording import Format, prompt_tokens, response_tokens
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError, DivergedError, NotANumberError

PLAN_FILE = "training_plan.json"
_SCORED_PROMPTS = 64
"""Prompts of which start and result are scored."""
_ENCODER_TOKENS = 256
"""Longest prompt and answer that an encoder reads, where it has the positions."""


class RLHFTrainer:
    """Trains language policies from feedback."""

    def __init__(self, config: TrainingConfig) -> None:
        """Keep the settings; nothing is read yet.

        Raises:
            BadConfigError: the settings do not fit each other, or RATCHET_LOG_LEVEL is no level.
        """
        config.check()
        self.config = config
        self._log = _logger(os.environ.get(LOG_ENV, "info"))

    def train(self, feedbacks: Sequence[Mapping[str, Any]], output_dir: str | Path | None = None) -> TrainingResult:
        """Train; see the module's text.

        Args:
            feedbacks: at least ten mappings with prompt, response and score (0..1), or prompt, chosen and rejected.
            output_dir: versions lie below it; None = the folder in RATCHET_MODELS_DIR, else `models`.

        Returns:
            Where everything is, and how good it became.

        Raises:
            BadDataError: the feedbacks cannot be used.
            BadConfigError: settings that do not fit the model or this machine.
            BadModelError: the base model cannot be used.
            DivergedError: training was stopped; policy and results of the last good step are written before.
            NotANumberError: likewise.
        """
        rows = read_feedbacks(feedbacks)
        base = self._base()
        plan = {
            "settings": self.config.model_dump(mode="json"),
            "feedback": digest_of(rows),
            "base": local_digest(base),
        }
        home = Path(output_dir if output_dir is not None else os.environ.get(MODELS_ENV, "models"))
        written = json.dumps(plan, indent=2, sort_keys=True) + "\n"
        folder = _version_folder(home / self.config.policy_id, written)
        door = PreferenceVersion if self.config.judges else _Training
        training = door(self.config, rows, base=base, folder=folder, log=self._log)
        if not folder.exists():  # not sooner: what is refused takes no number
            folder.mkdir(parents=True)
            (folder / PLAN_FILE).write_text(written)
        return training.run()

    def estimate_training(self, feedbacks: Sequence[Mapping[str, Any]]) -> TrainEstimate:
        """What `train` would do, without doing it: steps, and minutes on this machine, roughly.

        Raises:
            BadDataError: see `train`.
            BadConfigError: see `train`.
            BadModelError: see `train`.
        """
        rows, config, base = read_feedbacks(feedbacks), self.config, self._base()
        local_digest(base)
        device = config.chosen_device()
        work = training_operations(config, parameters=count_parameters(base), feedbacks=len(rows))
        mean, deviation = score_statistics(rows)
        return TrainEstimate(
            status="dry_run",
            feedback_count=len(rows),
            estimated_steps=config.max_steps,
            estimated_time_minutes=round(seconds_for(work, device, config.chosen_dtype(device)) / 60, 2),
            score_mean=0.5 if mean is None else mean,  # of a pair, one answer is good and one is bad
            score_std=0.5 if deviation is None else deviation,
            model=TrainModel(
                base_model=config.base_model, use_lora=config.use_lora, learning_rate=config.learning_rate
            ),
        )

    def _base(self) -> Path:
        base = Path(self.config.base_model)
        if not base.is_dir():
            raise BadModelError(
                f"base_model: {base} is no folder here; give one with config.json, tokenizer.json and *.safetensors "
                "(nothing is downloaded)"
            )
        return base


class _Training:
    """One training while it runs."""

    def __init__(self, config: TrainingConfig, rows: Sequence[Row], *, base: Path, folder: Path, log: Any) -> None:
        self.config, self.rows, self.base, self.folder, self.log = config, rows, base, folder, log
        device = config.chosen_device()
        self.trunk: Trunk = load_trunk(
            base,
            rank=config.lora_r if config.use_lora else None,
            device=device,
            dtype=config.chosen_dtype(device),
            reward_dropout=config.reward_model_config.lora_dropout,
            seed=config.seed,
        )
        form = config.prompt_format
        texts = dict.fromkeys(row.prompt for row in rows)
        self.prompts = {tuple(prompt_tokens(self.trunk.wording, text, form)): text for text in texts}
        self.settings = config.ppo(stop_ids=_stop_ids(self.trunk, config.stop))
        self.reward = RewardModel(self._scorer())
        self.ppo = LanguagePPO(
            self.settings,
            trunk=self.trunk,
            prompts=list(self.prompts),
            score=self._score,
            steps=config.max_steps,
            seed=config.seed,
        )

    def run(self) -> TrainingResult:
        """See `RLHFTrainer.train`."""
        notes = self._resumed() or self._begun()
        told: dict[str, float] = notes["told"]
        try:
            while self.ppo.done < self.config.max_steps:
                told = self.ppo.step()
                self._note(told)
                if self.ppo.done % self.config.checkpoint_steps == 0 and self.ppo.done < self.config.max_steps:
                    self._checkpoint(notes | {"told": told})
        except (DivergedError, NotANumberError) as error:
            self._finish("stopped", notes, told, detail=str(error))
            raise type(error)(
                f"{error}; the policy of step {self.ppo.good_step}, the last good one, is in {self.folder}"
            ) from error
        return self._finish("trained", notes, told)

    def _scorer(self) -> Scorer:
        own = self.config.reward_model_config
        if own.base_model is None:
            _require_room(self.trunk, self.rows, self.config.prompt_format)
            return TrunkScorer(self.trunk, wording=self.config.prompt_format)
        folder = Path(own.base_model)
        if not folder.is_dir():
            raise BadModelError(f"reward_model_config.base_model: {folder} is no folder here; give that of an encoder")
        positions = json.loads((folder / "config.json").read_bytes()).get("max_position_embeddings", _ENCODER_TOKENS)
        return EncoderScorer(
            folder,
            lora=Lora(rank=self.config.lora_r, alpha=2 * self.config.lora_r, dropout=own.lora_dropout),
            max_tokens=min(_ENCODER_TOKENS, int(positions)),
            seed=self.config.seed,
            device=self.trunk.device,
        )

    def _score(self, episodes: Episodes) -> Tensor:
        if isinstance(self.reward.scorer, TrunkScorer):
            return self.reward.of_episodes(episodes)
        rows = zip(episodes.prompt_ids.tolist(), episodes.prompt_mask.tolist(), strict=True)
        asked = [tuple(token for token, real in zip(*row, strict=True) if real) for row in rows]
        answers = [Answer(self.prompts[p], text) for p, text in zip(asked, self.ppo.answers(episodes), strict=True)]
        return torch.from_numpy(self.reward.scores(answers)).float()

    def _begun(self) -> dict[str, Any]:
        """The reward model is trained, the judge that is held against it is made, and the start is scored."""

        def after_step(step: int, steps: int, loss: float) -> None:
            self.log.debug("reward model", step=step, steps=steps, loss=round(loss, 4))

        self.reward, quality = train_reward_model(
            self.reward.scorer, self.rows, self.config.reward(), seed=self.config.seed, after_step=after_step
        )
        self.reward.save(self.folder / REWARD_FOLDER)
        held_out = split_rows(self.rows, share=self.config.reward().held_out_share, seed=self.config.seed)[1]
        judge = make_judge(self.trunk, held_out, wording=self.config.prompt_format)
        if judge is not None:
            judge.save(self.folder / REWARD_FOLDER)
        self.ppo.judge = judge
        told = asdict(quality) | {"judge_agreement": None if judge is None else judge.agreement}
        del told["quality_errors"]  # feedbacks have one score
        self.log.info("reward model trained", **told)
        notes = {"quality": told, "start": float(self._scored("start").mean()), "told": {}}
        self._checkpoint(notes)
        return notes

    def _resumed(self) -> dict[str, Any] | None:
        saved = latest_checkpoint(self.folder / CHECKPOINTS)
        if saved is None:
            return None
        self.reward = RewardModel.load(self.folder / REWARD_FOLDER, self.reward.scorer)
        self.ppo.judge = HeldOutJudge.load(self.folder / REWARD_FOLDER, self.trunk)
        self.ppo.load_state(saved.tensors, saved.numbers["ppo"])
        cut_log(self.folder, self.ppo.done)
        self.log.info("resuming", step=self.ppo.done, folder=str(self.folder))
        notes: dict[str, Any] = saved.numbers["notes"]
        return notes

    def _checkpoint(self, notes: Mapping[str, Any]) -> None:
        tensors, numbers = self.ppo.state()
        numbers = {"ppo": numbers, "notes": notes}
        save_checkpoint(self.folder / CHECKPOINTS, self.ppo.done, tensors=tensors, numbers=numbers)

    def _note(self, told: Mapping[str, float]) -> None:
        with (self.folder / LOG_FILE).open("a") as file:
            file.write(json.dumps({"step": self.ppo.done, **told}) + "\n")
        shown = {name: round(told[name], 4) for name in ("score_mean", "kl", "kl_coef", "entropy", "response_length")}
        self.log.info("step", step=self.ppo.done, steps=self.config.max_steps, **shown)

    def _scored(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Scores of the policy's answers to the first prompts, (N,)."""
        prompts, size, scores = list(self.prompts)[:_SCORED_PROMPTS], self.config.batch_size, []
        for start in range(0, len(prompts), size):
            draws = generator_for(self.config.seed, "scored", name, start, device=self.trunk.device)
            batch = pad_prompts(
                prompts[start : start + size], pad_id=self.trunk.wording.pad_id, device=self.trunk.device
            )
            episodes = generate(self.trunk, batch, self.settings.sampling, generator=draws)
            scores.append(self._score(episodes).double().cpu().numpy())
        return np.concatenate(scores)

    def _finish(
        self,
        status: Literal["trained", "stopped"],
        notes: Mapping[str, Any],
        told: Mapping[str, float],
        *,
        detail: str = "",
    ) -> TrainingResult:
        final = self._scored("final")
        save_policy(self.trunk, self.folder / POLICY_FOLDER, tokenizer_from=self.base)
        mean, deviation = score_statistics(self.rows)
        result = TrainingResult(
            status=status,
            detail=detail,
            policy_id=self.config.policy_id,
            version=int(self.folder.name),
            model_path=POLICY_FOLDER,
            reward_model_path=REWARD_FOLDER,
            feedback_count=len(self.rows),
            training_steps=self.ppo.done,
            reward_mean=mean,
            reward_std=deviation,
            start_reward_mean=notes["start"],
            final_reward_mean=float(final.mean()),
            final_reward_std=float(final.std()),
            kl=told.get("kl", 0.0),
            reward_model=RewardModelQuality(**notes["quality"]),
        )
        written = write_result(result, self.folder)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        self.log.info(status, folder=str(self.folder), reward=round(float(final.mean()), 4))
        return written


def _version_folder(policy: Path, plan: str) -> Path:
    """The folder of a training that was cut off while carrying out this very plan, else the next version's."""
    versions = sorted((int(p.name) for p in policy.glob("*") if p.name.isdigit()), reverse=True)
    for version in versions:
        folder = policy / str(version)
        plan_file = folder / PLAN_FILE
        if not (folder / RESULTS_FILE).exists() and plan_file.is_file() and plan_file.read_text() == plan:
            return folder
    return policy / str(versions[0] + 1 if versions else 1)


def _require_room(trunk: Trunk, rows: Sequence[Row], form: Format) -> None:
    """Refuse feedbacks that the trunk has no positions for; some models would fail inside, others learn nonsense."""
    if trunk.context is None:
        return
    sizes = [
        len(prompt_tokens(trunk.wording, row.prompt, form))
        + max(len(response_tokens(trunk.wording, text, form)) for text in _responses(row))
        for row in rows
    ]
    long = [number for number, size in enumerate(sizes) if size > trunk.context]
    if long:
        raise BadDataError(
            f"feedbacks: {len(long)} of {len(rows)} are longer than the model's context of {trunk.context} tokens (the "
            f"first is feedback {long[0]} with {sizes[long[0]]}); shorten them, or take a model of a longer context"
        )


def _responses(row: Row) -> tuple[str, ...]:
    return (row.chosen, row.rejected) if isinstance(row, Preferred) else (row.response,)


def _stop_ids(trunk: Trunk, stop: Sequence[str]) -> tuple[int, ...]:
    found = []
    for text in stop:
        ids = trunk.wording.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if len(ids) != 1:
            raise BadConfigError(f"stop: {text!r} is {len(ids)} tokens of this model; give texts of exactly one token")
        found.append(int(ids[0]))
    return tuple(found)


def _logger(level: str) -> Any:
    """A logger of our own to stderr: a notebook's own logging stays as it is.

    Raises:
        BadConfigError: no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise BadConfigError(f"{LOG_ENV} is {level!r}: expected debug, info, warning or error")
    return structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
    )
