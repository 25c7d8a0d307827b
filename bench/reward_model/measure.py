"""One contender, once, in a process of its own: time, memory and how well it orders held-out texts, as one JSON line.

    python -m bench.reward_model.measure CONTENDER RATINGS BASE SEED EFFORT THREADS

The clock runs from texts in memory to a model that can be asked: tokenising, loading the encoder, every step and, of
ours, calibration. Importing libraries, and scoring the held-out texts, are outside of it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bench.reward_model.contenders import CONTENDERS
from bench.reward_model.task import GAPS, pair_accuracy, parted, read_ratings
from ratchet_jobs.metrics.classification import expected_calibration_error


def main() -> None:
    contender, folder, base, seed, effort, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    train, held_out = parted(read_ratings(Path(folder)))
    began, began_cpu = time.perf_counter(), time.process_time()
    score = CONTENDERS[contender](Path(base), train, seed=int(seed), effort=float(effort))
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
    scores, means = score([each.text for each in held_out]), np.array([each.mean for each in held_out])
    found = {
        "contender": contender,
        "seed": int(seed),
        "train": len(train),
        "held_out": len(held_out),
        "seconds": round(seconds),
        "cpu_seconds": round(cpu_seconds),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **{f"pairs_{gap:g}": round(pair_accuracy(scores, means, gap=gap), 4) for gap in GAPS},
    }
    if contender == "ratchet":  # the others' numbers are on no scale
        meant = np.array([each.score for each in held_out])
        found["ece"] = round(expected_calibration_error(scores, meant, bins=10), 4)
        found["lowest"], found["highest"] = round(float(scores.min()), 3), round(float(scores.max()), 3)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
