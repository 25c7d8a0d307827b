"""trl's PPOTrainer once, in its own environment and a process of its own.

    PEER_PYTHON -m bench.ppo.peer JSON        (bench/ppo/run.py says which)

    trl        as trl's own example of PPO has it: LoRA on the policy, reference = adapter off, the value model a whole
               model of which all weights are trained
    trl-lean   the same with LoRA on the value model, too: the least that PPOTrainer can be asked to do

Where bfloat16 is asked for, it is PPOConfig's: weights stay float32, products are cast. Everything else is its default,
except what `task.Hyper` sets for all contenders. Its whole configuration is part of the result.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from trl.experimental.ppo import PPOConfig, PPOTrainer

from bench.ppo.run import Clock, adapter_file, answer, asked
from bench.ppo.task import PROMPT_TOKENS, Hyper, read_task

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_PREFIX = "base_model.model."


class _Running(nn.Module):
    """Stands where a reward model's backbone does: its last hidden state is the sum of weights up to each token."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> BaseModelOutput:
        each = self.weights[input_ids] * attention_mask
        each[:, :PROMPT_TOKENS] = 0.0
        return BaseModelOutput(hidden_states=(each.cumsum(1).unsqueeze(-1),))


class TableReward(nn.Module):
    """`task.score` in the shape in which PPOTrainer asks a reward model: it reads the last token's score."""

    base_model_prefix = "running"

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.running = _Running(weights)

    def score(self, hidden: Tensor) -> Tensor:
        return torch.sigmoid(hidden)


class Steps(transformers.TrainerCallback):
    """Keeps what is logged of every step."""

    def __init__(self) -> None:
        self.told: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "objective/scores" in logs:
            self.told.append({"score": logs["objective/scores"], "kl": logs["objective/kl"]})


def lora(hyper: Hyper, **settings: Any) -> LoraConfig:
    return LoraConfig(r=hyper.rank, lora_alpha=hyper.alpha, target_modules=LINEARS, **settings)


def scored_model(base: str, *, seed: int) -> Any:
    """A whole model with a head of one number, drawn."""
    torch.manual_seed(seed)
    return transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)


def main() -> None:
    wanted, hyper = asked(), Hyper()
    transformers.utils.logging.set_verbosity_error()
    task = read_task(Path(wanted.task))
    tokenizer = transformers.AutoTokenizer.from_pretrained(wanted.base, padding_side="left")
    # PPOTrainer ends an answer at its first padding token, so that must not be the end of sequence
    tokenizer.pad_token = next(t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token)
    policy = transformers.AutoModelForCausalLM.from_pretrained(wanted.base, dtype=torch.float32)
    value = scored_model(wanted.base, seed=wanted.seed)
    if wanted.contender == "trl-lean":
        # the adapted model itself: PPOTrainer asks backbone and head of it, and knows no wrapper
        value = get_peft_model(value, lora(hyper, task_type="SEQ_CLS")).base_model.model
    reward = TableReward(task.reward) if wanted.reward == "table" else scored_model(wanted.base, seed=wanted.seed + 1)
    torch.manual_seed(wanted.seed)
    with tempfile.TemporaryDirectory() as output:
        config = PPOConfig(
            output_dir=output,
            total_episodes=wanted.episodes,
            per_device_train_batch_size=hyper.batch_size // hyper.passes,
            gradient_accumulation_steps=hyper.passes,
            num_ppo_epochs=hyper.ppo_epochs,
            response_length=hyper.new_tokens,
            temperature=hyper.temperature,
            stop_token="eos",
            learning_rate=hyper.learning_rate,
            kl_coef=hyper.kl_coef,
            gamma=hyper.gamma,
            lam=hyper.lam,
            cliprange=hyper.cliprange,
            cliprange_value=hyper.cliprange_value,
            vf_coef=hyper.vf_coef,
            seed=wanted.seed,
            use_cpu=True,
            bf16=wanted.dtype == "bfloat16",
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        steps = Steps()
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=Dataset.from_dict({"input_ids": task.prompts[: wanted.episodes].tolist()}),
            peft_config=lora(hyper, task_type="CAUSAL_LM"),
            callbacks=[steps],
        )
        clock = Clock()
        trainer.train()
        seconds = clock.seconds()
        if file := adapter_file(wanted):
            state = get_peft_model_state_dict(trainer.policy_model)
            save_file({name.removeprefix(_PREFIX): tensor.contiguous() for name, tensor in state.items()}, file)
        answer(wanted, seconds=seconds, steps=steps.told, settings=config.to_dict())


if __name__ == "__main__":
    main()
