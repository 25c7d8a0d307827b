"""PPO on a language model (Ziegler et al. 2019, arXiv:1909.08593; Stiennon et al. 2020, arXiv:2009.01325, appendix B).

The loop serves every algorithm that learns from answers which the policy drew; what tells them apart is their objective
(`objectives`).

One step, `LanguagePPO.step`:
 1. The next batch of prompts, in an order that is a function of seed and pass, is answered by the policy, each as often
    as the objective's groups are large.
 2. The reward scores each whole answer, up to a stop text if it says one; an answer that was cut loses
    `missing_eos_penalty`.
 3. Scores are whitened, by the moments of all scores so far or of the batch's own, and clipped (`_shaped`).
 4. Of these and the reference's log-probabilities the objective makes advantages; of PPO also value targets.
 5. For each of ppo_epochs passes over the batch in a new order: the objective's loss, divided by the tokens (PPO) or
    answers (of groups) of everything one optimizer step sees, so that accumulation changes nothing but rounding.
 6. The KL controller moves the penalty's weight; breakers judge the step. If one fires, or a number is not finite, the
    parameters are again those after the last step that broke no rule.

Deviations from the usual reference code, and why:
 a. Reference and value model are no models of their own but the same weights asked in another way (`trunk.py`).
 b. Log-probabilities and values are those noted while drawing; the pass that recomputes them is saved. Where the frozen
    weights are not float32 the two differ by more than rounding, so there they are recomputed.
 c. Answers have no fixed length: episodes of like length are passed together, and padding columns are cut.
 d. Everything random is a function of (seed, purpose, step), so a checkpoint needs no generator's state.
Called by the door (`trainer.py`) and by recipes; it writes no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from ratchet_api.rlhf import OnlineAlgorithm, ScoreWhitening
from ratchet_jobs.rl.breakers import BreakerState, Limits, check_update
from ratchet_jobs.rl.diagnostics import clipped, explained_variance, kl_k3
from ratchet_jobs.rl.learner import Stepper, UpdateStats
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf.breakers import OF_GENERATORS, AnswerLimits, AnswerState, StepSeen, check_answers, correlation
from ratchet_jobs.rlhf.generate import Episodes, Sampling, answer_pass, as_heard, generate, pad_prompts, token_logprobs
from ratchet_jobs.rlhf.objectives import OBJECTIVES, Experience
from ratchet_jobs.rlhf.shaping import KlController, Moments, penalise_unstopped
from ratchet_jobs.rlhf.trunk import Trunk
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError, DivergedError, NotANumberError

ScoreFunction = Callable[[Episodes], Tensor]
"""B answered prompts -> (B,) scores of the answers, higher is better."""

_HEAD_COEF = 0.1
"""Weight of the value loss in what the value head learns. Adam makes nothing of it: it is the head's part of the norm
that gradients are clipped to."""
_GOOD = "good/"
"""Begins the names of a checkpoint's tensors that are the last good parameters, where they are not the latest."""
_BEGINS = re.compile(r"(step|update) \d+: ")
"""How a message begins that says at which step it was."""
_AGREE = 1e-3
"""Largest difference, in nats, between a token's log-probability when drawn and in a pass over the whole answer."""


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """Settings of the loop and its objective; where no algorithm is named, they are those of PPO.

    Raises:
        BadConfigError: a setting is out of range.
    """

    algorithm: OnlineAlgorithm = "ppo"
    group_size: int = 1
    """Answers to each prompt of a step; 1 for ppo, at least 2 for the others, which compare them with one another."""
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int = 8
    """Episodes per step."""
    mini_batch_size: int = 4
    """Episodes per pass with gradient: memory grows with it."""
    gradient_accumulation_steps: int = 1
    """Passes per optimizer step."""
    ppo_epochs: int = 2
    """Passes over a step's episodes."""
    learning_rate: float = 1e-4
    """Of the policy."""
    value_learning_rate: float = 1e-3
    """Of the value head, which begins at zero."""
    final_lr_factor: float = 0.1
    """Share of the learning rates left at the last step; they fall linearly."""
    warmup_ratio: float = 0.0
    """Share of the steps over which the learning rates rise, optimizer step by optimizer step: Adam's first ones are of
    full size whatever the gradient's, and a high rate leaves the policy that acted at once."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """Of GAE."""
    cliprange: float = 0.2
    """How far a token's probability ratio may leave 1 and still be rewarded for it."""
    cliprange_value: float = 0.2
    """How far a value may leave its old self, in units of the whitened score."""
    vf_coef: float = 0.1
    """Weight of the value loss in what the policy's adapter learns; 0 = the value head alone learns from it."""
    init_kl_coef: float = 0.05
    target_kl: float | None = 6.0
    """Mean KL of an answer that the penalty steers to; None = init_kl_coef for good."""
    kl_horizon: float = 10_000.0
    """Episodes over which the penalty's weight follows."""
    score_whitening: ScoreWhitening = "running"
    """Whose mean and deviation scores are whitened by: of all so far, of the batch, or of none."""
    score_clip: float | None = 5.0
    """Largest size of a score after whitening; None = any."""
    missing_eos_penalty: float = 0.0
    """Taken off the score of an answer that was cut at max_new_tokens, before whitening."""
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    """Less memory for a third more time in the update."""
    limits: AnswerLimits = field(default_factory=AnswerLimits)
    min_entropy_ratio: float | None = 0.01
    """Smallest entropy as a share of that of the first step; None = any."""
    max_update_kl: float | None = 0.5
    """Largest approximate KL of a token within one step's updates; None = any."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "mini_batch_size", "gradient_accumulation_steps", "ppo_epochs"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "give a whole number from 1 up")
        for name in ("learning_rate", "value_learning_rate", "cliprange", "cliprange_value", "max_grad_norm"):
            value = getattr(self, name)
            _require(value > 0 and math.isfinite(value), name, value, "give a number above 0")
        for name in ("gamma", "lam", "final_lr_factor", "warmup_ratio"):
            _require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "give a number from 0 to 1")
        for name in ("vf_coef", "missing_eos_penalty"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "give a number from 0 up")
        _require(self.score_clip is None or self.score_clip > 0, "score_clip", self.score_clip, "above 0, or none")
        per_step = self.mini_batch_size * self.gradient_accumulation_steps
        if self.batch_size % per_step:
            raise BadConfigError(
                f"batch_size: {self.batch_size} is no multiple of mini_batch_size {self.mini_batch_size} x "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps}; change one of the three"
            )
        known = get_args(ScoreWhitening)
        _require(
            self.score_whitening in known, "score_whitening", self.score_whitening, f"give one of {', '.join(known)}"
        )
        _require(self.algorithm in OBJECTIVES, "algorithm", self.algorithm, f"give one of {', '.join(OBJECTIVES)}")
        if (self.algorithm == "ppo") != (self.group_size == 1) or self.group_size < 1:
            raise BadConfigError(
                f"group_size: {self.group_size} with algorithm {self.algorithm}; give 1 for ppo, 2 or more for others"
            )
        if self.batch_size % self.group_size:
            raise BadConfigError(
                f"batch_size: {self.batch_size} is no multiple of group_size {self.group_size}; change one of them"
            )
        KlController(self.init_kl_coef, self.target_kl, self.kl_horizon)
        Limits(max_kl=self.max_update_kl, min_entropy_ratio=self.min_entropy_ratio)


class LanguagePPO:
    """The loop's state between steps; see the module's text."""

    def __init__(
        self,
        settings: PpoSettings,
        *,
        trunk: Trunk,
        prompts: Sequence[Sequence[int]],
        score: ScoreFunction,
        steps: int,
        seed: int,
        judge: ScoreFunction | None = None,
        claimed: Callable[[], float] | None = None,
    ) -> None:
        """Prepare; nothing is computed yet.

        Args:
            settings: of the algorithm.
            trunk: whose policy is trained.
            prompts: token rows to be answered, in no particular order.
            score: what is maximised.
            steps: planned in all; the learning rates fall over them.
            seed: of prompts' order, draws and minibatches.
            judge: an independent score that is only watched: if it falls while `score` rises, training stops.
            claimed: mean of that part of the latest scores which the judge is held against, where they have others,
                too; None = the scores themselves.

        Raises:
            BadConfigError: no prompts, no steps, or answers would pass the model's context.
        """
        if not prompts or steps < 1:
            raise BadConfigError(f"ppo: {len(prompts)} prompts and max_steps {steps}; give at least one of each")
        longest = max(len(row) for row in prompts) + settings.sampling.max_new_tokens
        if trunk.context is not None and longest > trunk.context:
            raise BadConfigError(
                f"max_new_tokens: {settings.sampling.max_new_tokens} beside the longest prompt of "
                f"{longest - settings.sampling.max_new_tokens} tokens is above the model's context of {trunk.context}; "
                "lower it or shorten the prompt"
            )
        self.settings, self.trunk, self.score, self.judge = settings, trunk, score, judge
        self._claimed = claimed
        self.done, self.steps = 0, steps
        self._prompts, self._seed = prompts, seed
        self._kl = KlController(settings.init_kl_coef, settings.target_kl, settings.kl_horizon)
        self._moments, self._update_state, self._answer_state = Moments(), BreakerState(), AnswerState()
        self._objective = OBJECTIVES[settings.algorithm](settings)
        parameters = trunk.policy_parameters()
        heads = {name: p for name, p in parameters.items() if name.startswith("value_head.")}
        policy = {name: p for name, p in parameters.items() if name not in heads}
        groups: list[dict[str, Any]] = [{"params": list(policy.values()), "lr": settings.learning_rate}]
        if self._objective.has_values:
            groups.append({"params": list(heads.values()), "lr": settings.value_learning_rate})
        else:
            parameters = policy
        optimizer = torch.optim.AdamW(groups, eps=1e-5, weight_decay=0.0)
        self._stepper = Stepper(parameters, optimizer, max_grad_norm=settings.max_grad_norm)
        self._good, self.good_step = self._copied(), 0

    def step(self) -> dict[str, float]:
        """Take one step; see the module's text for its numbers.

        Returns:
            Numbers of the step by name.

        Raises:
            NotANumberError: a score, loss or gradient is not finite.
            DivergedError: a breaker fired. Both name the step, and the parameters are then those of `good_step`.
        """
        try:
            told = self._step()
        except (NotANumberError, DivergedError) as error:
            self.restore_good()
            text = str(error)
            raise type(error)(text if _BEGINS.match(text) else f"step {self.done + 1}: {text}") from error
        if self._quiet:
            self._good, self.good_step = self._copied(), self.done
        return told

    def restore_good(self) -> None:
        """Put back the parameters of `good_step`: the last one that broke no rule; of 0, those it started with."""
        with torch.no_grad():
            for name, parameter in self._stepper.parameters.items():
                parameter.copy_(self._good[name])

    @property
    def has_values(self) -> bool:
        """Whether the algorithm trains the value head."""
        return self._objective.has_values

    @property
    def _quiet(self) -> bool:
        """Whether no rule is broken, not even one that a breaker is still patient with."""
        updates, answers = self._update_state, self._answer_state
        return not (updates.low_entropy or updates.constant_reward or answers.high_kl or answers.empty)

    def _copied(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._stepper.parameters.items()}

    def _step(self) -> dict[str, float]:
        settings = self.settings
        # 1. answers
        episodes = self._settled(self._drawn())
        # 2. scores
        heard = as_heard(self.trunk, episodes, stop=settings.sampling.stop)
        scores = self._scores(self.score, heard)
        penalised = penalise_unstopped(scores, episodes.stopped, penalty=settings.missing_eos_penalty)
        # 3. and 4. shaped scores and advantages
        moments = self._moments.with_(penalised)
        shaped = self._shaped(penalised, moments)
        ref_logprobs, _ = self._passed(episodes, reference=True)
        experience = self._experience(episodes, shaped, ref_logprobs)
        # 5. update
        stats = self._update(experience)
        # 6. controller and breakers
        kl = float((episodes.logprobs - ref_logprobs).sum(1).mean())
        kl_estimate = float(kl_k3(ref_logprobs, episodes.logprobs).sum(1).mean())
        empty = sum(not text for text in self.answers(heard)) / len(episodes)
        lengths = episodes.lengths.double().tolist()
        judged = None if self.judge is None else float(self._scores(self.judge, heard).mean())
        follows = correlation(scores.double().tolist(), lengths)
        claimed = None if self._claimed is None else self._claimed()
        seen = StepSeen(float(scores.mean()), sum(lengths) / len(lengths), follows, judged, claimed)
        self._update_state = check_update(
            stats,
            self._update_state,
            limits=Limits(max_kl=settings.max_update_kl, min_entropy_ratio=settings.min_entropy_ratio),
            reward_constant=bool((scores == scores[0]).all()) and len(scores) > 1,
            update=self.done + 1,
            remedies=OF_GENERATORS,
        )
        self._answer_state = check_answers(
            seen, self._answer_state, kl=kl, empty_share=empty, limits=settings.limits, step=self.done + 1
        )
        told = {
            "score_mean": seen.score,
            "score_std": float(scores.double().std(correction=0)),
            "kl": kl,
            "kl_k3": kl_estimate,
            "kl_coef": self._kl.coef,
            "response_length": seen.length,
            "stopped_share": float(episodes.stopped.double().mean()),
            "empty_share": empty,
        }
        self._moments, self._kl, self.done = moments, self._kl.after(kl, episodes=len(episodes)), self.done + 1
        return told | ({} if judged is None else {"judge_mean": judged}) | stats.as_metrics()

    def answers(self, episodes: Episodes) -> list[str]:
        """The text of each answer, stop tokens left out."""
        stops = set(self.settings.sampling.stop_ids)
        rows = zip(episodes.response_ids.tolist(), episodes.lengths.tolist(), strict=True)
        return [self.trunk.wording.text([t for t in ids[:length] if t not in stops]) for ids, length in rows]

    def _drawn(self) -> Episodes:
        prompts = pad_prompts(self._next_prompts(), pad_id=self.trunk.wording.pad_id, device=self.trunk.device)
        draws = generator_for(self._seed, "answers", self.done, device=self.trunk.device)
        return generate(self.trunk, prompts, self.settings.sampling, generator=draws)

    def _next_prompts(self) -> list[Sequence[int]]:
        """Every prompt comes once before any comes again, in a new order each time; its group lies side by side."""
        group = self._objective.group_size
        size, count = self.settings.batch_size // group, len(self._prompts)
        places = range(self.done * size, (self.done + 1) * size)
        orders = {
            number: torch.randperm(count, generator=generator_for(self._seed, "prompts", number)).tolist()
            for number in {place // count for place in places}
        }
        asked = [self._prompts[orders[place // count][place % count]] for place in places]
        return [prompt for prompt in asked for _ in range(group)]

    def _settled(self, episodes: Episodes) -> Episodes:
        """Check once that drawing and training agree; recompute what was noted where rounding is coarse."""
        exact = self.trunk.base.dtype == torch.float32
        if exact and self.done > 0:
            return episodes
        # the longest prompt and the one with most padding; with one length a single row says it all
        sizes = episodes.prompt_mask.sum(1)
        asked = episodes.take(torch.stack([sizes.argmax(), sizes.argmin()]).unique()) if exact else episodes
        logprobs, values = self._passed(asked)
        if not exact:
            return replace(asked, logprobs=logprobs, values=values)
        apart = float((logprobs - asked.logprobs).abs().max())
        if not apart <= _AGREE:
            raise BadModelError(
                f"base_model: log-probabilities of its answers differ by {apart:.3g} nats between drawing with a cache "
                "and a pass over the whole answer; its code for caches or left padding is wrong: use another "
                "version of transformers, or another base model"
            )
        return episodes

    @torch.no_grad()
    def _passed(self, episodes: Episodes, *, reference: bool = False) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values of every token in passes over whole answers, (B, T) each, 0 where masked out.

        Episodes of like length are asked together, as many as an update's pass has: that cuts what padding costs, and
        logits, which are as large as the vocabulary, are never those of all.

        Args:
            episodes: B of them.
            reference: ask the reference; of its values nothing can be said.
        """
        logprobs, values = torch.zeros_like(episodes.logprobs), torch.zeros_like(episodes.values)
        for rows in _sizes(episodes).argsort(stable=True).split(self.settings.mini_batch_size):
            part = episodes.take(rows)
            logits, hidden = answer_pass(self.trunk, part, reference=reference)
            width = part.response_ids.shape[1]
            told = token_logprobs(logits, part, temperature=self.settings.sampling.temperature)
            logprobs[rows, :width] = told.to(logprobs.dtype)
            if not reference:
                seen = torch.where(part.response_mask, self.trunk.values(hidden), 0.0)
                values[rows, :width] = seen.to(values.dtype)
        return logprobs, values

    def _scores(self, score: ScoreFunction, episodes: Episodes) -> Tensor:
        with torch.no_grad():
            scores = score(episodes).detach().float().to(self.trunk.device)
        if scores.shape != (len(episodes),):
            raise BadConfigError(
                f"score: gave a tensor of shape {tuple(scores.shape)} for {len(episodes)} answers; give one number each"
            )
        if not bool(torch.isfinite(scores).all()):
            raise NotANumberError(
                f"step {self.done + 1}: a score is {scores[~torch.isfinite(scores)][0]:g}; look for NaN in the reward"
            )
        return scores

    def _shaped(self, scores: Tensor, moments: Moments) -> Tensor:
        """Scores as they teach: whitened, then clipped.

            s <- (s - mean) / deviation;  s <- min(max(s, -c), c) with c = score_clip

        Ziegler et al. 2019 (arXiv:1909.08593, section 2.1) scale scores to mean 0 and variance 1 once, over answers of
        the start; Huang et al. 2024 ("The N implementation details of RLHF with PPO", arXiv:2403.17031) do it anew.
        "running" takes the moments of all scores so far, which every later step tells better; "batch" the population's
        of the step's own, so that every step teaches alike however scores rise; scores that are all equal become 0.

        Args:
            scores: (B,) of the step.
            moments: of all scores so far, the step's among them.

        Returns:
            (B,).
        """
        most, by = self.settings.score_clip, self.settings.score_whitening
        of = {"running": moments, "batch": Moments().with_(scores), "none": None}[by]
        shaped = scores if of is None else of.whiten(scores)
        return shaped if most is None else shaped.clamp(-most, most)

    def _experience(self, episodes: Episodes, scores: Tensor, ref_logprobs: Tensor) -> Experience:
        return self._objective.experience(episodes, scores, ref_logprobs, kl_coef=self._kl.coef)

    def _deal(self, episodes: Episodes) -> Iterator[list[Tensor]]:
        """Rows of each pass of each optimizer step; passes of a step share it by length, which cuts their padding."""
        settings, sizes = self.settings, _sizes(episodes)
        for epoch in range(settings.ppo_epochs):
            draws = generator_for(self._seed, "minibatches", self.done, epoch)
            order = torch.randperm(settings.batch_size, generator=draws)
            for rows in order.split(settings.mini_batch_size * settings.gradient_accumulation_steps):
                rows = rows.to(self.trunk.device)
                yield list(rows[sizes[rows].argsort(stable=True)].split(settings.mini_batch_size))

    def _update(self, experience: Experience) -> UpdateStats:
        settings, stepper, episodes = self.settings, self._stepper, experience.episodes
        grad_norms: list[float] = []
        means: list[Tensor] = []
        rate = 0.0
        for number, parts in enumerate(self._deal(episodes)):
            rate = stepper.set_rate(
                progress=self.done / self.steps, final_lr_factor=settings.final_lr_factor, warmth=self._warmth(number)
            )
            lengths = episodes.lengths[torch.cat(parts)]
            count, tokens = self._objective.count(lengths), int(lengths.sum())
            sums = torch.zeros(4, dtype=torch.float64, device=self.trunk.device)
            for rows in parts:
                sums += self._pass(experience, rows, count=count)
            means.append(sums / sums.new_tensor([count, tokens, tokens, tokens]))
            grad_norms.append(stepper.step())
        policy_loss, value_loss, approx_kl, clipfrac = torch.stack(means).mean(0).tolist()
        valued = self._objective.has_values
        mask = episodes.response_mask
        return UpdateStats(
            policy_loss=policy_loss,
            value_loss=value_loss if valued else None,
            entropy=float(episodes.entropies[mask].mean()),
            approx_kl=approx_kl,
            clipfrac=clipfrac,
            explained_variance=explained_variance(episodes.values[mask], experience.returns[mask]) if valued else None,
            grad_norm=sum(grad_norms) / len(grad_norms),
            learning_rate=rate,
            optimizer_steps=len(grad_norms),
        )

    def _warmth(self, number: int) -> float:
        """Share of the warm-up that is behind with optimizer step `number` of this step."""
        settings = self.settings
        passes = settings.batch_size // (settings.mini_batch_size * settings.gradient_accumulation_steps)
        each = settings.ppo_epochs * passes
        warmup = round(settings.warmup_ratio * self.steps) * each
        return min(1.0, (self.done * each + number + 1) / warmup) if warmup else 1.0

    def _pass(self, experience: Experience, rows: Tensor, *, count: int) -> Tensor:
        """Add some episodes' share to the gradient.

        Args:
            experience: of the step.
            rows: (M,) of it.
            count: by what the losses of everything that the optimizer step sees are divided.

        Returns:
            Sums over these rows of policy loss, value loss, approximate KL and clipped tokens, (4,) float64.
        """
        settings, objective = self.settings, self._objective
        old = experience.take(rows)
        episodes, mask = old.episodes, old.episodes.response_mask
        with self.trunk.training("policy", checkpointing=settings.gradient_checkpointing):
            logits, hidden = answer_pass(self.trunk, episodes)
            logprobs = token_logprobs(logits, episodes, temperature=settings.sampling.temperature)  # (M, T)
            seen = _heeded(hidden, settings.vf_coef / _HEAD_COEF)
            values = self.trunk.values(seen) if objective.has_values else None
            policy, value = objective.losses(old, logprobs, values, kl_coef=self._kl.coef)
            loss = policy.sum() if value is None else (policy + _HEAD_COEF * value).sum()
            torch.autograd.backward(loss / count)
        with torch.no_grad():
            now, before = logprobs[mask], episodes.logprobs[mask]
            moved, outside = kl_k3(now, before), clipped(now, before, cliprange=settings.cliprange)
            valued = torch.zeros_like(moved) if value is None else value
            return torch.stack([part.double().sum() for part in (policy, valued, moved, outside)])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next step depends on: tensors for a safetensors file, and numbers for a JSON file."""
        answers = asdict(self._answer_state)
        numbers = {"done": self.done, "kl_coef": self._kl.coef, "moments": asdict(self._moments)}
        numbers |= {"updates": asdict(self._update_state), "answers": answers, "good_step": self.good_step}
        # while no rule is broken the good parameters are those of this step
        good = {} if self._quiet else {f"{_GOOD}{name}": tensor for name, tensor in self._good.items()}
        return self._stepper.state() | good, numbers

    def load_state(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Put back what `state()` gave; going on gives the bits that never stopping would have given."""
        good = {name.removeprefix(_GOOD): tensor for name, tensor in tensors.items() if name.startswith(_GOOD)}
        self._stepper.load_state({name: tensor for name, tensor in tensors.items() if not name.startswith(_GOOD)})
        self.done, self._kl = int(numbers["done"]), replace(self._kl, coef=numbers["kl_coef"])
        self._moments, self._update_state = Moments(**numbers["moments"]), BreakerState(**numbers["updates"])
        answers = dict(numbers["answers"])
        early, late = (tuple(StepSeen(**each) for each in answers.pop(name)) for name in ("early", "late"))
        self._answer_state = AnswerState(**answers, early=early, late=late)
        self._good, self.good_step = self._copied(), int(numbers["good_step"])
        for name, tensor in good.items():
            self._good[name].copy_(tensor)


def _heeded(hidden: Tensor, share: float) -> Tensor:
    """The same numbers, of whose gradient only a share goes on."""
    apart = hidden.detach()
    return apart + share * (hidden - apart) if share else apart


def _sizes(episodes: Episodes) -> Tensor:
    """(B,) tokens of each prompt with its answer."""
    return episodes.prompt_mask.sum(1) + episodes.lengths


def _require(fits: bool, name: str, value: object, remedy: str) -> None:
    if not fits:
        raise BadConfigError(f"{name}: {value}; {remedy}")
