"""The base model as a folder of safetensors, made of its GGUF file. Runs in the peer's environment, which has gguf.

Stored in bfloat16, which is more than its four bits; all contenders read it into float32.

python -m bench.ppo.convert GGUF FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers


def main() -> None:
    source, folder = (Path(argument) for argument in sys.argv[1:])
    place, name = str(source.parent), source.name
    read = transformers.AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    if hasattr(read.config, "quantization_config"):
        del read.config.quantization_config
    # a model that was read from GGUF refuses to be saved; one of the same weights does not
    model = transformers.AutoModelForCausalLM.from_config(read.config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, gguf_file=name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
