"""One update of each algorithm against gradients worked out by hand; then what must hold for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ratchet_jobs.rl.algorithms import ALGORITHMS, make_algorithm
from ratchet_jobs.rl.algorithms.base import Algorithm
from ratchet_jobs.rl.learner import Learner
from ratchet_jobs.rl.rollout import PolicyOutput, Rollout
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.runtime.errors import BadConfigError, NotANumberError
from ratchet_jobs.runtime.team import Solo, Team

pytestmark = pytest.mark.usefixtures("one_thread")

LN2, LN3 = 0.6931472, 1.0986123
ON_POLICY = ("ppo", "a2c", "reinforce")
# learns at once and from few samples, so that DQN can stand beside the others
DQN_NOW = {"learning_starts": 1, "replay_capacity": 64, "minibatch_size": 8, "replay_ratio": 0.5, "epsilon_end": 0.2}


class Table(nn.Module):
    """Logits and one value per state; an observation is the state's number."""

    def __init__(self, logits: list[list[float]], values: list[float] | None = None) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.values = nn.Parameter(torch.tensor(values or [0.0] * len(logits)))

    def forward(self, obs: Tensor) -> PolicyOutput:
        return PolicyOutput(self.logits[obs], self.values[obs])


def learner_of(model: Table, *, rate: float = 1.0, max_grad_norm: float = 1e9, team: Team | None = None) -> Learner:
    return Learner(
        forward=model,
        parameters=dict(model.named_parameters()),
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        max_grad_norm=max_grad_norm,
        team=team or Solo(),
    )


def played(model: Table, states: list[int], actions: list[int], rewards: list[float]) -> Rollout:
    """One-step episodes in which the model acted."""
    obs, taken = torch.tensor(states), torch.tensor(actions)
    with torch.no_grad():
        output = model(obs)
        logprobs = torch.log_softmax(output.logits, -1).gather(1, taken.unsqueeze(1)).squeeze(1)
    return Rollout.of_single_steps(
        obs, actions=taken, logprobs=logprobs, values=output.values, rewards=torch.tensor(rewards)
    )


