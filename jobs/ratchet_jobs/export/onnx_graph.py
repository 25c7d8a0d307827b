"""`onnx`: one graph from token ids to logits, batch and length free, checked by ONNX Runtime.

Of several tasks the graph has one output each: a reader asks for those that it wants.

Decides names, opset and metadata of the graph. Every note of this machine (source files, stack traces) is taken out.
The three libraries come with the extra `export` and are loaded on first use.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ratchet_api.tasks import Task
from ratchet_jobs.export.layout import Forward, Source, Written, ask, save_tokenizer
from ratchet_jobs.export.merging import Merged, merge
from ratchet_jobs.export.several_tasks import softmax_by_numpy
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError

if TYPE_CHECKING:
    import onnx

ONNX_FILE = "model.onnx"
INPUTS, OUTPUT = ("input_ids", "attention_mask"), "logits"
"""With several tasks the outputs are called logits_TASK."""
OPSET = 18
_LARGEST_BYTES = 2**31 - 1
"""What one protobuf file can hold."""

USAGE = """\
```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file(f"{{FOLDER}}/tokenizer.json")    # cuts to {max_tokens} tokens
tokenizer.enable_padding(pad_id={pad_id}, pad_token="{pad_token}")
rows = tokenizer.encode_batch(texts)
session = onnxruntime.InferenceSession(f"{{FOLDER}}/model.onnx")
feeds = {{
    "input_ids": np.array([row.ids for row in rows], dtype=np.int64),
    "attention_mask": np.array([row.attention_mask for row in rows], dtype=np.int64),
}}
{answer}
```

The graph's metadata (`session.get_modelmeta().custom_metadata_map`) holds {notes} as JSON.
"""


_ONE = """\
(logits,) = session.run(["logits"], feeds)                     # (texts, classes)
{softmax}"""

_BY_TASK = """\
temperatures = {temperatures}
probabilities = {{}}
for task, logits in zip(temperatures, session.run([f"logits_{{task}}" for task in temperatures], feeds), strict=True):
    scaled = np.exp((logits - logits.max(1, keepdims=True)) / temperatures[task])    # (texts, classes of the task)
    probabilities[task] = scaled / scaled.sum(1, keepdims=True)"""


class PerTask(nn.Module):
    """The same with one output per task, (B, classes of the task)."""

    def __init__(self, merged: Merged, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.merged = merged
        self.tasks = tuple(tasks)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits of each task."""
        logits = self.merged(input_ids, attention_mask)
        return tuple(logits[:, task.start : task.stop] for task in self.tasks)


def write_onnx(source: Source, folder: Path) -> Written:
    """Write the layout."""
    card, pad_id = source.policy.card, source.policy.classifier.pad_id
    merged = merge(source.policy, fold_temperature=False)
    tasks = [head.task for head in card.heads] if card.tasks is not None else None
    save_graph(merged, folder / ONNX_FILE, notes=_notes(card), pad_id=pad_id, tasks=tasks)
    save_tokenizer(source.policy, folder)
    return Written(
        loader="onnxruntime",
        computed_by=f"onnxruntime {_version('onnxruntime')}",
        logits=ask(by_onnxruntime(folder / ONNX_FILE), source.tokens, pad_id=pad_id, classes=len(card.labels)),
        temperature_folded=False,
        usage=USAGE.format(
            max_tokens=card.max_tokens,
            pad_id=pad_id,
            pad_token=source.policy.tokenizer.id_to_token(pad_id),
            answer=_usage(card),
            notes=", ".join(_notes(card)),
        ),
    )


def _usage(card: PolicyCard) -> str:
    """Lines from `session` and `feeds` to `probabilities`."""
    if card.tasks is None:
        return _ONE.format(softmax=softmax_by_numpy(card))
    return _BY_TASK.format(temperatures={task.name: fit.temperature for task, fit in card.heads})


def save_graph(
    merged: Merged, path: Path, *, notes: dict[str, str], pad_id: int, tasks: Sequence[Task] | None = None
) -> None:
    """Write the graph as one file.

    Args:
        merged: on the CPU.
        path: of the file.
        notes: the graph's metadata.
        pad_id: a token that exists, for the example that the graph is traced with.
        tasks: of which each becomes an output; None = one output with all logits.

    Raises:
        BadConfigError: the extra `export` is not installed.
        BadModelError: the encoder cannot be traced, or is too large for one file.
    """
    onnx, *_ = (_library(name) for name in ("onnx", "onnxscript", "onnxruntime"))  # all of them before any work
    size = sum(tensor.numel() for tensor in merged.state_dict().values()) * 4
    if size > _LARGEST_BYTES:
        raise BadModelError(f"export onnx: {size} bytes of weights do not fit one ONNX file; take layout merged")
    example = (torch.full((2, 7), pad_id, dtype=torch.int64), torch.ones((2, 7), dtype=torch.int64))
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2)
    free = {0: batch, 1: length}
    graph, outputs = (PerTask(merged, tasks), _outputs(tasks)) if tasks is not None else (merged, [OUTPUT])
    try:
        with _quiet():
            program = torch.onnx.export(
                graph, example, input_names=list(INPUTS), output_names=outputs, opset_version=OPSET,
                dynamo=True, dynamic_shapes=(free, free), external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter wraps whatever an architecture stumbles over
        first = str(error).strip().splitlines()[0]
        kind = merged.encoder.config.model_type
        raise BadModelError(f"export onnx: {kind} cannot be traced: {first}; take layout merged") from error
    assert program is not None, "with dynamo the exporter returns the program"
    model = _cleaned(program.model_proto)
    onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def by_onnxruntime(path: Path) -> Forward:
    """The forward pass that ONNX Runtime computes from a graph's file; the logits of several tasks side by side."""
    onnxruntime = _library("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(input_ids: NDArray[np.int64], token_mask: NDArray[np.int64]) -> NDArray[np.float32]:
        outputs = session.run(None, dict(zip(INPUTS, (input_ids, token_mask), strict=True)))
        logits: NDArray[np.float32] = np.concatenate(outputs, axis=1)
        return logits

    return forward


def _outputs(tasks: Sequence[Task]) -> list[str]:
    return [f"{OUTPUT}_{task.name}" for task in tasks]


def _notes(card: PolicyCard) -> dict[str, str]:
    if card.tasks is None:
        notes: dict[str, Any] = {"labels": list(card.labels), "temperature": card.temperature}
        notes |= {"max_tokens": card.max_tokens, "abstain_threshold": card.abstain_threshold}
    else:
        tasks = {
            task.name: {"labels": list(task.plain_labels), "temperature": fit[0], "abstain_threshold": fit[1]}
            for task, fit in card.heads
        }
        notes = {"tasks": tasks, "max_tokens": card.max_tokens}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in notes.items()}


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out the exporter's notes: they name files and lines of this machine."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    return model


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BadConfigError(f"export onnx: the package {error.name} is missing; install ratchet[export]") from error


def _version(name: str) -> str:
    return str(_library(name).__version__)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter and its decompositions chatter about torch's own deprecations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
