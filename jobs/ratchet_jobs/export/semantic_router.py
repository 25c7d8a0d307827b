"""`semantic-router`: the folder that vLLM Semantic Router loads for its domain classifier.

Read at vllm-project/semantic-router commit 3d48f8c9cc0d. Three of its loaders come into question:

* candle-binding/src/model_architectures/traditional/bert.rs and lora/bert_lora.rs (BERT): first token, a tanh pooler,
  head. Not this policy, whatever the weights.
* candle-binding/src/model_architectures/traditional/modernbert.rs (ModernBERT, mmBERT): `load_from_directory` pools by
  mean and leaves the head's dense layer out where the file has none. That is this policy, for a ModernBERT base.
* onnx-binding/src/model_architectures/classification/mmbert_classifier.rs (its build with AI_BINDING=onnx): the graph's
  own `logits` from `input_ids` and `attention_mask`. That is this policy, for any base.

So a ModernBERT base becomes safetensors for the candle loader, any other base a graph for the ONNX loader. Neither
knows a temperature: the head is divided by it, and their softmax is calibrated. Both cut texts at 512 tokens. Both have
one head, so that of several tasks each becomes a folder of its own, with a copy of the encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import nn

from ratchet_jobs.export.config import CONFIG_FILE, encoder_config, write_json
from ratchet_jobs.export.layout import Source, Written, ask, by_torch, save_tokenizer
from ratchet_jobs.export.merging import WEIGHTS_FILE, Merged, merge, save_tensors
from ratchet_jobs.export.onnx_graph import ONNX_FILE, by_onnxruntime, save_graph
from ratchet_jobs.export.several_tasks import alone
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import check_positions, load_encoder
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

MAPPING_FILE = "category_mapping.json"
MODEL_TYPE = "modernbert"
LONGEST = 512
"""MAX_CLASSIFICATION_SEQ_LEN of both loaders: they set their own cut, whatever tokenizer.json says."""

USAGE = """\
Put FOLDER below the router's `models/` and name it in the router's configuration:

```yaml
global:
  model_catalog:
    modules:
      classifier:
        domain:
          model_id: models/{place}
          threshold: {threshold}
          use_cpu: true
          use_mmbert_32k: false
          category_mapping_path: models/{place}/category_mapping.json
```

