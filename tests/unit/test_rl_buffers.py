"""Rollout buffer, replay buffer and the interaction loop: what is kept, dealt out, drawn and restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ratchet_jobs.rl.buffer import RolloutBuffer
from ratchet_jobs.rl.collect import Outcome, collect
from ratchet_jobs.rl.replay import ReplayBuffer
from ratchet_jobs.rl.rollout import Action, PolicyOutput, Rollout, Samples
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import BadConfigError


def samples(*numbers: int) -> Samples:
    """One sample per number, recognisable by its observation."""
    obs = torch.tensor(numbers)
    zeros = torch.zeros(len(numbers))
    return Samples(
        obs=obs, actions=obs % 3, logprobs=zeros, values=zeros, advantages=zeros, returns=zeros + 0.5, weights=zeros + 1
    )


def bandit(*numbers: int) -> Rollout:
    obs = torch.tensor(numbers)
    zeros = torch.zeros(len(numbers))
    return Rollout.of_single_steps(obs, actions=obs % 3, logprobs=zeros, values=zeros, rewards=obs.float())


def test_the_oldest_samples_leave_first() -> None:
    buffer = RolloutBuffer(capacity=5)
    for batch in ((1, 2, 3), (4, 5), (6, 7)):
        buffer.add(samples(*batch))
    assert buffer.samples.obs.tolist() == [3, 4, 5, 6, 7]
    assert buffer.samples.actions.tolist() == [0, 1, 2, 0, 1], "the columns stay together"


def test_a_rollout_above_the_capacity_is_refused_with_the_remedy() -> None:
    with pytest.raises(BadConfigError, match=r"buffer capacity: 2 is below the 3 interactions .* raise it"):
        RolloutBuffer(capacity=2).add(samples(1, 2, 3))
    with pytest.raises(BadConfigError, match=r"replay capacity: 2 is below the 3 interactions"):
        ReplayBuffer(capacity=2).add(bandit(1, 2, 3))


def test_minibatches_deal_every_sample_once_in_nearly_equal_parts() -> None:
    buffer = RolloutBuffer(capacity=10)
    buffer.add(samples(*range(10)))
    parts = list(buffer.minibatches(4, generator=generator_for(1, "test")))
    assert sorted(map(len, parts)) == [3, 3, 4], "not 4, 4, 2"
    dealt = torch.cat(parts).tolist()
    assert sorted(dealt) == list(range(10))
    assert dealt != list(range(10)), "shuffled"


def test_equal_seeds_deal_equal_minibatches_and_others_do_not() -> None:
    buffer = RolloutBuffer(capacity=10)
    buffer.add(samples(*range(10)))
    first, again, other = (
        torch.cat(list(buffer.minibatches(4, generator=generator_for(1, "minibatches", update))))
        for update in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_rollout_buffer_comes_back_from_a_file_as_it_was(tmp_path: Path) -> None:
    buffer, restored = RolloutBuffer(capacity=5), RolloutBuffer(capacity=5)
    buffer.add(samples(1, 2, 3))
    save_file(buffer.state(), tmp_path / "buffer.safetensors")
    restored.load_state(load_file(tmp_path / "buffer.safetensors"))
    for held in (buffer, restored):
        held.add(samples(4, 5, 6))
    assert restored.samples.tensors().keys() == buffer.samples.tensors().keys()
    for name, tensor in buffer.samples.tensors().items():
        assert torch.equal(tensor, restored.samples.tensors()[name])


def test_an_empty_buffer_has_an_empty_state_and_no_samples() -> None:
    buffer = RolloutBuffer(capacity=5)
    buffer.load_state(buffer.state())
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="rollout buffer: empty"):
        _ = buffer.samples
    with pytest.raises(ValueError, match="replay buffer: empty"):
        ReplayBuffer(5).sample(1, generator=generator_for(1))


def test_the_replay_ring_overwrites_the_oldest() -> None:
    replay = ReplayBuffer(capacity=4)
    for batch in ((1, 2, 3), (4, 5, 6)):
        replay.add(bandit(*batch))
    drawn = replay.sample(200, generator=generator_for(1, "test"))
    assert set(drawn.obs.tolist()) == {3, 4, 5, 6}
    assert torch.equal(drawn.rewards, drawn.obs.float()), "the columns stay together"
    assert bool(drawn.terminated.all())


def test_a_replay_ring_half_full_never_gives_what_was_not_added() -> None:
    replay = ReplayBuffer(capacity=100)
    replay.add(bandit(7, 8))
    assert set(replay.sample(50, generator=generator_for(1, "test")).obs.tolist()) == {7, 8}


def test_a_replay_ring_comes_back_from_a_file_as_it_was(tmp_path: Path) -> None:
    replay, restored = ReplayBuffer(capacity=4), ReplayBuffer(capacity=4)
    replay.add(bandit(1, 2, 3))
    replay.add(bandit(4, 5, 6))
    save_file(replay.state(), tmp_path / "replay.safetensors")
    restored.load_state(load_file(tmp_path / "replay.safetensors"))
    for held in (replay, restored):
        held.add(bandit(7))
    drawn, again = (held.sample(50, generator=generator_for(3, "test")) for held in (replay, restored))
    assert set(drawn.obs.tolist()) == {4, 5, 6, 7}
    for one, other in zip(drawn, again, strict=True):
        assert torch.equal(one, other)


def test_a_replay_checkpoint_of_another_capacity_is_refused() -> None:
    replay = ReplayBuffer(capacity=4)
    replay.add(bandit(1, 2, 3))
    replay.add(bandit(4, 5, 6))
    with pytest.raises(BadConfigError, match=r"replay capacity: 8 differs .* holds 4 of 6"):
        ReplayBuffer(capacity=8).load_state(replay.state())


class Countdown:
    """Two episodes that count down to an end: one terminates at 0, the other is cut at 0. Reward = what is seen."""

    def __init__(self) -> None:
        self.now = torch.tensor([2.0, 1.0])

    def observe(self) -> Tensor:
        return self.now.clone()

    def step(self, action: Action) -> Outcome:
        seen, after = self.now.clone(), self.now - 1.0
        ended = after == 0
        self.now = torch.where(ended, torch.tensor([2.0, 3.0]), after)
        terminated, truncated = ended & torch.tensor([True, False]), ended & torch.tensor([False, True])
        return Outcome(rewards=seen, terminated=terminated, truncated=truncated, next_obs=after)


def test_a_rollout_records_what_was_seen_and_the_value_of_what_followed() -> None:
    asked: list[list[float]] = []

    def forward(obs: Tensor) -> PolicyOutput:
        asked.append(obs.tolist())
        return PolicyOutput(torch.zeros(len(obs), 2), obs * 10.0 + 5.0)

    def act(output: PolicyOutput) -> Action:
        return Action(torch.ones(2, dtype=torch.int64), torch.full((2,), -0.7), output)

    rollout = collect(Countdown(), forward=forward, act=act, steps=3)
    assert rollout.obs.tolist() == [[2.0, 1.0], [1.0, 3.0], [2.0, 2.0]]
    assert rollout.rewards.tolist() == rollout.obs.tolist()
    assert rollout.terminated.tolist() == [[False, False], [True, False], [False, False]]
    assert rollout.truncated.tolist() == [[False, True], [False, False], [False, False]]
    assert rollout.values.tolist() == [[25.0, 15.0], [15.0, 35.0], [25.0, 25.0]]
    # cut at 0: V(0) = 5 and not V(3) of the next episode; going on: V(1), V(2); at the rollout's end V(1) twice
    assert rollout.next_values[0].tolist() == [15.0, 5.0]
    assert rollout.next_values[1, 1].item() == 25.0
    assert rollout.next_values[2].tolist() == [15.0, 15.0]
    assert len(asked) == 3 + 1 + 1, "a forward per step, one for the cut episode, one for the rollout's end"
    assert rollout.size == 6


def test_a_bandits_rollout_needs_one_forward() -> None:
    class Queries:
        def observe(self) -> Tensor:
            return torch.arange(4)

        def step(self, action: Action) -> Outcome:
            ended = torch.ones(4, dtype=torch.bool)
            return Outcome(action.actions.float(), ended, ~ended, torch.arange(4))

    forwards = 0

    def forward(obs: Tensor) -> PolicyOutput:
        nonlocal forwards
        forwards += 1
        return PolicyOutput(torch.zeros(len(obs), 2), torch.ones(len(obs)))

    def act(output: PolicyOutput) -> Action:
        return Action(torch.tensor([0, 1, 0, 1]), torch.zeros(4), output)

    rollout = collect(Queries(), forward=forward, act=act, steps=1)
    assert forwards == 1
    want = Rollout.of_single_steps(
        torch.arange(4),
        actions=torch.tensor([0, 1, 0, 1]),
        logprobs=torch.zeros(4),
        values=torch.ones(4),
        rewards=torch.tensor([0.0, 1.0, 0.0, 1.0]),
    )
    for name in ("obs", "actions", "logprobs", "values", "rewards", "terminated", "truncated", "next_values"):
        assert torch.equal(getattr(rollout, name), getattr(want, name)), name


def test_a_rollout_of_mismatched_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rollout: .*rewards \(1, 2, 1\)"):
        Rollout.of_single_steps(
            torch.arange(2),
            actions=torch.arange(2),
            logprobs=torch.zeros(2),
            values=torch.zeros(2),
            rewards=torch.zeros(2, 1),
        )
