"""One trunk is four models: each pass uses the weights it should, and a gradient reaches those of one adapter only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from ratchet_jobs.generators.loading import load_base
from ratchet_jobs.generators.templates import load_wording
from ratchet_jobs.models import bfloat16, packed
from ratchet_jobs.rl.seeds import generator_for
from ratchet_jobs.rlhf import trunk as trunk_module
from ratchet_jobs.rlhf.generate import Episodes, Sampling, answer_pass, generate, nucleus, pad_prompts, token_logprobs
from ratchet_jobs.rlhf.saving import save_policy
from ratchet_jobs.rlhf.trunk import Trunk, load_trunk
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError
from tests.tiny_llama import write_tiny_llama

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [[7, 8, 9, 10, 11, 12], [9, 10], [13, 14, 15]]
SAMPLING = Sampling(max_new_tokens=7)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "llama")


@pytest.fixture(scope="module")
def gpt2(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other matrices (turned), other positions (absolute), dropout in its config."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=64, n_positions=64, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((llama / name).read_bytes())
    return folder


@pytest.fixture(params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(request.param)
    return folder


def stirred(trunk: Trunk) -> Trunk:
    """Adapters and heads moved away from their start, where they say nothing."""
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in [*trunk.policy_parameters().values(), *trunk.reward_parameters().values()]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draws))
    return trunk


def drawn(trunk: Trunk, rows: list[list[int]] = ROWS, sampling: Sampling = SAMPLING) -> Episodes:
    prompts = pad_prompts(rows, pad_id=trunk.wording.pad_id)
    return generate(trunk, prompts, sampling, generator=generator_for(3, "test"))


def test_at_the_start_policy_and_reference_are_the_base_to_the_bit(base: Path) -> None:
    trunk = load_trunk(base, rank=4)
    ids = torch.tensor([ROWS[0]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    want = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
    assert torch.equal(trunk.reference(ids, mask, keep=6).logits, want)
    assert torch.allclose(trunk.policy(ids, mask, keep=6).logits, want, rtol=0, atol=1e-6)


def test_a_trained_adapter_leaves_the_reference_as_it_was(base: Path) -> None:
    trunk = load_trunk(base, rank=4)
    ids = torch.tensor([ROWS[0]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    want = trunk.reference(ids, mask, keep=6).logits
    stirred(trunk)
    with torch.no_grad():
        assert not torch.allclose(trunk.policy(ids, mask, keep=6).logits, want, atol=1e-3)
        assert not torch.allclose(trunk.reward_hidden(ids, mask), trunk.policy(ids, mask, keep=6).hidden, atol=1e-3)
    assert torch.equal(trunk.reference(ids, mask, keep=6).logits, want)


@pytest.mark.parametrize("rank", [4, None], ids=["LoRA", "all weights"])
def test_a_gradient_reaches_the_adapter_it_is_for_and_nothing_else(llama: Path, rank: int | None) -> None:
    trunk = stirred(load_trunk(llama, rank=rank))
    ids = torch.tensor([ROWS[0]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    policy, reward = trunk.policy_parameters(), trunk.reward_parameters()
    for ask, mine, others in (
        (lambda: trunk.reward_hidden(ids, mask).sum(), reward, policy),
        (lambda: trunk.policy(ids, mask, keep=3).logits.square().sum(), policy, reward),
    ):
        ask().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in mine.values())
        assert all(p.grad is None for name, p in others.items())
        for parameter in mine.values():
            parameter.grad = None
    frozen = {id(p) for p in (*policy.values(), *reward.values())}
    assert all(p.grad is None for p in trunk.base.parameters() if id(p) not in frozen)


def test_drawing_with_a_cache_and_training_agree_on_every_token_left_padded_or_not(base: Path) -> None:
    trunk = stirred(load_trunk(base, rank=4))
    episodes = drawn(trunk)
    assert episodes.prompt_mask.sum(1).tolist() == [6, 2, 3]
    with torch.no_grad():
        logits, hidden = answer_pass(trunk, episodes)
        together = token_logprobs(logits, episodes, temperature=1.0)
        assert torch.allclose(together, episodes.logprobs, rtol=0, atol=1e-5)
        values = torch.where(episodes.response_mask, trunk.values(hidden), 0.0)
        assert torch.allclose(values, episodes.values, rtol=0, atol=1e-5)
        for row in range(len(ROWS)):
            alone = episodes.take(torch.tensor([row]))
            assert alone.prompt_mask.all()
            logits, _ = answer_pass(trunk, alone)
            width = alone.response_ids.shape[1]
            assert torch.allclose(
                token_logprobs(logits, alone, temperature=1.0), together[row : row + 1, :width], rtol=0, atol=1e-5
            )


def test_temperature_is_that_of_the_distribution_drawn_from(llama: Path) -> None:
    trunk = stirred(load_trunk(llama, rank=4))
    episodes = drawn(trunk, sampling=Sampling(max_new_tokens=5, temperature=2.0))
    with torch.no_grad():
        logits, _ = answer_pass(trunk, episodes)
    assert torch.allclose(token_logprobs(logits, episodes, temperature=2.0), episodes.logprobs, rtol=0, atol=1e-5)
    assert not torch.allclose(token_logprobs(logits, episodes, temperature=1.0), episodes.logprobs, atol=1e-2)


def test_an_answer_ends_with_its_first_stop_token_and_counts_it(llama: Path) -> None:
    trunk = load_trunk(llama, rank=4)
    everything = tuple(range(5, 64))
    episodes = drawn(trunk, sampling=Sampling(max_new_tokens=7, stop_ids=everything))
    ends = torch.tensor([trunk.wording.eos_id, *everything])
    for ids, length in zip(episodes.response_ids, episodes.lengths.tolist(), strict=True):
        assert not torch.isin(ids[: length - 1], ends).any()
        assert torch.isin(ids[length - 1], ends) or length == 7
    assert episodes.lengths.tolist() == episodes.response_mask.long().cumsum(1).amax(1).tolist()
    cut = drawn(trunk, sampling=Sampling(max_new_tokens=1))
    assert cut.stopped.tolist() == (cut.response_ids[:, 0] == trunk.wording.eos_id).tolist()


def test_the_nucleus_is_the_smallest_set_of_that_mass() -> None:
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6]]).log()
    assert torch.isfinite(nucleus(logits, 0.5)).tolist() == [[False, True, False], [False, False, True]]
    assert torch.isfinite(nucleus(logits, 0.7)).sum(1).tolist() == [2, 2]
    assert torch.equal(nucleus(logits, 1.0), logits)


@pytest.mark.parametrize("rank", [4, None], ids=["LoRA", "all weights"])
def test_a_saved_policy_loads_as_it_is_and_says_what_the_trunk_says(
    base: Path, tmp_path: Path, rank: int | None
) -> None:
    """P39: weights shared by embedding and head are written once and shared again."""
    trunk = stirred(load_trunk(base, rank=rank))
    save_policy(trunk, tmp_path / "policy", tokenizer_from=base)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        want = trunk.policy(ids, torch.ones_like(ids, dtype=torch.bool), keep=6).logits
        assert torch.allclose(loaded(input_ids=ids).logits, want, rtol=0, atol=1e-5)
    assert loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").eos_token_id == trunk.wording.eos_id


def test_checkpointing_changes_no_gradient(llama: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        trunk = stirred(load_trunk(llama, rank=4))
        episodes = drawn(trunk)
        with trunk.training("policy", checkpointing=checkpointing):
            logits, hidden = answer_pass(trunk, episodes)
            (token_logprobs(logits, episodes, temperature=1.0).sum() + trunk.values(hidden).sum()).backward()
        gradients.append([p.grad for p in trunk.policy_parameters().values()])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_half_precision_answers_are_finite(llama: Path) -> None:
    trunk = load_trunk(llama, rank=4, dtype=torch.bfloat16)
    episodes = drawn(trunk)
    assert torch.isfinite(episodes.logprobs).all()
    assert episodes.logprobs.dtype == torch.float32


def test_attention_of_bfloat16_weights_is_worked_out_in_float32(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    attend = bfloat16.sdpa_attention_forward

    def watched(module: Any, query: Tensor, *args: Any, **settings: Any) -> Any:
        seen.append(query.dtype)
        return attend(module, query, *args, **settings)

    monkeypatch.setattr(bfloat16, "sdpa_attention_forward", watched)
    episodes = drawn(load_trunk(llama, rank=4, dtype=torch.bfloat16))
    assert len(seen) > 1, "the function is asked in every block"
    assert set(seen) == {torch.float32}
    # what the answers cost is what the same weights say in float32, but for the rounding of 8 bits
    exact = load_trunk(llama, rank=4)
    with torch.no_grad():
        logits, _ = answer_pass(exact, episodes)
    want = token_logprobs(logits, episodes, temperature=1.0)
    torch.testing.assert_close(episodes.logprobs, want, rtol=0, atol=0.05)
    assert exact.base.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_packed_weights_draw_the_same_answers_and_are_gone_afterwards(
    family: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk = load_trunk(request.getfixturevalue(family), rank=3, dtype=torch.bfloat16)  # scaled by no power of two
    for name, parameter in trunk.policy_parameters().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=generator_for(0, name))
    own = {name: module.__dict__.get("forward") for name, module in trunk.base.named_modules()}
    counts: list[int] = []

    @contextmanager
    def counted(model: torch.nn.Module, *, rows: int) -> Iterator[int]:
        with packed.packed(model, rows=rows) as count:
            counts.append(count)
            yield count

    monkeypatch.setattr(trunk_module, "packed", counted)
    ours = drawn(trunk)
    with monkeypatch.context() as missing:
        missing.setattr(packed, "_NAMES", ("_of_no_release_of_torch",))
        plain = drawn(trunk)
    layers = {"llama": 2 * 7 + 1, "gpt2": 1}[family]  # gpt2's blocks have their matrices turned, in no linear layer
    assert counts == [layers if packed.is_there() else 0, 0]
    for field in ("response_ids", "logprobs", "values", "entropies"):
        assert torch.equal(getattr(ours, field), getattr(plain, field)), field
    with pytest.raises(KeyError), trunk.drawing(rows=3):
        raise KeyError
    assert own == {name: module.__dict__.get("forward") for name, module in trunk.base.named_modules()}


GROW = """
import sys
import torch
from ratchet_jobs.rlhf.trunk import load_trunk
torch.set_num_threads(1)
load_trunk(__import__("pathlib").Path(sys.argv[1]), rank=4, dtype=torch.bfloat16)
weight, rows = torch.randn(1536, 576).bfloat16(), torch.randn(500, 576).bfloat16()
room = torch.empty(500, 1536, dtype=torch.bfloat16)
def held():
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
begun = held()
for count in range(1, 500):
    torch.mm(rows[:count], weight.t(), out=room[:count])
