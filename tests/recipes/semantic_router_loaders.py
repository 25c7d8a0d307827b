"""What vLLM Semantic Router's two loaders expect of a classifier's folder, and what they compute from it.

Restated from vllm-project/semantic-router, commit 3d48f8c9cc0d5b15067ce324a03ec6cc25f192c3:

* candle: candle-binding/src/model_architectures/traditional/modernbert.rs (`load_from_directory_with_variant`,
  `classify_internal`), traditional/candle_models/modernbert.rs (the encoder), core/config_loader.rs (classes);
* onnx: onnx-binding/src/model_architectures/classification/mmbert_classifier.rs (`load`, `classify_batch`);
* router: src/semantic-router/pkg/classification/mapping.go (`CategoryMapping`), classifier_modernbert_detect.go.

It is written from those files and shares nothing with the exporter, so that a wrong name, shape or formula shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

LONGEST = 512


class CandleModernBert:
    """The candle loader of ModernBERT classifiers, pooling MEAN, without a head layer."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        assert config["model_type"] == "modernbert"
        self._config = _with_rope_thetas(config)
        # serde refuses a file that lacks one of these
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        others = ("max_position_embeddings", "pad_token_id", "global_attn_every_n_layers", "local_attention")
        assert all(isinstance(config[name], int) for name in (*sizes, *others))
        assert isinstance(config["layer_norm_eps"], float)
        self.labels = [config["id2label"][str(place)] for place in range(len(config["id2label"]))]
        self._tensors = load_file(folder / "model.safetensors")
        assert "head.dense.weight" not in self._tensors, "a head layer would be computed"
        self._classifier = self._get("classifier.weight", (len(self.labels), config["hidden_size"]))
        self._bias = self._get("classifier.bias", (len(self.labels),))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST)

    def probabilities(self, text: str) -> list[float]:
        ids = self._tokenizer.encode(text).ids
        hidden = self._encode(torch.tensor(ids))
        logits = hidden.mean(0) @ self._classifier.T + self._bias  # one text: every token counts
        return logits.softmax(-1).tolist()

    def _get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self._tensors[name]
        assert tuple(tensor.shape) == shape, name
        assert tensor.dtype == torch.float32
        return tensor

    def _norm(self, x: Tensor, name: str) -> Tensor:
        size = self._config["hidden_size"]
        weight = self._get(f"{name}.weight", (size,))
        return functional.layer_norm(x, (size,), weight, None, self._config["layer_norm_eps"])

    def _encode(self, ids: Tensor) -> Tensor:
        config = self._config
        size, inner = config["hidden_size"], config["intermediate_size"]
        x = self._get("model.embeddings.tok_embeddings.weight", (config["vocab_size"], size))[ids]
        x = self._norm(x, "model.embeddings.norm")
        for layer in range(config["num_hidden_layers"]):
            name = f"model.layers.{layer}"
            is_local = layer % config["global_attn_every_n_layers"] != 0
            # the norm is optional (`.ok()`): a layer whose file has none goes without
            normed = self._norm(x, f"{name}.attn_norm") if f"{name}.attn_norm.weight" in self._tensors else x
            x = x + self._attend(normed, name, is_local=is_local)
            gated = self._norm(x, f"{name}.mlp_norm") @ self._get(f"{name}.mlp.Wi.weight", (2 * inner, size)).T
            value, gate = gated.chunk(2, -1)
            x = x + (functional.gelu(value) * gate) @ self._get(f"{name}.mlp.Wo.weight", (size, inner)).T
        return self._norm(x, "model.final_norm")

    def _attend(self, x: Tensor, name: str, *, is_local: bool) -> Tensor:
        config = self._config
        size, heads = config["hidden_size"], config["num_attention_heads"]
        length, width = len(x), size // heads
        qkv = x @ self._get(f"{name}.attn.Wqkv.weight", (3 * size, size)).T
        q, k, v = qkv.view(length, 3, heads, width).permute(1, 2, 0, 3)  # each (heads, T, width)
        theta = config["local_rope_theta" if is_local else "global_rope_theta"]
        scores = (_rope(q, theta) * width**-0.5) @ _rope(k, theta).transpose(1, 2)
        if is_local:
            place = torch.arange(length)
            far = (place[:, None] - place[None, :]).abs() > config["local_attention"] // 2
            scores = scores.masked_fill(far, -math.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, size)
        return mixed @ self._get(f"{name}.attn.Wo.weight", (size, size)).T


def _with_rope_thetas(config: dict[str, Any]) -> dict[str, Any]:
    """`normalize_config_json`: a theta that is missing is taken from elsewhere, and may be the wrong one."""
    parameters = config.get("rope_parameters", {})
    found = parameters.get("full_attention", parameters.get("sliding_attention", {})).get("rope_theta", 160_000.0)
    whole = config.get("global_rope_theta", found)
    return config | {"global_rope_theta": whole, "local_rope_theta": config.get("local_rope_theta", whole)}


def _rope(x: Tensor, theta: float) -> Tensor:
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[1])[:, None] * theta ** -(torch.arange(half) / half)  # (T, width / 2)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


class OnnxClassifier:
    """The ONNX loader of sequence classifiers."""

    def __init__(self, folder: Path) -> None:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.labels = [config["id2label"][str(place)] for place in range(config["num_labels"])]
        self._pad, self._longest = config["pad_token_id"], min(config["max_position_embeddings"], LONGEST)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(LONGEST)
        names = ("model_sdpa_fp16.onnx", "model.onnx", "classifier.onnx", "model_optimized.onnx")
        graph = next(folder / name for name in names if (folder / name).exists())
        self._session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        rows = self._tokenizer.encode_batch(list(texts))
        length = min(self._longest, max(len(row.ids) for row in rows))
        input_ids = np.full((len(rows), length), self._pad, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in enumerate(rows):
            input_ids[place, : len(row.ids)] = row.ids[:length]
            mask[place, : len(row.ids)] = row.attention_mask[:length]
        outputs = self._session.run(None, {"input_ids": input_ids, "attention_mask": mask})
        logits = dict(zip([each.name for each in self._session.get_outputs()], outputs, strict=True))["logits"]
        assert (logits.dtype, logits.shape) == (np.float32, (len(rows), len(self.labels)))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def category_mapping(path: Path) -> tuple[dict[str, int], dict[str, str]]:
    """mapping.go: two maps of Go types map[string]int and map[string]string."""
    document = json.loads(path.read_text())
    numbers, names = document["category_to_idx"], document["idx_to_category"]
    assert all(isinstance(number, int) for number in numbers.values())
    assert all(isinstance(name, str) for name in names.values())
    return numbers, names
