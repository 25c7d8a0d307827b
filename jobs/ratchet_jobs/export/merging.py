"""The policy without adapters: the encoder with LoRA's products added to its weights, and the linear head.

Decides how adapters are merged and which numbers the head has once the temperature is folded in. Called by the layouts.
"""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from ratchet_jobs.models.classifier import Classifier, LoadedPolicy

WEIGHTS_FILE = "model.safetensors"


class Merged(nn.Module):
    """Encoder, mean over real tokens, head: what every exported layout computes.

    Notation: B examples, T tokens, D hidden size, C classes.
    """

    def __init__(self, encoder: transformers.PreTrainedModel, head: nn.Linear) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (B, C) of token ids (B, T); attention_mask is 1 for a real token, and each row has one."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state  # (B, T, D)
        weight = attention_mask.to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
        logits: Tensor = self.head((hidden * weight).sum(1) / weight.sum(1))
        return logits


def merge(policy: LoadedPolicy, *, fold_temperature: bool) -> Merged:
    """Merge the adapters into the encoder. The policy's classifier is used up.

    Args:
        policy: on the CPU, in float32.
        fold_temperature: whether the head is divided by the temperature, so that softmax(logits) is calibrated.
    """
    classifier: Classifier = policy.classifier
    encoder = classifier.encoder.merge_and_unload()
    scale = policy.card.temperature if fold_temperature else 1.0
    head = nn.Linear(classifier.head.in_features, classifier.head.out_features)
    with torch.no_grad():
        head.weight.copy_(classifier.head.weight / scale)
        head.bias.copy_(classifier.head.bias / scale)
    return Merged(encoder, head).eval().requires_grad_(False)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write one safetensors file; float32, on the CPU, nothing shared."""
    plain = {name: tensor.detach().to("cpu", torch.float32).contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