def settings(name: str, **changes: object) -> dict[str, object]:
    """Whole batch, one pass, no normalisation, constant rate: what the hand calculations assume."""
    plain: dict[str, object] = {"normalize_advantages": False, "final_lr_factor": 1.0, "entropy_coef": 0.0}
    if name == "ppo":
        plain |= {"update_epochs": 1, "minibatch_size": 64}
    return plain | changes


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_first_step_on_two_choices_is_the_hand_calculated_one(name: str) -> None:
    # p = (1/2, 1/2), V = 0. Action 0 earned 1, action 1 earned 0: A = (1, 0), R = (1, 0).
    # d/dz of -1/2 * A * ln p(0) = -1/2 * (1 - p0, -p1) = (-1/4, +1/4)
    # d/dV of vf_coef * mean(1/2 (V - R)^2) = 1/2 * mean(-1, 0) = -1/4
    model = Table([[0.0, 0.0]])
    algorithm = make_algorithm(name, settings(name), learner=learner_of(model), seed=1)
    stats = algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=0.0)
    torch.testing.assert_close(model.logits.data, torch.tensor([[0.25, -0.25]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.values.data, torch.tensor([0.25]), rtol=0, atol=1e-6)
    # surrogate: mean(-A) = -1/2; policy gradient: mean(-A ln 1/2) = ln 2 / 2
    assert stats.policy_loss == pytest.approx(-0.5 if name == "ppo" else LN2 / 2, abs=1e-6)
    assert stats.value_loss == pytest.approx(0.25, abs=1e-6)  # mean(1/2, 0)
    assert stats.entropy == pytest.approx(LN2, abs=1e-6)
    assert stats.approx_kl == pytest.approx(0.0, abs=1e-6)
    assert stats.explained_variance == pytest.approx(0.0, abs=1e-6)  # values are constant
    assert stats.grad_norm == pytest.approx((3 / 16) ** 0.5, abs=1e-6)  # three gradients of 1/4
    assert stats.optimizer_steps == 1


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_entropy_bonus_pushes_towards_uniform(name: str) -> None:
    # p = (3/4, 1/4), reward = V = 0, so only the bonus acts. dH/dz_i = -p_i (ln p_i + H), H = 0.5623351:
    # dH/dz0 = -0.75 * (-0.2876821 + 0.5623351) = -0.2059898; the step is + coefficient * dH/dz
    model = Table([[LN3, 0.0]])
    algorithm = make_algorithm(name, settings(name, entropy_coef=1.0), learner=learner_of(model), seed=1)
    stats = algorithm.learn(played(model, [0, 0], [0, 1], [0.0, 0.0]), progress=0.0)
    want = torch.tensor([[LN3 - 0.2059898, 0.2059898]])
    torch.testing.assert_close(model.logits.data, want, rtol=0, atol=1e-6)
    assert stats.entropy == pytest.approx(0.5623351, abs=1e-6)


@pytest.mark.parametrize("name", ON_POLICY)
def test_normalised_advantages_have_mean_0_and_deviation_1(name: str) -> None:
    # A = (1, 0) becomes (1, -1): d/dz0 = 1/2 * (-1 * 1/2 + 1 * -1/2) = -1/2
    model = Table([[0.0, 0.0]])
    algorithm = make_algorithm(name, settings(name, normalize_advantages=True), learner=learner_of(model), seed=1)
    algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=0.0)
    torch.testing.assert_close(model.logits.data, torch.tensor([[0.5, -0.5]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_value_coefficient_scales_the_value_step_alone(name: str) -> None:
    model = Table([[0.0, 0.0]])
    algorithm = make_algorithm(name, settings(name, vf_coef=0.1), learner=learner_of(model), seed=1)
    algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=0.0)
    torch.testing.assert_close(model.values.data, torch.tensor([0.05]), rtol=0, atol=1e-6)
    torch.testing.assert_close(model.logits.data, torch.tensor([[0.25, -0.25]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_value_is_the_baseline_and_is_drawn_towards_the_return(name: str) -> None:
    # V = 1/2 when acting, all three choices (0, 0, 1) earned 1: A = 1/2 each, R = 1.
    # d/dV = vf_coef * mean(V - R) = 1/2 * -1/2, so V = 3/4.
    # d/dz0 of mean(-A ln p) = 1/3 * -1/2 * (1/2 + 1/2 - 1/2) = -1/12; without the baseline it would be twice that
    model = Table([[0.0, 0.0]], [0.5])
    algorithm = make_algorithm(name, settings(name), learner=learner_of(model), seed=1)
    stats = algorithm.learn(played(model, [0, 0, 0], [0, 0, 1], [1.0, 1.0, 1.0]), progress=0.0)
    assert model.values.item() == pytest.approx(0.75, abs=1e-6)
    torch.testing.assert_close(model.logits.data, torch.tensor([[1 / 12, -1 / 12]]), rtol=0, atol=1e-6)
    assert stats.value_loss == pytest.approx(0.125, abs=1e-6)
    assert stats.explained_variance is None, "equal returns: nothing to explain"


def test_verdicts_teach_ppo_by_their_cross_entropy() -> None:
    # V = R = 1 on both choices, so A = 0 and only the verdicts act: mean of -ln p over actions 0 and 0.
    # d/dz = mean of -(1 - p0, -p1) = (-1/2, +1/2), times the coefficient 0.4
    model = Table([[0.0, 0.0]], [1.0])
    algorithm = make_algorithm("ppo", settings("ppo", verdict_coef=0.4), learner=learner_of(model), seed=1)
    algorithm.learn(played(model, [0, 0], [0, 0], [1.0, 1.0]), progress=0.0)
    torch.testing.assert_close(model.logits.data, torch.tensor([[0.2, -0.2]]), rtol=0, atol=1e-5)


def test_dqn_regresses_the_reward_of_the_chosen_class() -> None:
    # Q = (0, 0), action 0 earned 1: Huber gradient of (0 - 1) is -1; rate 1/2 makes Q0 = 1/2 and leaves Q1.
    # The second step starts at 1/2: gradient -1/2, Q0 = 3/4.
    model = Table([[0.0, 0.0]])
    chosen = {"learning_starts": 1, "replay_capacity": 4, "minibatch_size": 2, "replay_ratio": 1.0}
    algorithm = make_algorithm("dqn", chosen, learner=learner_of(model, rate=0.5), seed=1)
    stats = algorithm.learn(played(model, [0, 0, 0], [0, 0, 0], [1.0, 1.0, 1.0]), progress=0.0)
    torch.testing.assert_close(model.logits.data, torch.tensor([[0.75, 0.0]]), rtol=0, atol=1e-6)
    assert stats.optimizer_steps == 2, "(3 seen - 1 to start with) * 1"
    assert stats.value_loss == pytest.approx((0.5 + 0.125) / 2, abs=1e-6)


def test_dqn_bootstraps_from_the_target_network_and_refreshes_it_on_time() -> None:
    # State 0 leads to state 1, whose values in the target network are (0, 2): the target is 1 + 0.5 * 2 = 2. At rate
    # 1/2 each of the two steps halves the distance: Q(0,0) = 0, 1, 1.5.
    model = Table([[0.0, 0.0], [0.0, 2.0]])
    chosen = {"learning_starts": 1, "replay_capacity": 4, "minibatch_size": 2, "replay_ratio": 2.0, "gamma": 0.5}
    chosen |= {"target_update_steps": 2, "huber_delta": 100.0}
    algorithm = make_algorithm("dqn", chosen, learner=learner_of(model, rate=0.5), seed=1)
    one = played(model, [0, 0], [0, 0], [1.0, 1.0])
    going_on = Rollout(
        **{
            name: getattr(one, name)
            for name in ("obs", "actions", "logprobs", "values", "rewards", "truncated", "next_values")
        },
        terminated=torch.zeros(1, 2, dtype=torch.bool),
        next_obs=torch.ones(1, 2, dtype=torch.int64),
    )
    with torch.no_grad():
        model.logits[1, 1] = 50.0  # the online network changed; the target, copied when the algorithm was made, did not
    algorithm.learn(going_on, progress=0.0)
    assert model.logits[0, 0].item() == pytest.approx(1.5)
    assert model.logits[1, 1].item() == 50.0, "the online network is itself again"
    # Two steps were taken, so the target network now holds 50: 1 + 0.5 * 50 = 26 is aimed at. Four more interactions'
    # worth of steps are due, (4 seen - 1) * 2 - 2 = 4, and the target's 50 is the same all along:
    # 26 - (26 - 1.5) / 2^4 = 24.46875
    algorithm.learn(going_on, progress=0.0)
    assert model.logits[0, 0].item() == pytest.approx(24.46875)


def test_reinforce_leaves_out_steps_whose_return_is_not_known_yet() -> None:
    # T = 3, one environment: the episode ends after step 1, step 2 begins another. gamma = 1/2, V = 0:
    # G1 = 1, G0 = 0 + 1/2; step 2's reward of 100 must not count. Samples are states 0 and 1.
    # d/dz of state 0: 1/2 * -0.5 * (1/2, -1/2) = (-1/8, 1/8); state 1: (-1/4, 1/4)
    model = Table([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    states, zeros = torch.tensor([[0], [1], [2]]), torch.zeros(3, 1)
    rollout = Rollout(
        obs=states,
        actions=torch.zeros(3, 1, dtype=torch.int64),
        logprobs=torch.full((3, 1), -LN2),
        values=zeros,
        rewards=torch.tensor([[0.0], [1.0], [100.0]]),
        terminated=torch.tensor([[False], [True], [False]]),
        truncated=torch.zeros(3, 1, dtype=torch.bool),
        next_obs=states,
        next_values=zeros,
    )
    algorithm = make_algorithm("reinforce", settings("reinforce", gamma=0.5), learner=learner_of(model), seed=1)
    algorithm.learn(rollout, progress=0.0)
    want = torch.tensor([[0.125, -0.125], [0.25, -0.25], [0.0, 0.0]])
    torch.testing.assert_close(model.logits.data, want, rtol=0, atol=1e-6)


def test_reinforce_without_a_finished_episode_says_what_to_do() -> None:
    model = Table([[0.0, 0.0]])
    rollout = played(model, [0], [0], [1.0])
    unfinished = Rollout(
        **{
            name: getattr(rollout, name)
            for name in ("obs", "actions", "logprobs", "values", "rewards", "truncated", "next_obs", "next_values")
        },
        terminated=torch.zeros(1, 1, dtype=torch.bool),
    )
    algorithm = make_algorithm("reinforce", {}, learner=learner_of(model), seed=1)
    with pytest.raises(BadConfigError, match=r"none of the 1 episodes ended .* make rollouts longer"):
        algorithm.learn(unfinished, progress=0.0)


def test_ppo_stops_before_the_step_that_starts_too_far_away() -> None:
    # One minibatch per pass. The first step is taken (KL 0 before it) and moves far at rate 50; the second is not.
    model = Table([[0.0, 0.0]])
    chosen = settings("ppo", update_epochs=4, target_kl=0.01)
    algorithm = make_algorithm("ppo", chosen, learner=learner_of(model, rate=50.0), seed=1)
    stats = algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=0.0)
    assert stats.stopped_early
    assert stats.optimizer_steps == 1
    torch.testing.assert_close(model.logits.data, torch.tensor([[12.5, -12.5]]), rtol=0, atol=1e-4)
    assert stats.approx_kl is not None
    assert stats.approx_kl > 0.01, "what stopped it is reported"


def test_ppo_takes_every_step_where_no_kl_is_too_large() -> None:
    model = Table([[0.0, 0.0]])
    chosen = settings("ppo", update_epochs=3, minibatch_size=2, target_kl=10.0)
    algorithm = make_algorithm("ppo", chosen, learner=learner_of(model, rate=0.1), seed=1)
    stats = algorithm.learn(played(model, [0] * 4, [0, 1, 0, 1], [1.0, 0.0, 1.0, 0.0]), progress=0.0)
    assert (stats.optimizer_steps, stats.stopped_early) == (6, False)


def test_ppo_counts_what_lies_outside_the_clip_range() -> None:
    # Logged with probability 1/4 each, now 1/2: ratio 2 for both; approx_kl = 2 - 1 - ln 2
    model = Table([[0.0, 0.0]])
    obs = torch.zeros(2, dtype=torch.int64)
    log = Rollout.of_single_steps(
        obs,
        actions=torch.tensor([0, 1]),
        logprobs=torch.full((2,), -2 * LN2),
        values=torch.zeros(2),
        rewards=torch.tensor([1.0, -1.0]),
    )
    algorithm = make_algorithm("ppo", settings("ppo"), learner=learner_of(model), seed=1)
    stats = algorithm.learn(log, progress=0.0)
    assert stats.clipfrac == 1.0
    assert stats.approx_kl == pytest.approx(1 - LN2, abs=1e-6)
    # clipped at 1.2 * 1 for the good one, 2 * -1 for the bad one: mean(-1.2, 2)
    assert stats.policy_loss == pytest.approx(0.4, abs=1e-6)


def test_ppo_keeps_values_near_their_old_selves() -> None:
    # The value was 0 when acting, is 0.5 now, its target is 1 and cliprange_value 0.2.
    model = Table([[0.0, 0.0]], [0.5])
    rollout = Rollout.of_single_steps(
        torch.zeros(2, dtype=torch.int64),
        actions=torch.tensor([0, 1]),
        logprobs=torch.full((2,), -LN2),
        values=torch.zeros(2),  # when acting
        rewards=torch.ones(2),
    )
    algorithm = make_algorithm("ppo", settings("ppo", vf_coef=1.0), learner=learner_of(model), seed=1)
    stats = algorithm.learn(rollout, progress=0.0)
    # near = 0.2: (0.5 - 1)^2 = 0.25 < (0.2 - 1)^2 = 0.64: loss 0.32, no gradient
    assert stats.value_loss == pytest.approx(0.32, abs=1e-6)
    assert model.values.item() == pytest.approx(0.5)
    free = make_algorithm("ppo", settings("ppo", vf_coef=1.0, cliprange_value=None), learner=learner_of(model), seed=1)
    stats = free.learn(rollout, progress=0.0)
    assert stats.value_loss == pytest.approx(0.125, abs=1e-6)  # (0.5 - 1)^2 / 2
    assert model.values.item() == pytest.approx(1.0)  # 0.5 + 1 * (1 - 0.5)


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_gradient_is_cut_to_its_largest_norm(name: str) -> None:
    model = Table([[0.0, 0.0]])
    algorithm = make_algorithm(name, settings(name), learner=learner_of(model, max_grad_norm=0.1), seed=1)
    stats = algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=0.0)
    assert stats.grad_norm == pytest.approx((3 / 16) ** 0.5, abs=1e-6), "reported before cutting"
    moved = torch.cat([model.logits.data.flatten(), model.values.data])
    assert float(moved.norm()) == pytest.approx(0.1, abs=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_learning_rate_falls_from_its_peak_to_its_share_of_it(name: str) -> None:
    model = Table([[0.0, 0.0]])
    extra = DQN_NOW if name == "dqn" else {}
    algorithm = make_algorithm(name, {"final_lr_factor": 0.5, **extra}, learner=learner_of(model, rate=0.4), seed=1)
    rates = [
        algorithm.learn(played(model, [0, 0], [0, 1], [1.0, 0.0]), progress=progress).learning_rate
        for progress in (0.0, 0.5, 1.0)
    ]
    assert rates == pytest.approx([0.4, 0.3, 0.2])


def train(
    algorithm: Algorithm, model: Table, *, updates: range, reward: Callable[[Tensor, Tensor], Tensor], of: int = 20
) -> None:
    """Updates on 32 queries each about three states."""
    for update in updates:
        draws = generator_for(5, "queries", update)
        states = torch.randint(3, (32,), generator=draws)
        with torch.no_grad():
            output = model(states)
            action = algorithm.act(output, progress=update / of, generator=draws)
        rollout = Rollout.of_single_steps(
            states,
            actions=action.actions,
            logprobs=action.logprobs,
            values=output.values,
            rewards=reward(states, action.actions),
        )
        algorithm.learn(rollout, progress=update / of)


def right(states: Tensor, actions: Tensor) -> Tensor:
    """Right or wrong: the class wanted in state s is (s + 1) mod 3."""
    return (actions == (states + 1) % 3).float()


def ready(name: str, *, rate: float = 0.05, **changes: object) -> tuple[Table, Learner, Algorithm]:
    model = Table([[0.0] * 3 for _ in range(3)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    learner = Learner(forward=model, parameters=dict(model.named_parameters()), optimizer=optimizer)
    extra = DQN_NOW if name == "dqn" else {}
    return model, learner, make_algorithm(name, {**extra, **changes}, learner=learner, seed=3)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_learns_from_right_and_wrong_alone(name: str) -> None:
    model, _, algorithm = ready(name, rate=0.1)
    train(algorithm, model, updates=range(60), reward=right, of=60)
    assert model.logits.argmax(-1).tolist() == [1, 2, 0]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """P12, for the state of an algorithm: everything through a safetensors file."""
    changes = {"buffer_capacity": 80} if name == "ppo" else {}
    straight, _, algorithm = ready(name, **changes)
    train(algorithm, straight, updates=range(10), reward=right)

    first, learner, algorithm = ready(name, **changes)
    train(algorithm, first, updates=range(4), reward=right)
    save_file(learner.state(), tmp_path / "learner.safetensors")
    save_file(algorithm.state() or {"none": torch.zeros(1)}, tmp_path / "algorithm.safetensors")

    second, learner, algorithm = ready(name, **changes)
    learner.load_state(load_file(tmp_path / "learner.safetensors"))
    algorithm.load_state(load_file(tmp_path / "algorithm.safetensors"))
    train(algorithm, second, updates=range(4, 10), reward=right)
    for name_, parameter in straight.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name_)), name_
    assert not torch.equal(straight.logits, first.logits), "the last six updates changed something"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_reward_that_is_no_number_changes_no_parameter(name: str) -> None:
    model, _, algorithm = ready(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(NotANumberError, match=r"NaN in rewards"):
        train(algorithm, model, updates=range(1), reward=lambda states, actions: torch.full((32,), float("nan")))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["a2c", "reinforce"])
def test_a_batch_in_chunks_gives_the_step_of_the_whole(name: str) -> None:
    results = []
    for rows in (1000, 5):
        model, _, algorithm = ready(name, forward_rows=rows)
        train(algorithm, model, updates=range(5), reward=right)
        results.append(model.logits.data)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


class Threads:
    """A team of threads in one process."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size, timeout=60)
        self.given: dict[int, Tensor] = {}

    def member(self, rank: int) -> Member:
        return Member(self, rank)


class Member:
    def __init__(self, threads: Threads, rank: int) -> None:
        self.threads, self.rank, self.size = threads, rank, threads.size

    def sum_(self, tensor: Tensor) -> None:
        self.threads.given[self.rank] = tensor.clone()
        self.threads.barrier.wait()
        total = torch.stack([self.threads.given[rank] for rank in range(self.size)]).sum(0)
        self.threads.barrier.wait()
        tensor.copy_(total)

    def any(self, yes: bool) -> bool:
        said = torch.tensor([int(yes)])
        self.sum_(said)
        return bool(said)

    def number(self, of_first: int) -> int:
        told = torch.tensor([of_first * (self.rank == 0)])
        self.sum_(told)
        return int(told)

    def close(self) -> None:
        self.threads.barrier.abort()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_team_takes_the_steps_of_one_process(name: str, size: int) -> None:
    changes: Mapping[str, object] = {"target_kl": 0.02} if name == "ppo" else {}
    alone, _, algorithm = ready(name, **changes)
    train(algorithm, alone, updates=range(5), reward=right)

    threads = Threads(size)
    models: dict[int, Table] = {}
    failures: list[BaseException] = []

    def work(rank: int) -> None:
        try:
            model = Table([[0.0] * 3 for _ in range(3)])
            optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
            parameters = dict(model.named_parameters())
            learner = Learner(forward=model, parameters=parameters, optimizer=optimizer, team=threads.member(rank))
            extra = DQN_NOW if name == "dqn" else {}
            member = make_algorithm(name, {**extra, **changes}, learner=learner, seed=3)
            train(member, model, updates=range(5), reward=right)
            models[rank] = model
        except BaseException as error:
            failures.append(error)
            threads.barrier.abort()

    workers = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    for rank in range(size):
        torch.testing.assert_close(models[rank].logits.data, alone.logits.data, rtol=0, atol=1e-6)
        torch.testing.assert_close(models[rank].values.data, alone.values.data, rtol=0, atol=1e-6)


BAD = [
    pytest.param(
        "sarsa", {}, r"algorithm: 'sarsa' is not known; there are: ppo, a2c, reinforce, dqn", id="unknown name"
    ),
    pytest.param("ppo", {"clip": 0.2}, r"ppo.clip: ppo has no such setting; it has: gamma, lam", id="unknown setting"),
    pytest.param("ppo", {"cliprange": 0.0}, r"ppo.cliprange: 0.0 was given; give a number above 0", id="clip range 0"),
    pytest.param("ppo", {"cliprange_value": -1.0}, r"ppo.cliprange_value: -1.0", id="negative value clip range"),
    pytest.param("ppo", {"minibatch_size": 1}, r"ppo.minibatch_size: 1 .* one has no spread", id="minibatch of one"),
    pytest.param("ppo", {"update_epochs": 0}, r"ppo.update_epochs: 0", id="no pass"),
    pytest.param("ppo", {"target_kl": 0.0}, r"ppo.target_kl: 0.0", id="target KL 0"),
    pytest.param("ppo", {"gamma": 1.1}, r"ppo.gamma: 1.1 .* from 0 to 1", id="gamma above 1"),
    pytest.param("a2c", {"lam": -0.1}, r"a2c.lam: -0.1", id="negative lambda"),
    pytest.param("a2c", {"forward_rows": 0}, r"a2c.forward_rows: 0", id="no rows"),
    pytest.param("reinforce", {"entropy_coef": -1.0}, r"reinforce.entropy_coef: -1.0", id="negative entropy bonus"),
    pytest.param(
        "dqn",
        {"minibatch_size": 20_000},
        r"dqn.minibatch_size: 20000 was given.*replay_capacity, now 10000",
        id="batch",
    ),
    pytest.param(
        "dqn", {"learning_starts": 20_000}, r"dqn.learning_starts: 20000", id="starts after the buffer is full"
    ),
    pytest.param("dqn", {"epsilon_end": 0.5, "epsilon_start": 0.1}, r"dqn.epsilon_end: 0.5", id="epsilon rises"),
]


@pytest.mark.parametrize(("name", "given", "want"), BAD)
def test_a_setting_that_cannot_work_is_refused_by_name(name: str, given: dict[str, object], want: str) -> None:
    with pytest.raises(BadConfigError, match=want):
        make_algorithm(name, given, learner=learner_of(Table([[0.0, 0.0]])), seed=1)


def test_a_buffer_smaller_than_a_rollout_is_refused() -> None:
    model, _, algorithm = ready("ppo", buffer_capacity=16)
    with pytest.raises(BadConfigError, match=r"buffer capacity: 16 is below the 32 interactions"):
        train(algorithm, model, updates=range(1), reward=right)
