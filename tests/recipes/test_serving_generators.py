"""Answers of real, tiny language models by the shared cache: as `model.generate` gives them, whoever stands beside."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from prometheus_client import CollectorRegistry
from torch import Tensor

from ratchet_jobs.generators.answering import generate
from ratchet_jobs.generators.loading import load_base
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.runtime.errors import BadModelError
from ratchet_serving.generation.cache import Rows
from ratchet_serving.generation.decoder import Decoder
from ratchet_serving.generation.drawing import Manner
from ratchet_serving.generation.limits import StreamSettings
from ratchet_serving.generation.metrics import GenerationMetrics
from ratchet_serving.generation.streams import Stream, Streams
from ratchet_serving.generation.writing import Writer
from tests.tiny_llama import WORDS, write_tiny_llama

CACHE = 400


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Wording]:
    folder = write_tiny_llama(tmp_path_factory.mktemp("served") / "tiny", seed=3)
    return load_base(folder), load_wording(folder, eos_id=3)


def prompts(count: int, *, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(4, len(WORDS)) for _ in range(rng.randint(1, 40))] for _ in range(count)]


async def answered(
    tiny: tuple[Any, Wording], asked: Sequence[Sequence[int]], rooms: Sequence[int], *, heat: float = 0.0
) -> list[list[int]]:
    """Tokens of all answers, asked for at once."""
    model, wording = tiny
    settings = StreamSettings(max_streams=4, prompt_tokens=9, cache_tokens=CACHE)
    streams = Streams(
        Decoder(model, max_tokens=CACHE),
        eos_id=wording.eos_id,
        settings=settings,
        metrics=GenerationMetrics(CollectorRegistry()),
    )
    streams.start()
    await streams.warm_up()

    async def one(place: int) -> list[int]:
        writer = Noting(wording.tokenizer.backend_tokenizer)
        stream = Stream(asked[place], rooms[place], Manner(heat, 0.9), seed=place, writer=writer)
        streams.ask(stream)
        while True:
            piece = await asyncio.wait_for(stream.pieces.get(), 60)
            assert not isinstance(piece, Exception), piece
            if piece.finish is not None:
                ended = [wording.eos_id] if piece.finish == "stop" else []
                assert piece.tokens == len(writer.tokens + ended)
                return writer.tokens + ended

    try:
        return await asyncio.gather(*(one(place) for place in range(len(asked))))
    finally:
        await streams.close()


class Noting(Writer):
    """Notes the tokens, too."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.tokens: list[int] = []

    def push(self, token: int) -> str:
        self.tokens.append(token)
        return super().push(token)


async def test_greedy_answers_are_those_of_generate_token_for_token_whatever_runs_beside(
    tiny: tuple[Any, Wording],
) -> None:
    model, wording = tiny
    asked = prompts(14, seed=1)
    rooms = [random.Random(place).randint(1, 24) for place in range(len(asked))]
    got = await answered(tiny, asked, rooms)
    for prompt, room, tokens in zip(asked, rooms, got, strict=True):
        assert tokens == generate(model, [prompt], wording=wording, max_new_tokens=room)[0]
    assert len({tuple(tokens) for tokens in got}) > 7, "the answers differ"
    assert any(tokens[-1] == wording.eos_id for tokens in got)


async def test_drawn_answers_follow_from_their_seeds_whatever_runs_beside(tiny: tuple[Any, Wording]) -> None:
    asked, rooms = prompts(8, seed=2), [12] * 8
    together = await answered(tiny, asked, rooms, heat=1.0)
    # the others are gone or new, and each draws by its own place's seed
    again = await answered(tiny, [*asked[:5], *prompts(3, seed=9)], [12] * 5 + [3] * 3, heat=1.0)
    assert again[:5] == together[:5]
    assert together != await answered(tiny, asked, rooms)


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "vocab_size": 50}
WIDE = SMALL | {"intermediate_size": 64, "max_position_embeddings": 64, "num_key_value_heads": 2}
GPT2 = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 50, "n_positions": 64}


def built(name: str, **config: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind = getattr(transformers, f"{name}Config", None) or getattr(transformers, f"{name}TextConfig")
        made = kind(**config)
        head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
        return getattr(transformers, name + head)(made).eval()


@pytest.mark.parametrize(
    ("name", "config", "context"),
    [
        pytest.param("GPT2", GPT2, 64, id="positions that are learned"),
        pytest.param("Qwen2", WIDE, 64, id="heads that share keys"),
        pytest.param("Mistral", WIDE | {"sliding_window": 16}, 16, id="a window, within which it is served"),
        pytest.param("Qwen2", WIDE | {"max_position_embeddings": 10**6}, CACHE, id="more context than cache"),
    ],
)  # fmt: skip
def test_a_model_that_keeps_keys_and_values_by_position_is_served(
    name: str, config: dict[str, Any], context: int
) -> None:
    decoder = Decoder(built(name, **config), max_tokens=CACHE)
    with torch.inference_mode():
        decoder.check()
    assert decoder.context == context


@pytest.mark.parametrize(
    ("name", "config", "want"),
    [
        ("Bloom", {"n_layer": 2, "n_head": 2, "hidden_size": 32, "vocab_size": 50}, "cannot be asked with a shared"),
        ("Mamba", {"num_hidden_layers": 2, "hidden_size": 32, "vocab_size": 50}, "cannot be asked with a shared cache"),
    ],
)
def test_a_model_that_does_not_is_refused_by_name(name: str, config: dict[str, Any], want: str) -> None:
    decoder = Decoder(built(name, **config), max_tokens=CACHE)
    with torch.inference_mode(), pytest.raises(BadModelError, match=f"{name}ForCausalLM {want}"):
        decoder.check()


def test_numbers_that_differ_with_company_are_found(tiny: tuple[Any, Wording], monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(tiny[0], max_tokens=CACHE)
    whole = decoder._pass
    # every row sees what stands behind its own end
    monkeypatch.setattr(decoder, "_pass", lambda ids, places, seen: whole(ids, places, torch.ones_like(seen)))
    with torch.inference_mode(), pytest.raises(BadModelError, match=r"LlamaForCausalLM gives other numbers .* by"):
        decoder.check()


def written(rows: Rows) -> list[Tensor]:
    return [layer.keys for layer in rows.cache.layers]


def test_the_cache_grows_with_what_stands_in_it_and_never_beyond_its_limit(tiny: tuple[Any, Wording]) -> None:
    decoder = Decoder(tiny[0], max_tokens=CACHE)
    rows = decoder._rows
    with torch.inference_mode():
        decoder.reserve(count=1, length=20)
        decoder.fill(0, list(range(4, 20)), start=0)
        before = [keys[:1, :, :16].clone() for keys in written(rows)]
        for count, length in ((2, 20), (3, 100), (5, 80), (20, 20), (1, 400)):
            assert decoder.fits(count=count, length=length)
            decoder.reserve(count=count, length=length)
            shape = written(rows)[0].shape
            assert count <= shape[0]
            assert length <= shape[2]
            assert shape[0] * shape[2] <= CACHE
            assert all(torch.equal(now[:1, :, :16], then) for now, then in zip(written(rows), before, strict=True))
    assert not decoder.fits(count=2, length=201)
