"""The algorithms learn a task with time in it: bootstraps, ends of episodes and discounts have to be right for that."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.rl_control.control import learn
from bench.rl_control.settings import PPO_CARTPOLE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_ppo_balances_the_pole() -> None:
    """40,000 interactions; a pole that never falls gives 500, a random policy 22, and CleanRL publishes 490."""
    learned = learn(replace(PPO_CARTPOLE, interactions=40_000), seed=1)
    assert learned.final(episodes=20) >= 475, learned.returns[-30:]
    last = learned.updates[-1]
    assert last.clipfrac is not None
    assert last.clipfrac < 0.2