print(held() - begun)
"""


def test_many_numbers_of_rows_in_bfloat16_do_not_fill_the_memory(llama: Path) -> None:
    # in a process of its own: the caches are read at the first product of all
    done = subprocess.run([sys.executable, "-c", GROW, llama], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 180, "MiB after 499 numbers of rows; without the bound 340 on a CPU with AVX512_BF16"


def test_what_cannot_be_loaded_says_why(tmp_path: Path, llama: Path) -> None:
    with pytest.raises(BadModelError, match=r"base_model: .*nowhere is no folder"):
        load_trunk(tmp_path / "nowhere", rank=4)
    with pytest.raises(BadConfigError, match=r"dtype: torch\.bfloat16 without LoRA"):
        load_trunk(llama, rank=None, dtype=torch.bfloat16)
    with pytest.raises(BadModelError, match="token that ends a sequence"):
        load_trunk(write_tiny_llama(tmp_path / "endless", eos=False), rank=4)
    with pytest.raises(BadDataError, match="prompt 1: no tokens"):
        pad_prompts([[5], []], pad_id=0)
    with pytest.raises(BadConfigError, match=r"top_p: 0\.0; give a number"):
        Sampling(top_p=0.0)


def test_agents_on_one_trunk_share_nothing_that_is_trained(llama: Path) -> None:
    """What an agent begins with is a function of seed and name, and what it learns changes no other."""

    def trunk_of(*agents: str) -> Trunk:
        model = load_base(llama)
        return Trunk(model, load_wording(llama, eos_id=3), digest="0" * 64, rank=4, seed=5, agents=agents)

    trunk = trunk_of("one", "other")
    one, other = trunk.of_agent("one"), trunk.of_agent("other")
    ours, theirs = one.policy_parameters(), other.policy_parameters()
    assert not {id(p) for p in ours.values()} & {id(p) for p in theirs.values()}
    alone = trunk_of("other").of_agent("other").policy_parameters()
    assert alone.keys() == theirs.keys()
    assert all(torch.equal(alone[name], parameter) for name, parameter in theirs.items())
    generator = torch.Generator().manual_seed(1)
    ids = torch.tensor([[7, 8, 9, 10]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        before = other.policy(ids, mask, keep=4).logits
        for parameter in ours.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        assert torch.equal(other.policy(ids, mask, keep=4).logits, before)
        assert (one.policy(ids, mask, keep=4).logits - before).abs().max() > 1e-2
        assert (one.reference(ids, mask, keep=4).logits - before).abs().max() < 1e-5
    with pytest.raises(BadConfigError, match=r"agent: 'third' is none of the trunk's; there are: one, other"):
        trunk.of_agent("third")
    with pytest.raises(BadConfigError, match=r"agents: one, other share a model by adapters; give a rank"):
        Trunk(load_base(llama), one.wording, digest="0" * 64, rank=None, agents=("one", "other"))
