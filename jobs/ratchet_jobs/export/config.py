"""The encoder's configuration as other programs read it, without the folder that it was read from.

Called by the layouts that hold an encoder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers

CONFIG_FILE = "config.json"
_OURS = ("_name_or_path", "_attn_implementation", "_attn_implementation_internal", "transformers_weights")
"""Notes of the loading process: a local folder and a choice of this machine."""


def encoder_config(encoder: transformers.PreTrainedModel) -> dict[str, Any]:
    """Return config.json's content; `architectures` names the bare encoder, which is what the weights are."""
    config = encoder.config.to_dict()
    for name in _OURS:
        config.pop(name, None)
    return {**config, "architectures": [type(encoder).__name__], "dtype": "float32"}


def write_json(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON for people and programs: sorted, indented, ending in a line break."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
