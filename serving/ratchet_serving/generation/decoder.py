"""A language model asked for the next token of many conversations at once, each of any length.

Decides masks and positions, so that a row sees its own tokens and nothing else, whoever stands beside it. Proves so
before it answers anybody: `check` compares its numbers with plain passes of the model, and a model that keeps its
memory in another way than keys and values by position is refused. Used by one thread (`streams`); knows no HTTP.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ratchet_jobs.models.packed import pack_weights
from ratchet_jobs.models.turned import turn_weights
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.generation.cache import Pass, Rows

TOLERANCE = 1e-3
"""Largest difference of `check`, as a share of the largest logit: a hundred times what float32 loses."""
_ROWS = 8
"""Conversations at once for which weights are laid out; more or fewer are served as well."""
_REMEDY = "this server wants a model whose layers keep keys and values by position; serve it by another engine"


class Decoder:
    """A causal language model and the cache of its conversations.

    Args:
        model: in eval mode, on its device; it belongs to the decoder from now on.
        max_tokens: of the cache: rows times the longest of them.
    """

    def __init__(self, model: Any, *, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._device: torch.device = next(model.parameters()).device
        self._few = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        self.vocabulary: int = model.config.get_text_config().vocab_size
        self.context = min(context_of(model), max_tokens)
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        self._rows = Rows(self._model.config.get_text_config().num_hidden_layers, max_tokens=self._max_tokens)

    def fits(self, *, count: int, length: int) -> bool:
        """Whether so many rows of so many tokens may be had at once."""
        return self._rows.fits(count=count, length=length)

    def reserve(self, *, count: int, length: int) -> None:
        """Have room for so many rows of so many tokens."""
        self._rows.reserve(count=count, length=length)

    def move(self, source: int, target: int, *, length: int) -> None:
        """Copy a row's first tokens over another row."""
        self._rows.move(source, target, length=length)

    def fill(self, row: int, ids: Sequence[int], *, start: int) -> Tensor:
        """Put some of a prompt's tokens into a row.

        Args:
            row: that takes them.
            ids: T tokens.
            start: place of the first of them in the row.

        Returns:
            (V,) float32 logits of what follows the last.
        """
        width = start + len(ids)
        places = torch.arange(start, width, device=self._device)  # (T,)
        seen = torch.arange(width, device=self._device) <= places.unsqueeze(1)  # (T, start + T)
        self._rows.now = Pass(row, places[:1], width)
        return self._pass(torch.tensor([list(ids)]), places.unsqueeze(0), seen.view(1, 1, *seen.shape))[0]

    def step(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Put one token behind each of the rows 0 … B-1.

        Args:
            tokens: B of them.
            lengths: B, tokens of each row so far.

        Returns:
            (B, V) float32 logits of what follows.
        """
        starts = torch.tensor(lengths, device=self._device)  # (B,)
        width = max(lengths) + 1
        seen = torch.arange(width, device=self._device) <= starts.unsqueeze(1)  # (B, width)
        self._rows.now = Pass(0, starts, width)
        return self._pass(torch.tensor(tokens).unsqueeze(1), starts.unsqueeze(1), seen[:, None, None])

    def check(self) -> None:
        """Lay weights out for few rows, and prove that nothing changed by it, or by a cache that rows share.

        Rows of different lengths, filled at once and in parts, are compared with plain passes of the model as it was.
        Forgets all rows.

        Raises:
            BadModelError: the numbers differ.
        """
        size = min(8, self.context - 2)
        texts = [[(7 * place + 3 * row) % self.vocabulary for place in range(size - row)] for row in (0, 2)]
        with _called(self._model) as layers:
            wanted = [self._plain(text) for text in (texts[0][:-1], texts[1][:-1], *texts)]
        if not pack_weights(self._model, layers, rows=_ROWS):
            turn_weights(self._model)
        try:
            found = self._shared(*texts)
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError) as error:
            raise BadModelError(
                f"policy: {type(self._model).__name__} cannot be asked with a shared cache ({error}); {_REMEDY}"
            ) from error
        finally:
            self.reset()
        limit = TOLERANCE * max(1.0, *(float(logits.abs().max()) for logits in wanted))
        worst = max(float((one - other).abs().max()) for one, other in zip(found, wanted, strict=True))
        if not worst <= limit:
            raise BadModelError(
                f"policy: {type(self._model).__name__} gives other numbers with a shared cache than without (by "
                f"{worst:.2g}); {_REMEDY}"
            )

    def _shared(self, one: list[int], other: list[int]) -> list[Tensor]:
        """Logits before and behind the last token of either, in rows beside each other, the second filled in parts."""
        self.reset()
        self.reserve(count=2, length=len(one) + 1)
        found = [self.fill(0, one[:-1], start=0)]
        self.fill(1, other[:-2], start=0)
        found.append(self.fill(1, other[-2:-1], start=len(other) - 2))
        return [*found, *self.step([one[-1], other[-1]], [len(one) - 1, len(other) - 1])]

    def _plain(self, ids: Sequence[int]) -> Tensor:
        logits: Tensor = self._model(input_ids=torch.tensor([list(ids)], device=self._device), use_cache=False).logits
        return logits[0, -1].float()

    def _pass(self, ids: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """One pass: (B, T) ids at (B, T) places, with a (B, 1, T, L) mask, True = seen -> (B, V)."""
        logits: Tensor = self._model(
            input_ids=ids.to(self._device),
            attention_mask=seen,
            position_ids=places,
            past_key_values=self._rows.cache,
            use_cache=True,
            **self._few,
        ).logits
        return logits[:, -1].float()


@contextmanager
def _called(model: nn.Module) -> Iterator[set[nn.Linear]]:
    """Yield a set that takes the linear layers which are called: some models multiply by a weight themselves."""
    layers: set[nn.Linear] = set()
    hooks = [
        module.register_forward_hook(lambda layer, given, made: layers.add(layer))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def context_of(model: Any) -> int:
    """Tokens that prompt and answer may have together.

    A layer that looks back over a window only is served within that window: there it sees what every other one does.
    """
    config = model.config.get_text_config()
    named = ("max_position_embeddings", "sliding_window", "attention_chunk_size")
    limits = [int(limit) for name in named if (limit := getattr(config, name, None))]
    return min(limits, default=1 << 20)
