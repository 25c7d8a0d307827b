"""One causal language model in memory that is four: policy, reference, value model and reward model.

    policy        the base with the adapter "policy", or all of its own weights where LoRA is off
    reference     the base with every adapter switched off, so at the start its log-probabilities are the policy's
    value model   a linear head on the policy's own last hidden states
    reward model  the base with the adapter "reward", and a linear head (`reward_model.py`)

With `agents` it has a policy and a value model for each of them, on the same weights; `of_agent` is the trunk with one
of them in the policy's place. What an agent begins with is a function of seed and name, whoever else there is.

Decides which weights a pass uses and which of them a gradient may reach. Never samples, never steps. The base's own
weights are frozen and shared; only a policy without LoRA has a copy of its own. Dropout of the base is off for good: a
ratio of probabilities must not depend on what was dropped. Called by everything else in this package.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.generators.loading import eos_of, load_base
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.models.bfloat16 import prepare_bfloat16
from ratchet_jobs.models.classifier import find_targets
from ratchet_jobs.models.lora import fold_lora
from ratchet_jobs.models.packed import packed
from ratchet_jobs.models.turned import turn_weights
from ratchet_jobs.rl.seeds import seed_for
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

Role = Literal["policy", "reward"]
"""What an adapter is trained as."""

POLICY, REWARD = "policy", "reward"
"""Names of adapters; that of an agent is `adapter_of`."""


class Pass(NamedTuple):
    """What a model says at the last K places of B sequences."""

    logits: Tensor
    """(B, K, V) of the token that follows each place."""
    hidden: Tensor
    """(B, K, D) what the head of the model saw there."""


class _Switch:
    """Which adapter of a model is on; all views of a trunk share it, since they share the model."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        self._active: str | None = None
        self(REWARD)
        self(None)

    def __call__(self, adapter: str | None) -> None:
        """Switch one adapter on and all others off; None = all off."""
        if adapter == self._active:
            return
        for layer in self._layers:
            if adapter is not None:
                layer.set_adapter(adapter)
            layer.enable_adapters(adapter is not None)
        self._active = adapter