{build} Its softmax is calibrated: the head is divided by the temperature {temperature:.6g}. The router cuts texts at
512 tokens, training cut them at {max_tokens}: longer texts may be answered differently. Below the threshold the router
uses its `fallback_category`; {abstains}
"""
_CANDLE = "The router's default build (candle) loads it as ModernBERT."
_ONNX = "The router must run with `AI_BINDING=onnx`: its default build computes another pooling for this architecture."


def write_semantic_router(source: Source, folder: Path) -> Written:
    """Write the layout; of several tasks, one folder each that is named after it.

    Raises:
        BadModelError: neither loader computes this policy with this base.
    """
    card = source.policy.card
    if card.tasks is None:
        return _write_one(source, folder, place="FOLDER")
    parts = {}
    for head in card.heads:
        name = head.task.name
        (folder / name).mkdir()
        parts[name] = _write_one(alone(source, head), folder / name, place=f"FOLDER/{name}")
    first = next(iter(parts.values()))
    usage = "".join(f"## Task `{name}`\n\n{part.usage}\n" for name, part in parts.items())
    logits = np.concatenate([part.logits for part in parts.values()], axis=1)
    return first._replace(logits=logits, usage=usage)


def _write_one(source: Source, folder: Path, *, place: str) -> Written:
    """Write a policy of one task; `place` is what the README calls its folder."""
    card, pad_id = source.policy.card, source.policy.classifier.pad_id
    config = source.policy.classifier.encoder.config
    _check_room(source)
    is_modern = config.model_type == MODEL_TYPE
    if is_modern:
        check_modernbert(config)
    merged = merge(source.policy, fold_temperature=True)
    labels = {str(place): label for place, label in enumerate(card.labels)}
    write_json(folder / MAPPING_FILE, {"category_to_idx": _numbers(card), "idx_to_category": labels})
    save_tokenizer(source.policy, folder)
    if is_modern:
        write_json(folder / CONFIG_FILE, modernbert_config(merged.encoder, card))
        encoder = {f"model.{name}": tensor for name, tensor in merged.encoder.state_dict().items()}
        head = {f"classifier.{name}": tensor for name, tensor in merged.head.state_dict().items()}
        save_tensors(encoder | head, folder / WEIGHTS_FILE)
        given = by_torch(_read_modernbert(folder))
    else:
        write_json(folder / CONFIG_FILE, _graph_config(merged.encoder, card, pad_id))
        save_graph(merged, folder / ONNX_FILE, notes={}, pad_id=pad_id)
        given = by_onnxruntime(folder / ONNX_FILE)
    logits = ask(given, source.tokens, pad_id=pad_id, classes=len(card.labels)) * card.temperature
    never = "the policy itself never abstains."
    return Written(
        loader="vLLM Semantic Router, " + ("candle-binding (ModernBERT)" if is_modern else "onnx-binding"),
        computed_by="transformers and torch" if is_modern else "onnxruntime",
        logits=logits,
        temperature_folded=True,
        usage=USAGE.format(
            place=place,
            threshold=card.abstain_threshold or 0.0,
            temperature=card.temperature,
            max_tokens=card.max_tokens,
            build=_CANDLE if is_modern else _ONNX,
            abstains="that is where the policy abstains." if card.abstain_threshold is not None else never,
        ),
    )


def check_modernbert(config: transformers.PreTrainedConfig) -> None:
    """Refuse a ModernBERT whose parts the candle loader does not have.

    Raises:
        BadModelError: names the setting.
    """
    rope: dict[str, dict[str, Any]] = config.rope_parameters
    every = _global_every(config)
    kinds = ["sliding_attention" if place % every else "full_attention" for place in range(config.num_hidden_layers)]
    wanted = {
        "attention_bias": (config.attention_bias, False),
        "mlp_bias": (config.mlp_bias, False),
        "norm_bias": (config.norm_bias, False),
        "hidden_activation": (config.hidden_activation, "gelu"),
        "layer_types": (list(config.layer_types), kinds),
        **{f"rope_parameters.{kind}.rope_type": (rope[kind]["rope_type"], "default") for kind in sorted(rope)},
    }
    for name, (seen, computed) in wanted.items():
        if seen != computed:
            raise BadModelError(
                f"export semantic-router: the base model's {name} is {seen!r}, and the router's ModernBERT computes "
                f"{computed!r}; take layout onnx, or train on a base that has it"
            )


def modernbert_config(encoder: transformers.PreTrainedModel, card: PolicyCard) -> dict[str, Any]:
    """Return config.json with the names that the loader reads.

    It wants the older, flat names of ModernBERT's settings; where one of the two rope thetas is missing it would take
    the other one for both.
    """
    config = encoder.config
    rope: dict[str, dict[str, Any]] = config.rope_parameters
    return {
        **encoder_config(encoder),
        **_label_maps(card),
        "layer_norm_eps": config.norm_eps,
        "global_attn_every_n_layers": _global_every(config),
        "global_rope_theta": float(rope["full_attention"]["rope_theta"]),
        "local_rope_theta": float(rope["sliding_attention"]["rope_theta"]),
        "classifier_pooling": "mean",
    }


def _global_every(config: transformers.PreTrainedConfig) -> int:
    """Distance of the layers that attend to the whole text; the first is one of them."""
    whole = [place for place, kind in enumerate(config.layer_types) if kind == "full_attention"]
    return whole[1] - whole[0] if len(whole) > 1 else int(config.num_hidden_layers)


def _graph_config(encoder: transformers.PreTrainedModel, card: PolicyCard, pad_id: int) -> dict[str, Any]:
    """What the ONNX loader reads of config.json; the graph itself needs none of it."""
    config = encoder.config
    names = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(config, name) for name in names if getattr(config, name, None) is not None}
    longest = getattr(config, "max_position_embeddings", None) or LONGEST
    return sizes | _label_maps(card) | {"max_position_embeddings": longest, "pad_token_id": pad_id}


def _label_maps(card: PolicyCard) -> dict[str, Any]:
    names = {str(place): label for place, label in enumerate(card.labels)}
    return {"id2label": names, "label2id": _numbers(card), "num_labels": len(card.labels)}


def _numbers(card: PolicyCard) -> dict[str, int]:
    return {label: place for place, label in enumerate(card.labels)}


def _check_room(source: Source) -> None:
    """Both loaders feed up to 512 tokens; an encoder with fewer positions would fail on a long text."""
    try:
        check_positions(source.policy.classifier.encoder, max_tokens=LONGEST)
    except BadConfigError as error:
        raise BadModelError(
            f"export semantic-router: the router feeds up to {LONGEST} tokens, and the base model has fewer positions; "
            "take layout onnx, or train on a base with at least as many"
        ) from error


def _read_modernbert(folder: Path) -> Merged:
    """Read the layout's files back: transformers finds the encoder below `model.`, as the loader does."""
    tensors = load_file(folder / WEIGHTS_FILE)
    head = nn.Linear(tensors["classifier.weight"].shape[1], tensors["classifier.weight"].shape[0])
    with torch.no_grad():
        head.weight.copy_(tensors["classifier.weight"])
        head.bias.copy_(tensors["classifier.bias"])
    return Merged(load_encoder(folder), head).eval()
