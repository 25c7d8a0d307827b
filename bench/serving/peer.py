"""The peer, as its users write it: FastAPI and transformers.pipeline, called once per request.

    python -m bench.serving.peer MODEL PORT

The same event loop and parser as the policy server; the route is a plain function, so that FastAPI runs it in its pool
of threads and the loop stays free.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline


class Ask(BaseModel):
    text: str


def create_app(model: str) -> FastAPI:
    app = FastAPI()
    classifier = pipeline("text-classification", model=model, device="cpu")

    @app.post("/v1/classify")
    def classify(ask: Ask) -> Any:
        return classifier(ask.text)[0]

    @app.get("/readyz")
    def ready() -> str:
        return classifier("ready")[0]["label"]

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    uvicorn.run(
        create_app(sys.argv[1]),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
    )
