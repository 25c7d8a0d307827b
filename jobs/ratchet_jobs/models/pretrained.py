"""A base model's weights from its folder: safetensors only, local files only, never code that came with them.

Decides what a folder must have to be a base. Never which architecture is wanted: who calls says that. Called by the
classifier and the generators.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from ratchet_jobs.runtime.errors import BadModelError


def read_pretrained(
    folder: Path,
    auto: Any,
    *,
    wanted: str,
    check: Callable[[transformers.PretrainedConfig], None],
    spare: str | None = None,
) -> transformers.PreTrainedModel:
    """Read a model in float32.

    Args:
        folder: with config.json and *.safetensors.
        auto: transformers' class that finds the architecture, such as `AutoModel`.
        wanted: what to give instead of a folder that cannot be read.
        check: raises BadModelError for a config.json of another architecture, before any weight is read.
        spare: tensors with this in their names may be missing.

    Raises:
        BadModelError: no safetensors, unknown or unwanted architecture, or missing weights.
    """
    if not list(folder.glob("*.safetensors")):
        found = ", ".join(sorted(entry.name for entry in folder.iterdir())) or "nothing"
        raise BadModelError(f"baseModel: no *.safetensors (found: {found}); convert the weights to safetensors")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        check(config)
        model, notes = auto.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModelError(f"baseModel: transformers cannot load it: {first}; give {wanted}") from error
    if missing := sorted(name for name in notes["missing_keys"] if spare is None or spare not in name):
        raise BadModelError(
            f"baseModel: {len(missing)} tensors are missing in its safetensors, first {missing[0]}; "
            "give the weights that config.json describes"
        )
    read: transformers.PreTrainedModel = model
    return read
