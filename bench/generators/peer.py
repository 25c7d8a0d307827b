"""The peer, as its users write it: FastAPI, `model.generate` for each request, transformers' own streamer.

    python -m bench.generators.peer MODEL PORT AT_ONCE

AT_ONCE requests run at a time, in threads; the others wait. One is the least work, many is what FastAPI does by itself;
the bench counts the better one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


class Ask(BaseModel):
    prompt: str
    max_tokens: int
    temperature: float
    stream: bool


def create_app(folder: str, *, at_once: int) -> FastAPI:
    app = FastAPI()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    turn = threading.Semaphore(at_once)

    def answer(ask: Ask) -> Iterator[str]:
        with turn:
            encoded = tokenizer(ask.prompt, return_tensors="pt", return_token_type_ids=False)
            streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
            options = {"max_new_tokens": ask.max_tokens, "do_sample": False, "streamer": streamer}
            work = threading.Thread(target=model.generate, kwargs={**encoded, **options})
            work.start()
            for text in streamer:
                if text:
                    yield f"data: {json.dumps({'choices': [{'text': text}]})}\n\n"
            work.join()
        yield "data: [DONE]\n\n"

    @app.post("/v1/completions")
    def complete(ask: Ask) -> StreamingResponse:
        return StreamingResponse(answer(ask), media_type="text/event-stream")

    @app.get("/readyz")
    def ready() -> str:
        return "".join(answer(Ask(prompt="w5", max_tokens=2, temperature=0, stream=True)))

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    uvicorn.run(
        create_app(sys.argv[1], at_once=int(sys.argv[3])),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_config=None,
    )
