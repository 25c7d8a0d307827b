"""RL for any Hugging Face sequence classifier, in a notebook: `train_with_rl` and the `RLTrainer` behind it.

The same algorithms, buffers and breakers as the rl stage, on a model and loaders that the user brings. Decides how a
loader's batches are read, what the value head sees (the mean of the last hidden states over real tokens), and that the
model ends with whichever parameters did better on the validation loader. Writes no file and needs no cluster. Only
parameters that require a gradient are trained, so a frozen or peft-wrapped model works as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ratchet_api.rl import RlSettings
from ratchet_jobs.data.traffic import Traffic
from ratchet_jobs.models.actor_critic import parameters_as
from ratchet_jobs.models.rl_settings import algorithm_settings, make_rewards
from ratchet_jobs.rewards.batch import RewardBatch
from ratchet_jobs.rewards.compose import Term, WeightedSum
from ratchet_jobs.rewards.user_code import UserFunctionReward
from ratchet_jobs.rl.algorithms import make_algorithm
from ratchet_jobs.rl.breakers import BreakerState, Limits, check_update
from ratchet_jobs.rl.categorical import log_prob_of
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.rl.rollout import PolicyOutput, Rollout
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError

RewardFunction = Callable[[Tensor, Tensor, Tensor], Any]
"""(predictions, labels, confidences), (B,) each -> B rewards."""

_ROWS = 64
"""Queries per forward pass when no gradient is wanted."""

_HEADS = ("classifier", "score", "classification_head")
"""What Hugging Face's sequence classifiers call their head."""


class RLConfig(RlSettings):
    """Settings of `RLTrainer`: the rl stage's fields by their Python names, and a seed."""

    seed: Annotated[int, Field(default=0, ge=0, le=2**31 - 1, description="seed: of every random choice.")]


@dataclass(frozen=True, slots=True)
class RLResult:
    """What training came to."""

    accuracy_before: float
    """On the validation loader."""
    accuracy_after: float
    """On the validation loader, of the model as trained."""
    kept: bool
    """False = the trained model did worse, so the model has its start parameters again."""
    curve: list[dict[str, float]]
    """One entry per rollout: interactions, avg_return, policy_loss, entropy, approx_kl and so on."""


class _Queries(NamedTuple):
    """A loader, read."""

    rows: list[Tensor]
    """Token ids of each query, without padding."""
    labels: Tensor
    """(N,) int64."""


