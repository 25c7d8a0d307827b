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
    generator = torch.Generator(device=device)
    generator.manual_seed(seed_for(seed, *purpose))
    return generator


def seed_for(seed: int, *purpose: str | int) -> int:
    """A seed of its own for a purpose, where no generator can be handed over; from 0 to 2^63 - 1."""
    text = "/".join([str(seed), *map(str, purpose)])
    # 63 bits: manual_seed takes a signed number
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