class Trunk:
    """The model, its adapters and the value head."""

    def __init__(
        self,
        model: PreTrainedModel,
        wording: Wording,
        *,
        digest: str,
        rank: int | None,
        reward_rank: int | None = None,
        reward_dropout: float = 0.0,
        seed: int = 0,
        agents: Sequence[str] = (),
    ) -> None:
        """Put adapters and value head onto a model; use `load_trunk` for one on disk.

        Args:
            model: causal, on its device.
            wording: of the model.
            digest: of the folder that it came from.
            rank: of the adapters; None = the policy is a copy of the whole model, all of which is trained.
            reward_rank: of the reward adapter, where it is another.
            reward_dropout: of the reward adapter's input while it is trained.
            seed: of the adapters' random start.
            agents: names of policies that share the model; empty = there is one. They need a rank.

        Raises:
            BadModelError: the model cannot keep logits of some places only.
            BadConfigError: agents without adapters.
        """
        if agents and rank is None:
            raise BadConfigError(f"agents: {', '.join(agents)} share a model by adapters; give a rank (use_lora: true)")
        if "logits_to_keep" not in inspect.signature(type(model).forward).parameters:
            raise BadModelError(
                f"base_model: {type(model).__name__} takes no logits_to_keep; use an architecture of transformers that "
                "does, such as LlamaForCausalLM or GPT2LMHeadModel"
            )
        self.wording, self.digest, self.config = wording, digest, model.config
        self.rank = rank
        _without_dropout(model)
        model.requires_grad_(False)
        turn_weights(model)  # answers are drawn a few rows at a time
        prepare_bfloat16(model)
        own = None if rank is not None else copy.deepcopy(model).requires_grad_(True)
        self.base: PreTrainedModel = model
        names = [adapter_of(agent) for agent in agents] or [POLICY]
        ranks = {} if rank is None else dict.fromkeys(names, rank)
        ranks[REWARD] = reward_rank or rank or 8
        _add_adapters(model, ranks=ranks, reward_dropout=reward_dropout, seed=seed)
        fold_lora(model, adapters=tuple(ranks))
        self._policy: PreTrainedModel = own or model
        self._own, self._agents = names[0], tuple(agents)
        self._seen: list[Tensor] = []
        for each in {id(m): m for m in (self.base, self._policy)}.values():
            each.get_output_embeddings().register_forward_pre_hook(self._see)
        self.value_head = self._new_value_head()
        self._switch = _Switch(model)
        model.eval()
        self._policy.eval()

    def of_agent(self, name: str) -> Trunk:
        """The same model with this agent's adapter as the policy and a new value head.

        Raises:
            BadConfigError: the trunk was not made for it.
        """
        if name not in self._agents:
            raise BadConfigError(f"agent: {name!r} is none of the trunk's; there are: {', '.join(self._agents)}")
        view = copy.copy(self)
        view._own, view.value_head = adapter_of(name), self._new_value_head()
        return view

    def _new_value_head(self) -> nn.Linear:
        """At zero: before training every place is worth the same."""
        head = nn.Linear(int(self.config.hidden_size), 1).to(self.device, torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return head

    @property
    def policy_adapter(self) -> str:
        """Name of the adapter that is the policy."""
        return self._own

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.base.device

    @property
    def context(self) -> int | None:
        """Longest sequence in tokens; None = the model sets no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @property
    def shares_base(self) -> bool:
        """Whether policy and reference are one model; else the policy is a copy."""
        return self._policy is self.base

    def policy_parameters(self) -> dict[str, nn.Parameter]:
        """All that PPO trains by name: the policy's adapter or the whole copy, and the value head."""
        named = self._policy.named_parameters()
        kept = {n: p for n, p in named if not self.shares_base or f".{self._own}." in n}
        head = {f"value_head.{name}": parameter for name, parameter in self.value_head.named_parameters()}
        return dict(sorted(kept.items())) | head

    def reward_parameters(self) -> dict[str, nn.Parameter]:
        """The adapter "reward" by name; the head on it is the reward model's."""
        return dict(sorted((n, p) for n, p in self.base.named_parameters() if ".reward." in n))

    def policy(self, ids: Tensor, mask: Tensor, *, keep: int, cache: Any = None) -> Pass:
        """Ask the policy; see `_run`. With gradient where autograd is on."""
        self._switch(self._own if self.shares_base else None)
        return self._run(self._policy, ids, mask, keep=keep, cache=cache)

    def reference(self, ids: Tensor, mask: Tensor, *, keep: int) -> Pass:
        """Ask the base as it was before PPO, without gradient; see `_run`."""
        self._switch(None)
        with torch.no_grad():
            return self._run(self.base, ids, mask, keep=keep, cache=None)

    def reward_hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states under the reward adapter, (B, L, D), without a product over the vocabulary."""
        self._switch(REWARD)
        return self._hidden(ids, mask)

    def reference_hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states of the base as it was before PPO, (B, L, D), without gradient."""
        self._switch(None)
        with torch.no_grad():
            return self._hidden(ids, mask)

    def values(self, hidden: Tensor) -> Tensor:
        """The value head on hidden states: (B, K, D) -> (B, K) float32."""
        answered: Tensor = self.value_head(hidden.float()).squeeze(-1)
        return answered

    @contextmanager
    def drawing(self, *, rows: int) -> Iterator[None]:
        """Make passes of the policy with few rows cheaper; nothing may be trained and nothing else be asked meanwhile.

        Args:
            rows: of most passes.
        """
        self._switch(self._own if self.shares_base else None)
        with packed(self._policy, rows=rows):
            yield

    @contextmanager
    def training(self, role: Role, *, checkpointing: bool = False) -> Iterator[None]:
        """Let gradients reach the adapter of a role, and switch on its dropout.

        Args:
            role: of the adapter to train.
            checkpointing: keep only each block's input, and compute the rest anew for the gradient.
        """
        model = self._policy if role == "policy" else self.base
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        try:
            yield
        finally:
            model.eval()
            if checkpointing:
                model.activation_checkpointing_disable()

    def merged_weights(self) -> Mapping[str, Tensor]:
        """The policy as a whole model's state dict, its adapter added to the base's weights; changes nothing."""
        state = {
            name.replace(".base_layer.", "."): tensor
            for name, tensor in self._policy.state_dict().items()
            if ".lora_" not in name
        }
        for name, module in self._policy.named_modules():
            if isinstance(module, LoraLayer) and self.shares_base:
                weight = state[f"{name}.weight"]
                state[f"{name}.weight"] = weight + module.get_delta_weight(self._own).to(weight.dtype)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}

    def _run(self, model: PreTrainedModel, ids: Tensor, mask: Tensor, *, keep: int, cache: Any) -> Pass:
        """One pass of a model.

        Args:
            model: whose adapters are switched as they should be.
            ids: (B, L) tokens; with a cache only those that it does not hold.
            mask: (B, L') bool over everything so far, the cache included, True = a real token.
            keep: K, how many of the last places are answered.
            cache: of transformers, extended in place; None = none.
        """
        places = _positions(mask)[:, -ids.shape[1] :]
        self._seen.clear()
        output = model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=places,
            logits_to_keep=keep,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return Pass(output.logits, self._seen.pop())

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.base.base_model(
            input_ids=ids, attention_mask=mask.long(), position_ids=_positions(mask), use_cache=False
        ).last_hidden_state
        return hidden

    def _see(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # places cut out of longer rows lie apart in memory, and torch would multiply each row by the vocabulary alone
        hidden = args[0].contiguous()
        self._seen.append(hidden)
        return (hidden, *args[1:])


def adapter_of(agent: str) -> str:
    """Name of an agent's adapter: none of the model's own modules is called so."""
    return f"{POLICY}-{agent}"


def load_trunk(
    folder: Path,
    *,
    rank: int | None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    reward_dropout: float = 0.0,
    seed: int = 0,
) -> Trunk:
    """Read a base model from its folder: local files, safetensors, no code of its own.

    Args:
        folder: with config.json, tokenizer.json and *.safetensors.
        rank: see `Trunk`.
        device: to compute on.
        dtype: of the frozen weights; adapters and heads are float32.
        reward_dropout: see `Trunk`.
        seed: see `Trunk`.

    Raises:
        BadModelError: the folder holds no causal language model and fast tokenizer that can be used.
        BadConfigError: weights of which all are trained are not float32.
    """
    if rank is None and dtype != torch.float32:
        raise BadConfigError(f"dtype: {dtype} without LoRA loses small updates; take float32, or use_lora: true")
    if not folder.is_dir():
        raise BadModelError(f"base_model: {folder} is no folder; give one with config.json and *.safetensors")
    digest = local_digest(folder)
    model = load_base(folder).to(device=device, dtype=dtype)
    return Trunk(
        model,
        load_wording(folder, eos_id=eos_of(model)),
        digest=digest,
        rank=rank,
        reward_dropout=reward_dropout,
        seed=seed,
    )


def _positions(mask: Tensor) -> Tensor:
    """Place of each token among the real ones of its row, (B, L): padding on the left moves nothing."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010 - torch's types know parameters and modules only


def _add_adapters(model: PreTrainedModel, *, ranks: Mapping[str, int], reward_dropout: float, seed: int) -> None:
    """Put the adapters into the model's linear layers; B of each is 0, so nothing is said differently yet."""
    # GPT-2 and its kin keep their matrices turned, in a layer of their own
    turned = any(isinstance(module, Conv1D) for module in model.modules())
    targets = "all-linear" if turned else find_targets(model, None)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        # peft asks the model for a property that transformers has renamed; nothing of ours is deprecated
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        wrapped: Any = None
        for name, rank in ranks.items():
            if name not in (POLICY, REWARD):
                torch.manual_seed(seed_for(seed, name))
            config = LoraConfig(
                r=rank,
                lora_alpha=2 * rank,
                lora_dropout=reward_dropout if name == REWARD else 0.0,
                target_modules=targets,
                fan_in_fan_out=turned,
            )
            if wrapped is None:
                wrapped = get_peft_model(model, config, adapter_name=name)
            else:
                wrapped.add_adapter(name, config)
