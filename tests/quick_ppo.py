"""PPO of a few seconds on the tiny Llama: prompts of its words, and settings by which it learns from them."""

from __future__ import annotations

from ratchet_jobs.rlhf.generate import Sampling
from ratchet_jobs.rlhf.ppo import PpoSettings

PROMPTS = [[7, 8, 9, 10], [9, 10], [13, 14, 15], [11], [12, 9, 8]]
QUICK = PpoSettings(
    sampling=Sampling(max_new_tokens=6),
    batch_size=16,
    mini_batch_size=8,
    learning_rate=1e-2,
    value_learning_rate=1e-2,
    init_kl_coef=0.01,
    max_update_kl=None,
)