class RLTrainer:
    """Trains one sequence classifier from rewards on its own answers."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, reward: RewardFunction | None = None, config: RLConfig | None = None
    ) -> None:
        """Keep what is trained.

        Args:
            model: takes input_ids and attention_mask and gives logits and hidden states; any
                AutoModelForSequenceClassification.
            tokenizer: the model's own; called as tokenizer(texts, truncation=True), and asked for pad_token_id.
            reward: of the answers, in place of config.rewards.
            config: settings; the defaults if omitted.

        Raises:
            BadConfigError: reward and config.rewards are both given, or the model has no hidden size.
        """
        self.model, self.tokenizer, self.config = model, tokenizer, config or RLConfig()
        if reward is not None and "rewards" in self.config.model_fields_set:
            raise BadConfigError("reward: given beside config.rewards; leave one of them out")
        self._reward = reward
        hidden = getattr(getattr(model, "config", None), "hidden_size", None)
        if not isinstance(hidden, int):
            raise BadConfigError(f"model: {type(model).__name__} has no config.hidden_size; give a sequence classifier")
        self.value_head = nn.Linear(hidden, 1).to(self._device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def train(self, train_loader: Iterable[Any], val_loader: Iterable[Any]) -> RLResult:
        """Learn from the rewards of the train loader's queries; keep the result if validation is not worse.

        Args:
            train_loader: batches as mappings with input_ids, attention_mask and labels, or text and labels, or as
                pairs (texts, labels). Read once; queries are drawn from it in orders of the trainer's own.
            val_loader: the same, for the accuracy before and after.

        Raises:
            StageError: a loader cannot be read, settings and data do not fit each other, or a breaker fired.
        """
        queries, held_out = self._read(train_loader, "train_loader"), self._read(val_loader, "val_loader")
        if self.config.rollout_size > len(queries.rows):
            raise BadDataError(
                f"config.rollout_size: {self.config.rollout_size} is above the {len(queries.rows)} queries of "
                "train_loader; lower it or bring more"
            )
        was_training = self.model.training
        self.model.eval()  # no dropout: the ratio of an answer just given is 1
        parameters = self._trainable()
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        before = self._accuracy(held_out)
        curve = self._learn(queries, parameters)
        after = self._accuracy(held_out)
        if after < before:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(start[name])
        self.model.train(was_training)
        return RLResult(before, after, kept=after >= before, curve=curve)

    def _learn(self, queries: _Queries, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, float]]:
        config, device = self.config, self._device
        forward = self._forward_of(queries)
        asks = self._probabilities_of(forward) if config.algorithm == "dqn" else forward
        optimizer = torch.optim.Adam(self._groups(parameters), eps=1e-5)
        learner = Learner(parameters, optimizer, forward=asks, max_grad_norm=config.max_grad_norm)
        algorithm = make_algorithm(config.algorithm, self._settings(), learner=learner, seed=config.seed)
        rewards = self._rewards()
        limits = Limits(max_kl=config.max_kl, min_entropy_ratio=config.min_entropy_ratio)
        breakers, curve = BreakerState(), list[dict[str, float]]()
        reference = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        traffic = Traffic(np.arange(len(queries.rows)), seed=config.seed)
        for number, done in enumerate(range(0, config.interactions, config.rollout_size)):
            progress = done / config.interactions
            asked = traffic.take(done, min(config.rollout_size, config.interactions - done))
            obs = torch.from_numpy(asked.rows).to(device)
            with torch.no_grad():
                draws = generator_for(config.seed, "act", number, device=device)
                action = algorithm.act(asks(obs), progress=progress, generator=draws)
                probs = action.output.logits if config.algorithm == "dqn" else action.output.logits.softmax(-1)
                batch = RewardBatch.with_labels(action.actions, probs, queries.labels[obs], step=done)
                scored = rewards.score(batch)
                total = scored.total
                if config.kl_coef > 0:
                    with parameters_as(parameters, reference):
                        started = log_prob_of(forward(obs).logits, action.actions)
                    total = total - config.kl_coef * (action.logprobs - started)
            rollout = Rollout.of_single_steps(
                obs,
                actions=action.actions,
                logprobs=action.logprobs,
                values=action.output.values,
                rewards=total,
            )
            stats = algorithm.learn(rollout, progress=progress)
            right = bool((action.actions == queries.labels[obs]).all())
            breakers = check_update(
                stats, breakers, limits=limits, reward_constant=scored.constant and not right, update=number + 1
            )
            told = {"interactions": float(done + len(obs)), "avg_return": float(total.mean())}
            curve.append(told | stats.as_metrics())
        return curve

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _rewards(self) -> WeightedSum:
        if self._reward is not None:
            return WeightedSum([Term("reward", UserFunctionReward(self._reward))])
        labels = getattr(self.model.config, "id2label", None) or {}
        return make_rewards(self.config.rewards, labels=[str(labels[place]) for place in sorted(labels)])

    def _settings(self) -> Mapping[str, object]:
        settings = dict(algorithm_settings(self.config))
        if self._reward is not None and self.config.verdict_coef is None and "verdict_coef" in settings:
            settings["verdict_coef"] = 0.0  # what a user's reward means is not known
        return settings

    def _trainable(self) -> dict[str, nn.Parameter]:
        heads_alone = self.config.learning_rate is None
        named = {
            f"model.{name}": parameter
            for name, parameter in sorted(self.model.named_parameters())
            if parameter.requires_grad and (_is_head(name) or not heads_alone)
        }
        if not named:
            raise BadConfigError(
                f"model: it has no head called {', '.join(_HEADS)} that requires a gradient; set "
                "config.learning_rate to train every parameter that requires one"
            )
        return named | {f"value_head.{name}": p for name, p in self.value_head.named_parameters()}

    def _groups(self, parameters: Mapping[str, nn.Parameter]) -> list[dict[str, Any]]:
        config = self.config
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            rate = config.head_learning_rate
            if name.startswith("value_head."):
                rate = config.value_learning_rate
            elif config.learning_rate is not None and not _is_head(name):
                rate = config.learning_rate
            groups.setdefault(rate, []).append(parameter)
        return [{"params": members, "lr": rate} for rate, members in groups.items()]

    def _forward_of(self, queries: _Queries) -> Callable[[Tensor], PolicyOutput]:
        def forward(obs: Tensor) -> PolicyOutput:
            parts = (obs,) if torch.is_grad_enabled() else torch.split(obs, _ROWS)
            outputs = [self._answer([queries.rows[i] for i in part.tolist()]) for part in parts]
            return PolicyOutput(torch.cat([o.logits for o in outputs]), torch.cat([o.values for o in outputs]))

        return forward

    @staticmethod
    def _probabilities_of(forward: Callable[[Tensor], PolicyOutput]) -> Callable[[Tensor], PolicyOutput]:
        def asks(obs: Tensor) -> PolicyOutput:
            output = forward(obs)
            return PolicyOutput(output.logits.softmax(-1), output.values)

        return asks

    def _answer(self, rows: list[Tensor]) -> PolicyOutput:
        pad = int(getattr(self.tokenizer, "pad_token_id", None) or 0)
        input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad).to(self._device)  # (B, T)
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        mask = (torch.arange(input_ids.shape[1], device=self._device) < lengths.unsqueeze(1)).long()
        answer = self.model(input_ids=input_ids, attention_mask=mask, output_hidden_states=True)
        weight = mask.unsqueeze(-1).float()
        pooled = (answer.hidden_states[-1].float() * weight).sum(1) / weight.sum(1)  # (B, D)
        return PolicyOutput(answer.logits.float(), self.value_head(pooled).squeeze(-1))

    def _accuracy(self, queries: _Queries) -> float:
        with torch.no_grad():
            logits = self._forward_of(queries)(torch.arange(len(queries.rows))).logits
        return float((logits.argmax(1) == queries.labels).float().mean())

    def _read(self, loader: Iterable[Any], name: str) -> _Queries:
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in loader:
            ids, wanted = self._rows_of(batch, name)
            rows += ids
            labels.append(torch.as_tensor(wanted).reshape(-1).long())
        if not rows:
            raise BadDataError(f"{name}: no rows; give at least one batch")
        joined = torch.cat(labels).to(self._device)
        classes = int(getattr(self.model.config, "num_labels", 0))
        if len(joined) != len(rows):
            raise BadDataError(f"{name}: {len(rows)} texts but {len(joined)} labels; give one label per text")
        if classes and bool(((joined < 0) | (joined >= classes)).any()):
            raise BadDataError(f"{name}: labels from {int(joined.min())} to {int(joined.max())} for {classes} classes")
        return _Queries(rows, joined)

    def _rows_of(self, batch: Any, name: str) -> tuple[list[Tensor], Any]:
        if isinstance(batch, Mapping) and "input_ids" in batch and "labels" in batch:
            ids = torch.as_tensor(batch["input_ids"])
            mask = torch.as_tensor(batch["attention_mask"]) if "attention_mask" in batch else torch.ones_like(ids)
            return [row[kept.bool()] for row, kept in zip(ids, mask, strict=True)], batch["labels"]
        if isinstance(batch, Mapping) and "text" in batch and "labels" in batch:
            texts, labels = batch["text"], batch["labels"]
        elif isinstance(batch, tuple | list) and len(batch) == 2:
            texts, labels = batch
        else:
            seen = sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__
            raise BadDataError(
                f"{name}: a batch is {seen}; give mappings with input_ids and labels, or text and labels, or pairs "
                "(texts, labels)"
            )
        return [torch.tensor(ids) for ids in self.tokenizer(list(texts), truncation=True)["input_ids"]], labels


def _is_head(name: str) -> bool:
    return any(part in _HEADS for part in name.split("."))


def train_with_rl(
    model: nn.Module,
    tokenizer: Any,
    train_loader: Iterable[Any],
    val_loader: Iterable[Any],
    *,
    reward: RewardFunction | None = None,
    config: RLConfig | None = None,
) -> RLResult:
    """Train a Hugging Face sequence classifier in place from rewards on its own answers.

    Args:
        model: any AutoModelForSequenceClassification.
        tokenizer: the model's own.
        train_loader: queries and the labels that the reward may look at; see `RLTrainer.train`.
        val_loader: the same, held out; if the trained model is worse on it, the model gets its start back.
        reward: called as reward(predictions, labels, confidences), each (B,), for B numbers; None = config.rewards.
        config: settings; the defaults if omitted.

    Returns:
        Accuracy before and after, whether the result was kept, and the learning curve.

    Raises:
        StageError: see `RLTrainer.train`.
    """
    return RLTrainer(model, tokenizer, reward=reward, config=config).train(train_loader, val_loader)
