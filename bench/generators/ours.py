"""The policy server as deployed, on a model folder: python -m bench.generators.ours MODEL PORT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from ratchet_jobs.generators.loading import eos_of, load_base
from ratchet_jobs.generators.templates import load_wording
from ratchet_serving.loading import LoadedGenerator
from ratchet_serving.serving import listen, parts_of, serve
from ratchet_serving.settings import Settings

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    model = load_base(folder)
    settings = Settings(policy="helper", port=port, log_level="warning")
    loaded = LoadedGenerator(model, load_wording(folder, eos_id=eos_of(model)))
    serve(settings, parts_of(settings, loaded, digest=""), door=listen(settings.host, port))
