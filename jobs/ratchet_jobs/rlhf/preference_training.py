"""Training of a policy on judged answers between steps, so that it can be left and gone on with.

 1. DPO takes pairs, KTO single answers that are good or bad; both as tokens (`preference_rows.py`).
 2. A step asks the policy with gradient and the reference without, on the same trunk, for the answers of one batch.
 3. KTO's reference point is measured on the batch itself, each answer after its neighbour's prompt.

The order of batches is a function of (seed, epoch). Decides nothing about files. Called by the recipe `rl_preference`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ratchet_api.preference import KTO_WEIGHT, PreferenceStage
from ratchet_jobs.generators.answering import Pair
from ratchet_jobs.models.schedule import learning_rate_factor
from ratchet_jobs.rl.learner import Stepper
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.generate import answer_pass, episodes_of, token_logprobs
from ratchet_jobs.rlhf.preference import dpo_loss, kto_loss, reference_point
from ratchet_jobs.rlhf.preference_rows import Liked, Single
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.errors import NotANumberError


@dataclass(frozen=True, slots=True)
class PreferenceStep:
    """One step's numbers."""

    loss: float
    margin: float
    """beta times what good answers gained on bad ones, in log ratios; 0 where the batch lacks either."""
    agreement: float
    """Share of pairs (dpo) told apart rightly; with kto, of answers on their side of the reference point."""
    learning_rate: float
    grad_norm: float
    rows: int


class PreferenceTraining:
    """DPO's or KTO's state between steps; see the module's text."""

    def __init__(
        self,
        trunk: Trunk,
        rows: Sequence[Liked | Single],
        settings: PreferenceStage,
        *,
        seed: int,
        steps: int | None = None,
    ) -> None:
        """Make the optimizer; nothing is computed yet.

        Args:
            trunk: whose policy is trained; its reference is where it starts.
            rows: to learn from: Liked for dpo, Single for kto.
            settings: of training.
            seed: of the order.
            steps: in place of the settings' epochs.
        """
        self.done = 0
        self._trunk, self._rows, self._settings, self._seed = trunk, list(rows), settings, seed
        self._per_epoch = -(-len(self._rows) // settings.batch_size)
        self.steps = settings.epochs * self._per_epoch if steps is None else steps
        parameters = {n: p for n, p in trunk.policy_parameters().items() if not n.startswith("value_head.")}
        self._optimizer = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.0)
        self._stepper = Stepper(parameters, self._optimizer, max_grad_norm=settings.max_grad_norm)

    def step(self) -> PreferenceStep:
        """Take one step on the next batch.

        Raises:
            NotANumberError: the loss or a gradient is not finite.
        """
        settings, size = self._settings, self._settings.batch_size
        epoch, place = divmod(self.done, self._per_epoch)
        order = torch.randperm(len(self._rows), generator=generator_for(self._seed, "preference", epoch)).tolist()
        batch = [self._rows[row] for row in order[place * size : (place + 1) * size]]
        factor = learning_rate_factor(self.done, steps=self.steps, warmup_ratio=settings.warmup_ratio)
        for group in self._optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        pairs = [row for row in batch if isinstance(row, Liked)]
        losses, margin, agreement = self._pairs(pairs) if pairs else self._singles(batch)
        loss = losses.mean()
        if not bool(torch.isfinite(loss)):
            raise NotANumberError(f"step {self.done + 1}: loss {float(loss)}; lower learningRate")
        torch.autograd.backward(loss)
        norm = self._stepper.step()
        self.done += 1
        rate = settings.learning_rate * factor
        return PreferenceStep(float(loss.detach()), margin, agreement, rate, norm, len(batch))

    def _pairs(self, pairs: Sequence[Liked]) -> tuple[Tensor, float, float]:
        ratios = self._log_ratios([pair.better for pair in pairs] + [pair.worse for pair in pairs])
        better, worse = ratios.split(len(pairs))
        gaps = (better - worse).detach()
        losses = dpo_loss(better, worse, beta=self._settings.beta)
        return losses, self._settings.beta * float(gaps.mean()), told_apart(gaps)

    def _singles(self, batch: Sequence[Liked | Single]) -> tuple[Tensor, float, float]:
        settings, rows = self._settings, [row for row in batch if isinstance(row, Single)]
        answers = [row.answer for row in rows]
        with torch.no_grad():
            # the last batch of an epoch may be one row: its own prompt is then the only one there is
            prompts = [*answers[1:], answers[0]]
            others = [Pair(other.prompt, own.response) for other, own in zip(prompts, answers, strict=True)]
            z0 = reference_point(self._log_ratios(others))
        ratios = self._log_ratios(answers)
        good = torch.tensor([row.good for row in rows], device=ratios.device)
        losses = kto_loss(
            ratios,
            good,
            z0,
            beta=settings.beta,
            desirable_weight=settings.desirable_weight or KTO_WEIGHT,
            undesirable_weight=settings.undesirable_weight or KTO_WEIGHT,
        )
        gains = (ratios - z0).detach()
        both = bool(good.any()) and not bool(good.all())
        margin = float(gains[good].mean() - gains[~good].mean()) if both else 0.0
        return losses, settings.beta * margin, told_apart(torch.where(good, gains, -gains))

    def _log_ratios(self, answers: Sequence[Pair]) -> Tensor:
        """Log ratios of whole answers, (B,), with gradient where autograd is on; the policy is asked last."""
        episodes = episodes_of(answers, self._trunk)
        logits, _ = answer_pass(self._trunk, episodes, reference=True)
        reference = token_logprobs(logits, episodes, temperature=1.0).sum(1)
        del logits  # as large as the vocabulary, and of no further use
        with self._trunk.training("policy", checkpointing=self._settings.gradient_checkpointing):
            logits, _ = answer_pass(self._trunk, episodes)
        return token_logprobs(logits, episodes, temperature=1.0).sum(1) - reference

    def agreement(self, held_out: Sequence[Liked]) -> float:
        """Share of pairs of which the better answer gained more on the reference than the worse one.

        Args:
            held_out: at least one pair that was not learned from.
        """
        gaps = []
        with torch.no_grad():
            for start in range(0, len(held_out), self._settings.batch_size):
                part = held_out[start : start + self._settings.batch_size]
                ratios = self._log_ratios([pair.better for pair in part] + [pair.worse for pair in part])
                gaps.append(ratios[: len(part)] - ratios[len(part) :])
        return told_apart(torch.cat(gaps))

    def state(self) -> dict[str, Tensor]:
        """All that the next step depends on, for a safetensors file of a checkpoint."""
        return self._stepper.state() | {"done": torch.tensor(self.done)}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state()` gave; going on gives the bits that never stopping would have given."""
        self.done = int(tensors["done"])
        self._stepper.load_state({name: tensor for name, tensor in tensors.items() if name != "done"})


def told_apart(gaps: Tensor) -> float:
    """Share of gaps above 0, those of exactly 0 counting half: (N,) -> 0..1."""
    return float((gaps > 0).double().mean() + 0.5 * (gaps == 0).double().mean())
