"""A classifier with a value head on the same pooled features: one forward answers both for policy and value.

Decides what RL trains beside the classifier's own parameters, how the value head is stored, and how a query asks one of
several tasks: classes of the others do not exist for it (logit -inf), and its value is that of its task. Never samples,
never computes a loss. Called by the rl recipe and the Python API.

Notation: B examples, T tokens, D hidden size, C classes of all tasks together, K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ratchet_api.tasks import Task
from ratchet_jobs.models.batching import pad, sorted_batches
from ratchet_jobs.models.classifier import Classifier
from ratchet_jobs.models.queries import Queries
from ratchet_jobs.rl.rollout import PolicyOutput
from ratchet_jobs.runtime.errors import BadModelError

VALUE_FILE = "value_head.safetensors"


class ActorCritic(nn.Module):
    """Classifier and linear value head, one value per task. The value starts as 0 for every query."""

    elsewhere: Tensor
    """(K, C) bool, True = the class is of another task."""

    def __init__(self, classifier: Classifier, tasks: Sequence[Task] | None = None) -> None:
        super().__init__()
        self.classifier = classifier
        classes, device = classifier.head.out_features, classifier.head.weight.device
        blocks = [(task.start, task.stop) for task in tasks] if tasks is not None else [(0, classes)]
        elsewhere = torch.ones((len(blocks), classes), dtype=torch.bool, device=device)
        for place, (start, stop) in enumerate(blocks):
            elsewhere[place, start:stop] = False
        self.register_buffer("elsewhere", elsewhere, persistent=False)
        self.value_head = nn.Linear(classifier.head.in_features, len(blocks)).to(device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(self, input_ids: Tensor, token_mask: Tensor, tasks: Tensor | None = None) -> PolicyOutput:
        """Logits (B, C) and values (B,), both float32, of token ids (B, T); `tasks` as in `judge`."""
        return self.judge(self.classifier.pool(input_ids, token_mask), tasks)

    def judge(self, features: Tensor, tasks: Tensor | None = None) -> PolicyOutput:
        """Logits (B, C) and values (B,) of pooled features (B, D).

        Args:
            features: (B, D).
            tasks: (B,) int64, the task that each query asks; None = there is one.
        """
        logits, values = self.classifier.head(features), self.value_head(features)  # (B, C), (B, K)
        if tasks is None:
            return PolicyOutput(logits=logits, values=values.squeeze(-1))
        return PolicyOutput(
            logits=logits.masked_fill(self.elsewhere[tasks], -math.inf),
            values=values.gather(1, tasks.unsqueeze(1)).squeeze(1),
        )

    def trainable(self, *, adapters: bool) -> dict[str, nn.Parameter]:
        """Class head, value head and, if wanted, the adapters by name, in a fixed order."""
        value = {f"value_head.{name}": parameter for name, parameter in self.value_head.named_parameters()}
        policy = {n: p for n, p in self.classifier.trainable().items() if adapters or n.startswith("head.")}
        return {**policy, **value}


class QueryTable:
    """The traffic, tokenised once; a query is known by its number, so that buffers hold numbers and not texts."""

    def __init__(
        self,
        model: ActorCritic,
        rows: Sequence[NDArray[np.int32]],
        *,
        queries: Queries | None = None,
        batch_size: int = 64,
    ) -> None:
        """Keep the rows.

        Args:
            model: on the device to use.
            rows: N arrays of token ids.
            queries: which text each query asks about, and which task; None = each row once, of a single task.
            batch_size: queries per forward pass when no gradient is wanted.
        """
        device = model.value_head.weight.device
        self._texts = np.arange(len(rows)) if queries is None else queries.texts
        self._text_of = torch.from_numpy(self._texts).to(device)
        self._task_of = None if queries is None else torch.from_numpy(queries.tasks).to(device)
        self._model = model
        self._rows = rows
        self._lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        self._batch_size = batch_size
        self._features: Tensor | None = None

    def keep(self, features: Tensor) -> None:
        """Answer from these features, one row per text, from now on: the encoder no longer learns."""
        self._features = features

    def pooled(
        self, asked: NDArray[np.int64], *, after_batch: Callable[[int], None], share: slice = slice(None)
    ) -> Tensor:
        """Pooled features of the texts that are asked about, as the encoder makes them now; 0 for the others.

        The batches depend on `asked` alone, so a resumed stage computes the very same bits.

        Args:
            asked: (M,) queries.
            after_batch: called with the number of rows in each batch that is done; may raise to stop.
            share: which of the texts asked about to compute; the others are 0, too.
        """
        device = self._model.value_head.weight.device
        asked = np.unique(self._texts[asked])[share]
        features = torch.zeros((len(self._rows), self._model.value_head.in_features), device=device)
        with torch.no_grad(), _autocast(device):
            for part in sorted_batches(self._lengths[asked], self._batch_size):
                places = asked[part]
                features[torch.from_numpy(places).to(device)] = self._model.classifier.pool(
                    *self._padded(places)
                ).float()
                after_batch(len(places))
        return features

    def forward(self, obs: Tensor) -> PolicyOutput:
        """Answer queries by their numbers, (B,) int64; where autograd is off, batched by like length."""
        if self._features is not None:
            return self._model.judge(self._features[self._text_of[obs]], self._tasks(obs))
        places = obs.cpu().numpy()
        if torch.is_grad_enabled():
            return self._batch(places)
        parts = sorted_batches(self._lengths[self._texts[places]], self._batch_size)
        outputs = [self._batch(places[part]) for part in parts]
        back = torch.from_numpy(np.argsort(np.concatenate(parts), kind="stable")).to(obs.device)
        return PolicyOutput(
            logits=torch.cat([output.logits for output in outputs])[back],
            values=torch.cat([output.values for output in outputs])[back],
        )

    def q_values(self, obs: Tensor) -> PolicyOutput:
        """The same with the class probabilities for logits: DQN's estimate of a right-or-wrong reward per class."""
        output = self.forward(obs)
        absent = torch.isneginf(output.logits)
        return PolicyOutput(logits=output.logits.softmax(-1).masked_fill(absent, -math.inf), values=output.values)

    def _tasks(self, obs: Tensor) -> Tensor | None:
        return None if self._task_of is None else self._task_of[obs]

    def _batch(self, places: NDArray[np.int64]) -> PolicyOutput:
        with _autocast(self._model.value_head.weight.device):
            tasks = self._tasks(torch.from_numpy(places).to(self._text_of.device))
            output: PolicyOutput = self._model(*self._padded(self._texts[places]), tasks)
        return PolicyOutput(logits=output.logits.float(), values=output.values.float())

    def _padded(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        device = self._model.value_head.weight.device
        input_ids, token_mask = pad([self._rows[i] for i in places], pad_id=self._model.classifier.pad_id)
        return input_ids.to(device), token_mask.to(device)


@contextmanager
def parameters_as(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let a model compute with other numbers for a moment.

    Args:
        parameters: by name.
        values: of the same names and shapes; not changed.
    """
    own = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = values[name]
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def _autocast(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def save_value_head(model: ActorCritic, folder: Path) -> None:
    """Write value_head.safetensors beside the classifier's files."""
    tensors = {
        name: tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in model.value_head.state_dict().items()
    }
    save_file(tensors, folder / VALUE_FILE)


def load_value_head(model: ActorCritic, folder: Path) -> bool:
    """Read the value head of an earlier rl stage, if the folder has one.

    Returns:
        Whether there was one.

    Raises:
        BadModelError: it cannot be read or is of another size.
    """
    path = folder / VALUE_FILE
    if not path.is_file():
        return False
    try:
        model.value_head.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BadModelError(
            f"policy: {VALUE_FILE} cannot be used: {error}; remove it or take a committed folder"
        ) from error
    return True
