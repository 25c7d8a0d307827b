"""Generators that are functions of what they are for, so that resuming at update 7 draws what update 7 would have.

No state has to be saved: the same run seed and purpose give the same stream on every machine and Python.
"""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator of its own.

    Args:
        seed: of the run.
        purpose: what the draws are for, such as ("minibatches", update, epoch); another purpose, another stream.
        device: where the draws happen; streams differ between kinds of device.
    """
    text = "/".join([str(seed), *map(str, purpose)])
    generator = torch.Generator(device=device)
    # 63 bits: manual_seed takes a signed number
    generator.manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)
    return generator
