"""A version by DPO or KTO in the Python door: the policy learns from the feedbacks themselves.

 1. Feedbacks are dealt into those that teach and those that are held out, as the rl stage deals a dataset.
 2. max_steps steps are taken, each on the next batch; a training that was cut off goes on from its last checkpoint.
 3. The policy is asked whether it tells the held-out answers apart; policy, results and log are written.

There is no reward model: the policy is its own. Called by `trainer.py`, which made the folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ratchet_jobs.data.judged import Pair, Scored
from ratchet_jobs.rlhf.config import TrainingConfig
from ratchet_jobs.rlhf.feedback import score_statistics
from ratchet_jobs.rlhf.preference_rows import Names, deal
from ratchet_jobs.rlhf.preference_training import PreferenceTraining
from ratchet_jobs.rlhf.result import CHECKPOINTS, LOG_FILE, POLICY_FOLDER, TrainingResult, write_result
from ratchet_jobs.rlhf.reward_model import Preferred, Row
from ratchet_jobs.rlhf.saving import cut_log, latest_checkpoint, save_checkpoint, save_policy
from ratchet_jobs.rlhf.trunk import load_trunk
from ratchet_jobs.runtime.errors import NotANumberError

NAMES = Names(
    rows="feedbacks",
    dataset="feedbacks",
    room="the model's context of",
    more_room="shorten them, or take a model of a longer context",
    algorithm="algorithm='kto'",
    held_out=None,
)
_NO_LIMIT = 2**31 - 1
"""Tokens of a prompt and answer for a model without a longest context."""


class PreferenceVersion:
    """One training while it runs."""

    def __init__(self, config: TrainingConfig, rows: Sequence[Row], *, base: Path, folder: Path, log: Any) -> None:
        """Read the model and deal the feedbacks; nothing is learned yet.

        Args:
            config: with algorithm dpo or kto.
            rows: the feedbacks, checked.
            base: folder of the base model.
            folder: of the version.
            log: of the door.

        Raises:
            BadDataError: the feedbacks do not tell answers apart, or do not fit the algorithm or the model's context.
            BadConfigError: the device is not there.
            BadModelError: the base model cannot be used.
        """
        self.config, self.rows, self.base, self.folder, self.log = config, rows, base, folder, log
        device = config.chosen_device()
        self.trunk = load_trunk(
            base,
            rank=config.lora_r if config.use_lora else None,
            device=device,
            dtype=config.chosen_dtype(device),
            seed=config.seed,
        )
        settings = config.preference()
        judged = [
            Pair(*row) if isinstance(row, Preferred) else Scored(row.prompt, row.response, row.score) for row in rows
        ]
        self.dealt = deal(
            judged,
            settings,
            wording=self.trunk.wording,
            max_tokens=self.trunk.context or _NO_LIMIT,
            seed=config.seed,
            names=NAMES,
        )
        self.training = PreferenceTraining(
            self.trunk, self.dealt.train, settings, seed=config.seed, steps=config.max_steps
        )

    def run(self) -> TrainingResult:
        """See `RLHFTrainer.train`."""
        checkpoints, training = self.folder / CHECKPOINTS, self.training
        if (saved := latest_checkpoint(checkpoints)) is not None:
            training.load_state(saved.tensors)
            cut_log(self.folder, training.done)
            self.log.info("resuming", step=training.done, folder=str(self.folder))
        try:
            while training.done < training.steps:
                self._step()
                if training.done % self.config.checkpoint_steps == 0 and training.done < training.steps:
                    save_checkpoint(checkpoints, training.done, tensors=training.state(), numbers={})
        except NotANumberError as error:
            self._finish("stopped", detail=str(error))
            raise NotANumberError(f"{error}; the policy of the last good step is in {self.folder}") from error
        return self._finish("trained")

    def _step(self) -> None:
        step = self.training.step()
        told = {
            "loss": step.loss,
            "margin": step.margin,
            "train_agreement": step.agreement,
            "learning_rate": step.learning_rate,
            "grad_norm": step.grad_norm,
        }
        with (self.folder / LOG_FILE).open("a") as file:
            file.write(json.dumps({"step": self.training.done, **told}) + "\n")
        shown = {name: round(told[name], 4) for name in ("loss", "margin", "train_agreement")}
        self.log.info("step", step=self.training.done, steps=self.training.steps, **shown)

    def _finish(self, status: Literal["trained", "stopped"], *, detail: str = "") -> TrainingResult:
        save_policy(self.trunk, self.folder / POLICY_FOLDER, tokenizer_from=self.base)
        mean, deviation = score_statistics(self.rows)
        result = TrainingResult(
            status=status,
            detail=detail,
            policy_id=self.config.policy_id,
            version=int(self.folder.name),
            model_path=POLICY_FOLDER,
            reward_model_path=None,
            feedback_count=len(self.rows),
            training_steps=self.training.done,
            reward_mean=mean,
            reward_std=deviation,
            agreement=self.training.agreement(self.dealt.held_out),
        )
        written = write_result(result, self.folder)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        self.log.info(status, folder=str(self.folder), agreement=round(written.agreement or 0.0, 4))
        return written
