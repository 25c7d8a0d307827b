"""One contender, once, in a process of its own: time, CPU time, peak memory and accuracy as one JSON line.

    python -m bench.supervised.measure CONTENDER DATA BASE TRAIN_ROWS TEST_ROWS EPOCHS

The clock runs from texts in memory to trained weights: tokenising, loading the encoder and every step; for ours also
checkpoints and the written artifact. Importing libraries, and measuring accuracy, are outside of it.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import f1_score

from bench.supervised.ours import Ours
from bench.supervised.peer import Peer
from bench.supervised.task import Hyper
from ratchet_cli.demo.dataset import choose_rows


def main() -> None:
    contender, data, base, train_rows, test_rows, epochs = sys.argv[1:]
    rows = choose_rows(Path(data), full=True)
    train, test = rows.train[: int(train_rows)], rows.test[: int(test_rows)]
    names = sorted({row.label for row in rows.train})
    hyper = Hyper(epochs=float(epochs))
    if contender == "ratchet":
        model: Ours | Peer = Ours(Path(base), names, hyper)
    else:
        model = Peer(Path(base), len(names), hyper, grouped=contender == "trainer-grouped")
    texts, labels = [row.text for row in train], [names.index(row.label) for row in train]
    with tempfile.TemporaryDirectory() as work:
        began, began_cpu = time.perf_counter(), time.process_time()
        model.train(texts, labels, Path(work))
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - began_cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        result = {
            "contender": contender,
            "examples": len(train) * hyper.epochs,
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds, 2),
            "peak_mib": round(peak),
        }
        if test:
            predicted = model.predict([row.text for row in test])
            wanted = np.array([names.index(row.label) for row in test])
            result["accuracy"] = round(float((predicted == wanted).mean()), 4)
            result["macro_f1"] = round(float(f1_score(wanted, predicted, average="macro")), 4)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
