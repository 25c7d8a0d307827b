"""A GGUF file becomes a base model's folder: the same model in float32, a fast tokenizer, nothing else."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ratchet_cli.main import run_command
from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.generators.loading import load_base
from ratchet_jobs.generators.templates import load_wording
from ratchet_jobs.models.gguf import convert_gguf
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

HEADS, WIDTH = 2, 32
WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "Ġ"]
TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Tensors of a block by the names that GGUF has for them."""


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        intermediate_size=64,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def write_gguf(
    file: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    more: Mapping[str, Sequence[float]] = MappingProxyType({}),
    scaling: gguf.RopeScalingType = gguf.RopeScalingType.NONE,
    quantised: bool = False,
) -> Path:
    """Write a model as llama.cpp's converter does: queries and keys with the two halves of a head interleaved.

    Args:
        file: to write.
        model: of one block.
        architecture: that the file says it is.
        more: names of further tensors and what they hold.
        scaling: how the file says that positions are stretched.
        quantised: whether matrices are written in 8 bits a number.
    """
    writer = gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_scaling_type(scaling)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(WORDS))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    for name, numbers in more.items():
        writer.add_tensor(name, np.array(numbers, dtype=np.float32))
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", state["model.norm.weight"])
    writer.add_tensor("output.weight", state["lm_head.weight"])
    for ours, theirs in TENSORS.items():
        weight = state[f"model.layers.0.{ours}.weight"]
        if ours.endswith(("q_proj", "k_proj")):
            halves = weight.reshape(HEADS, 2, WIDTH // HEADS // 2, WIDTH)
            weight = np.ascontiguousarray(halves.swapaxes(1, 2).reshape(WIDTH, WIDTH))
        if quantised and weight.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"blk.0.{theirs}.weight", gguf.quantize(weight, kind), raw_dtype=kind)
            continue
        writer.add_tensor(f"blk.0.{theirs}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_folder_is_a_base_model_that_says_what_the_file_said(tmp_path: Path) -> None:
    model = llama()
    digest = convert_gguf(write_gguf(tmp_path / "tiny.gguf", model), tmp_path / "base")
    assert digest == local_digest(tmp_path / "base")
    ids = torch.tensor([[1, 3, 4, 5]])
    read = load_base(tmp_path / "base")
    with torch.no_grad():
        assert torch.allclose(read(ids).logits, model(ids).logits, atol=1e-5)
    assert load_wording(tmp_path / "base", eos_id=2).plain("ab")[-1] == WORDS.index("ab")
    names = {path.name for path in (tmp_path / "base").iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names
    assert {path.suffix for path in (tmp_path / "base").iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert {tensor.dtype for tensor in load_file(tmp_path / "base" / "model.safetensors").values()} == {torch.float32}


def test_quantised_weights_become_float32_near_what_they_were(tmp_path: Path) -> None:
    model = llama()
    convert_gguf(write_gguf(tmp_path / "small.gguf", model, quantised=True), tmp_path / "base")
    ids = torch.tensor([[1, 3, 4, 5]])
    read = load_base(tmp_path / "base")
    assert {tensor.dtype for tensor in load_file(tmp_path / "base" / "model.safetensors").values()} == {torch.float32}
    with torch.no_grad():
        apart = (read(ids).logits - model(ids).logits).abs().max()
    assert 0 < apart < 1e-2


def test_a_tensor_that_found_no_place_is_refused_and_one_that_is_computed_anyway_is_not(tmp_path: Path) -> None:
    """P39."""
    odd = write_gguf(tmp_path / "odd.gguf", llama(), more={"blk.0.attn_q.bias": [1.0] * WIDTH})
    with pytest.raises(BadModelError, match=r"odd.gguf: its 13 tensors hold \d+ numbers, but the LlamaForCausalLM"):
        convert_gguf(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    convert_gguf(write_gguf(tmp_path / "rope.gguf", llama(), more={"rope_freqs.weight": [1.0] * 8}), tmp_path / "out")


def test_positions_that_would_not_be_stretched_are_refused(tmp_path: Path) -> None:
    """P39."""
    file = write_gguf(tmp_path / "long.gguf", llama(), more={"rope_freqs.weight": [1.0] * 7 + [8.0]})
    with pytest.raises(BadModelError, match=r"long.gguf: stretches its positions \(rope_freqs.weight\)"):
        convert_gguf(file, tmp_path / "out")
    file = write_gguf(tmp_path / "yarn.gguf", llama(), scaling=gguf.RopeScalingType.YARN)
    with pytest.raises(BadModelError, match=r"yarn.gguf: stretches its positions \(llama.rope.scaling.type 'yarn'\)"):
        convert_gguf(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_the_package_the_remedy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "any.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadConfigError, match=r"needs the package gguf; install ratchet\[gguf\]"):
        convert_gguf(tmp_path / "any.gguf", tmp_path / "out")


def test_a_file_that_cannot_be_used_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    """P39."""
    good = write_gguf(tmp_path / "tiny.gguf", llama())
    with pytest.raises(BadModelError, match=r"no.gguf: is no file; name one that ends in .gguf"):
        convert_gguf(tmp_path / "no.gguf", tmp_path / "out")
    (tmp_path / "zip.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(BadModelError, match=r"begins with b'PK.*' and not with GGUF"):
        convert_gguf(tmp_path / "zip.gguf", tmp_path / "out")
    (tmp_path / "half.gguf").write_bytes(good.read_bytes()[:600])
    with pytest.raises(BadModelError, match=r"half.gguf: transformers cannot read it: .*; give a GGUF file"):
        convert_gguf(tmp_path / "half.gguf", tmp_path / "out")
    odd = write_gguf(tmp_path / "odd.gguf", llama(), architecture="abacus")
    with pytest.raises(BadModelError, match=r"odd.gguf: transformers cannot read it: .*abacus"):
        convert_gguf(odd, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    with pytest.raises(BadConfigError, match=r"full: holds something already; name a new folder"):
        convert_gguf(good, tmp_path / "full")
    assert not (tmp_path / "out").exists()


def test_the_folder_that_one_stands_in_is_a_folder_like_any_other_and_nothing_beside_it_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tmp_path / "m.gguf", llama())
    (tmp_path / "here").mkdir()
    (tmp_path / "here.unfinished").mkdir()
    (tmp_path / "here.unfinished" / "mine.txt").write_text("of somebody")
    monkeypatch.chdir(tmp_path / "here")
    assert convert_gguf(file, Path()) == local_digest(tmp_path / "here") == local_digest(Path())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "here.unfinished", "m.gguf"]
    assert (tmp_path / "here.unfinished" / "mine.txt").exists()


def test_the_command_prints_what_a_manifest_wants(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama())
    assert run_command(["gguf", str(file), "-o", str(tmp_path / "base")]) == 0
    assert capsys.readouterr().out.strip() == local_digest(tmp_path / "base"), "a script takes it as it is"
    assert run_command(["gguf", str(file), "-o", str(tmp_path / "base")]) == 1
    assert "holds something already" in capsys.readouterr().err
