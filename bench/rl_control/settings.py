"""What is run, and what CleanRL publishes for the same task; its settings differ only where named in README.md."""

from __future__ import annotations

from dataclasses import dataclass

from bench.rl_control.control import Setting


@dataclass(frozen=True)
class Published:
    """Mean return over CleanRL's seeds and its deviation, after 500,000 interactions."""

    mean: float
    deviation: float
    of: str


PPO_CARTPOLE = Setting(
    task="CartPole-v1",
    algorithm="ppo",
    interactions=120_000,
    environments=8,
    rollout_steps=32,
    learning_rate=2.5e-3,
    settings={"update_epochs": 10, "minibatch_size": 128, "gamma": 0.98, "lam": 0.8, "entropy_coef": 0.0},
)
PPO_ACROBOT = Setting(
    task="Acrobot-v1",
    algorithm="ppo",
    interactions=500_000,
    environments=16,
    rollout_steps=128,
    learning_rate=1e-3,
    settings={"update_epochs": 4, "minibatch_size": 512, "gamma": 0.99, "lam": 0.94, "entropy_coef": 0.0},
)
A2C_CARTPOLE = Setting(
    task="CartPole-v1",
    algorithm="a2c",
    interactions=160_000,
    environments=8,
    rollout_steps=16,
    learning_rate=2e-3,
    settings={"gamma": 0.99, "lam": 0.95, "entropy_coef": 0.0},
)
DQN_CARTPOLE = Setting(
    task="CartPole-v1",
    algorithm="dqn",
    interactions=250_000,
    environments=8,
    rollout_steps=2,
    learning_rate=1e-3,
    settings={
        "gamma": 0.98,
        "minibatch_size": 128,
        "replay_capacity": 50_000,
        "learning_starts": 1_000,
        "replay_ratio": 0.25,
        "target_update_steps": 100,
        "exploration_fraction": 0.2,
        "epsilon_end": 0.04,
        "final_lr_factor": 0.0,
        "huber_delta": 1e6,  # squared error: a fall is rare, its error large, and all there is to learn from
    },
    hidden=128,
    max_grad_norm=1000.0,
)

RUNS: dict[str, tuple[Setting, Published]] = {
    "ppo-cartpole": (PPO_CARTPOLE, Published(490.04, 6.12, "ppo.py")),
    "ppo-acrobot": (PPO_ACROBOT, Published(-86.36, 1.32, "ppo.py")),
    "a2c-cartpole": (A2C_CARTPOLE, Published(490.04, 6.12, "ppo.py, as CleanRL has no A2C")),
    "dqn-cartpole": (DQN_CARTPOLE, Published(488.69, 16.11, "dqn.py")),
}
