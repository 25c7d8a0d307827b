"""Exports a policy: writes a layout, checks that it computes the policy, and records what it is.

1 compute the policy's own logits on the texts
2 write the layout's files into a folder beside the target
3 compute the logits that these files give, and refuse a difference beyond the tolerance
4 write README.md and ratchet_export.json; only then does the folder take the target's place

Never talks to a store or a network. Called by `ratchet export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ratchet_api import __version__
from ratchet_api.stage import artifact_digest
from ratchet_jobs.data.policy_folder import digests_of
from ratchet_jobs.export import record
from ratchet_jobs.export.layout import BATCH_SIZE, Layout, Source, Written
from ratchet_jobs.export.lora import write_lora
from ratchet_jobs.export.merged import write_merged
from ratchet_jobs.export.onnx_graph import write_onnx
from ratchet_jobs.export.parity import check_parity
from ratchet_jobs.export.record import README_FILE, RECORD_FILE, ExportRecord, TaskRecord
from ratchet_jobs.export.semantic_router import write_semantic_router
from ratchet_jobs.export.writing import whole_folder
from ratchet_jobs.models.card import Fit, PolicyCard
from ratchet_jobs.models.classifier import load_classifier
from ratchet_jobs.models.inference import predict_logits
from ratchet_jobs.models.tokenizing import tokenize

WRITERS: Mapping[record.Layout, Layout] = {
    "merged": write_merged,
    "lora": write_lora,
    "onnx": write_onnx,
    "semantic-router": write_semantic_router,
}


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a policy comes from.

    Attributes:
        title: how the command line named it.
        digest: of its committed files.
        snapshot: digest of the rows that it was trained on, if known.
    """

    title: str
    digest: str
    snapshot: str | None


def export_policy(
    folder: Path,
    base: Path,
    *,
    layout: record.Layout,
    target: Path,
    force: bool,
    texts: Sequence[str],
    which: str,
    provenance: Provenance,
) -> ExportRecord:
    """Export a policy.

    Args:
        folder: its committed files.
        base: folder of its base model.
        layout: what to write.
        target: the folder that it becomes.
        force: whether an earlier export there is replaced.
        texts: at least one; the export is checked on them.
        which: where they come from, for the record.
        provenance: for the record.

    Raises:
        BadConfigError: the target must not be written, or the extra `export` is missing.
        BadModelError: the files cannot be read, the layout cannot hold this base, or what was written computes
            something else.
    """
    policy = load_classifier(folder, base)
    tokens = tokenize(policy.tokenizer, texts)
    own = predict_logits(policy.classifier, tokens, batch_size=BATCH_SIZE, after_batch=lambda _: None)
    with whole_folder(target, force=force) as partial:
        written = WRITERS[layout](Source(policy, folder, base, tokens), partial)
        parity = check_parity(own, written.logits, which=which, computed_by=written.computed_by, layout=layout)
        text = _readme(policy.card, layout, written, provenance)
        (partial / README_FILE).write_text(text, encoding="utf-8")
        files = digests_of(partial)
        result = ExportRecord(
            layout=layout, loader=written.loader, version=provenance.title, policy_digest=provenance.digest,
            snapshot=provenance.snapshot, base_model=policy.card.base_model, labels=policy.card.labels,
            tasks=_tasks(policy.card),
            max_tokens=policy.card.max_tokens, temperature=policy.card.temperature,
            temperature_folded=written.temperature_folded, abstain_threshold=policy.card.abstain_threshold,
            parity=parity, ratchet_version=__version__, digest=artifact_digest(files), files=files,
        )  # fmt: skip
        (partial / RECORD_FILE).write_text(result.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n")
    return result


def _tasks(card: PolicyCard) -> tuple[TaskRecord, ...] | None:
    if card.tasks is None:
        return None
    return tuple(
        TaskRecord(
            name=task.name, first_column=task.start, labels=task.plain_labels, temperature=fit.temperature,
            abstain_threshold=fit.threshold,
        )
        for task, fit in card.heads
    )  # fmt: skip


def _readme(card: PolicyCard, layout: record.Layout, written: Written, provenance: Provenance) -> str:
    of_one = card.tasks is None
    heads = "one linear head" if of_one else f"{len(card.heads)} linear heads, one per task"
    fits = "".join(_calibration("" if of_one else f"{task.name}: ", fit, written) for task, fit in card.heads)
    labels = "\n".join(f"{place}. {_plain(label)}" for place, label in enumerate(card.labels))
    return f"""\
# {_plain(provenance.title)}, exported as `{layout}`

A text classifier: encoder, mean over the last hidden states of the real tokens, {heads}, softmax. Loaded by
{written.loader}. `{RECORD_FILE}` holds the same facts for programs.

{written.usage}
| | |
| --- | --- |
{fits}| tokens | texts are cut at {card.max_tokens} |
| base model | {_plain(card.base_model.uri)}, sha256 {card.base_model.sha256} |
| policy | sha256 {provenance.digest} |

Classes, by their column{"" if of_one else " of all tasks side by side"}:

{labels}
"""


def _calibration(task: str, fit: Fit, written: Written) -> str:
    threshold = "never" if fit.threshold is None else f"below a probability of {fit.threshold:.6g}"
    folded = ", folded into the head" if written.temperature_folded else ""
    return f"| {task}temperature | {fit.temperature:.6g}{folded} |\n| {task}abstains | {threshold} |\n"


def _plain(text: str) -> str:
    """Text of a user's in Markdown: one line, and no markup of its own."""
    line = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#&" else letter for letter in line)
