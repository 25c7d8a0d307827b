"""The policy server as deployed, on a policy in a local folder: python -m bench.serving.ours POLICY BASE PORT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from ratchet_jobs.models.classifier import load_classifier
from ratchet_serving.serving import listen, parts_of, serve
from ratchet_serving.settings import Settings

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    policy, base, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = Settings(policy="router", port=port, log_level="warning")
    parts = parts_of(settings, load_classifier(policy, base), digest="")
    serve(settings, parts, door=listen(settings.host, port))
