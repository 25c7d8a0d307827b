"""What versions of generators answer to held-out prompts, and what the answers are worth, by the stages' own functions.

Decides which rows are asked, and by whose rewards answers are judged: those of the version's own run, or of one that is
named. Nothing is fitted here. Used by evaluate and compare.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ratchet_api.answer_reward import OPTIONAL_ANSWER_REWARD_FIELDS
from ratchet_api.attempts import Artifact
from ratchet_api.feedback_dataset import SplitName
from ratchet_api.names import snapshot_prefix
from ratchet_api.stage import DatasetRef
from ratchet_api.training_run import Answers
from ratchet_cli.committed import read_committed
from ratchet_cli.errors import CliError, UsageProblem
from ratchet_cli.held_out import SPLITS
from ratchet_cli.rewarding import Rewarding
from ratchet_cli.screen import err
from ratchet_cli.texts import DEFAULT_RESPONSE_COLUMN, Source, read_source
from ratchet_cli.trained import PATIENCE_SECONDS, Unpacked, explained, unpack
from ratchet_cli.versions import Place, Version, find_version

if TYPE_CHECKING:
    from ratchet_jobs.data.demonstrations import Demonstration
    from ratchet_jobs.generators.examples import Examples
    from ratchet_jobs.metrics.classification import Floats

CARD_FILE = "policy.json"
OF_ITEMS = OPTIONAL_ANSWER_REWARD_FIELDS["catalogue"]
"""Types of rewards that know items by themselves, where no catalogue lists them."""

Prompts = Annotated[
    int | None, typer.Option("--prompts", min=2, help="Of a generator: prompts it answers. If omitted, as its run did.")
]
MaxNewTokens = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        min=1,
        max=8192,
        help="Of a generator: an answer is cut after these. If omitted, as in its run.",
    ),
]
RewardsOf = Annotated[
    str | None,
    typer.Option(
        "--rewards-of", help="Of a generator: finished run whose rewards judge the answers. If omitted, its own run."
    ),
]


@dataclass(frozen=True, slots=True)
class Shown:
    """Prompts and the answers to follow.

    Attributes:
        what: the rows in words.
        rows: at least one.
        of: digest of the snapshot that they are a split of; None = they are a file's.
    """

    what: str
    rows: list[Demonstration]
    of: str | None = None


class Said(NamedTuple):
    """A version's numbers and its N answers."""

    metrics: dict[str, float]
    examples: Examples
    answers: list[list[int]]
    lengths: list[int]
    """(N,) tokens of each answer, its end not counted."""
    texts: list[str]
    of_base: list[str]
    """The base's answers to the first of the prompts."""
    base: str
    """Digest of the base model."""
    worth: Floats | None = None
    """(N,) what each answer is worth; None = no rewards judge it."""

    @property
    def asked(self) -> list[Demonstration]:
        """The N rows that were answered."""
        return self.examples.rows[: len(self.texts)]


def is_generator(version: Version) -> bool:
    """Tell whether a version is a generator; one that cannot be read is left to whoever opens it."""
    from ratchet_jobs.models.card import policy_type_of

    try:
        return policy_type_of(read_committed(version, CARD_FILE)) == "generator"
    except (CliError, ValueError):
        return False


def refuse_generator_options(prompts: int | None, max_new_tokens: int | None, rewards_of: str | None) -> None:
    """Refuse what means nothing for a classifier.

    Raises:
        UsageProblem: one of them was given.
    """
    given = {"--prompts": prompts, "--max-new-tokens": max_new_tokens, "--rewards-of": rewards_of}
    if odd := next((name for name, value in given.items() if value is not None), None):
        raise UsageProblem(f"{odd} is for generators and this is a classifier; leave it out")


def rows_shown(version: Version, source: Source | None, split: str | None) -> Shown:
    """Return the rows of a file, or of a split of the version's own snapshot.

    Raises:
        UsageProblem: there is no such split.
        CliError: the rows cannot be read, or there are none.
    """
    if source is not None:
        named = f" where {source.split_column} is {source.split}" if source.split is not None else ""
        return Shown(f"{source.path}{named}", read_source(source).shown)
    wanted = next((each for each in SPLITS if each == (split or "test")), None)
    if wanted is None:
        raise UsageProblem(f"--split {split!r} is none of the snapshot's; use one of {', '.join(SPLITS)}")
    if version.snapshot is None:
        raise CliError(
            f"{version.title}: does not say which snapshot it was trained on; name prompts and answers by --data FILE"
        )
    digest = version.snapshot
    with explained(version.title), tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        rows = _rows_of(version, digest, wanted, into=Path(scratch) / "snapshot")
    if not rows:
        raise CliError(f"{version.title}: the {wanted} split of its snapshot has no rows; name others by --data FILE")
    return Shown(f"the {wanted} split of snapshot {digest[:12]}", rows, of=digest)


def _rows_of(version: Version, digest: str, split: SplitName, *, into: Path) -> list[Demonstration]:
    from ratchet_jobs.data.demonstrations import read_demonstrations
    from ratchet_jobs.data.snapshots import open_snapshot
    from ratchet_jobs.runtime.store import open_store

    store = open_store(version.store, patience_seconds=PATIENCE_SECONDS)
    dataset = DatasetRef(digest=digest, prefix=snapshot_prefix(version.namespace, digest))
    return read_demonstrations(open_snapshot(store, dataset, into=into), split)


def shown_source(
    path: Path, form: str | None, column: str, label_column: Sequence[str] | None, split: str | None, split_column: str
) -> Source:
    """Return a file of prompts and answers as the options of evaluate and compare name it.

    Raises:
        UsageProblem: --label-column names tasks.
    """
    values = list(label_column or (DEFAULT_RESPONSE_COLUMN,))
    if len(values) != 1 or "=" in values[0]:
        raise UsageProblem("--label-column names tasks, which a generator has not; name one column of answers")
    return Source(path, form, column, split=split, split_column=split_column, response=values[0])


def asked_of(version: Version, *, prompts: int | None, max_new_tokens: int | None) -> Answers:
    """Return how many prompts are answered how long: as the version's run did, where the command does not say."""
    run = version.answers
    return Answers(prompts=prompts or run.prompts, max_new_tokens=max_new_tokens or run.max_new_tokens)


def rewarding_by(word: str | None, version: Version, place: Place) -> tuple[Rewarding, Version] | None:
    """Return by whose rewards answers are judged, and where that run's files lie; None = by nobody's.

    Raises:
        CliError: the run that was named rewarded no answers.
    """
    judge = version if word is None else find_version(word, place)
    if judge.rewarding is None:
        if word is None:
            return None
        raise CliError(
            f"--rewards-of {word}: {judge.title} rewarded no answers; name a run of a generator with rewards"
        )
    return judge.rewarding, judge


def measure_said(
    versions: Sequence[Version],
    rows: Shown,
    *,
    asked: Answers,
    base: Path | None,
    judge: tuple[Rewarding, Version] | None,
) -> list[Said]:
    """Ask each version for every row, and judge the answers.

    Args:
        versions: generators.
        rows: on which rows.
        asked: how many prompts are answered, and how long an answer may be.
        base: folder of the base model; None = as the policies name it.
        judge: whose rewards judge them.

    Raises:
        CliError: a policy, its base or the reward model cannot be read, or do not fit each other.
    """
    stop = () if judge is None else judge[0].settings.stop or ()  # as its run drew and judged
    found: list[Said] = []
    bases: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="ratchet-") as scratch:
        for number, version in enumerate(versions):
            with explained(version.title):
                said, folders = _asked(version, rows, Path(scratch) / str(number), asked=asked, base=base, stop=stop)
            found.append(said)
            bases[said.base] = folders.base
        if judge is None:
            return found
        with explained(f"rewards of {judge[0].run}"):
            return _judged(found, bases, *judge, scratch=Path(scratch) / "judge", asked=asked)


def _asked(
    version: Version, rows: Shown, scratch: Path, *, asked: Answers, base: Path | None, stop: Sequence[str]
) -> tuple[Said, Unpacked]:
    from ratchet_jobs.generators.card import read_generator_card
    from ratchet_jobs.generators.measuring import measure_answers, work_of

    folders = unpack(version, base, scratch, base_of=lambda folder: read_generator_card(folder).base_model)
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(version.title, total=work_of(len(rows.rows), asked))
        seen = measure_answers(
            folders.policy,
            folders.base,
            rows.rows,
            asked=asked,
            batch_size=version.batch_size,
            field="--max-new-tokens",
            told=lambda count: progress.advance(task, count),
            stop_texts=stop,
        )
    base_texts = [seen.wording.text(ids) for ids in seen.of_base]
    digest = seen.card.base_model.sha256
    return Said(seen.metrics, seen.examples, seen.answers, seen.lengths, seen.texts, base_texts, digest), folders


def _judged(
    found: Sequence[Said],
    bases: dict[str, Path],
    rewarding: Rewarding,
    place: Version,
    *,
    scratch: Path,
    asked: Answers,
) -> list[Said]:
    from ratchet_jobs.data.policy_folder import fetch_policy
    from ratchet_jobs.generators.card import read_generator_card
    from ratchet_jobs.recipes.generator_parts import make_judges, reward_answers
    from ratchet_jobs.recipes.reward_files import Fetching
    from ratchet_jobs.runtime.store import open_store

    store = open_store(place.store, patience_seconds=PATIENCE_SECONDS)

    def fetched(name: str, artifact: Artifact) -> Path:
        return fetch_policy(store, artifact, namespace=place.namespace, into=scratch / name, field="artifact")

    start = fetched("start", rewarding.start)
    digest = read_generator_card(start).base_model.sha256
    if others := {said.base for said in found} - {digest}:
        raise CliError(
            f"rewards of {rewarding.run}: stand on base model {digest[:12]}…, and a version on {others.pop()[:12]}…: "
            "these rewards read its answers by other tokens; name a run on its base by --rewards-of"
        )
    worths = reward_answers(
        rewarding.settings,
        start=start,
        digest=rewarding.start.digest,
        base=bases[digest],
        judge=None if rewarding.model is None else fetched("reward-model", rewarding.model),
        answered=[(said.examples, said.answers) for said in found],
        judges=make_judges(rewarding.settings, store, place.namespace),
        mentioned=_mentioned(rewarding, place, found[0].examples.rows, into=scratch / "snapshot"),
        fetch=Fetching(store, namespace=place.namespace, into=scratch / "rewards"),
        max_new_tokens=asked.max_new_tokens,
        batch_size=place.batch_size,
        seed=rewarding.seed,
    )
    return [
        said._replace(worth=worth.total, metrics={"reward": float(worth.total.mean())} | said.metrics)
        for said, worth in zip(found, worths, strict=True)
    ]


def _mentioned(rewarding: Rewarding, place: Version, rows: Sequence[Demonstration], *, into: Path) -> frozenset[str]:
    """The items that the rewards knew in their run: those that its train split mentions, if they need any.

    Args:
        rewarding: whose rewards judge.
        place: that run, and its snapshot; a run without one knew the items of the rows that are asked.
        rows: that are asked.
        into: folder for the snapshot.
    """
    from ratchet_jobs.recipes.generator_parts import mentioned_by

    if not any(each.type in OF_ITEMS and each.catalogue is None for each in rewarding.settings.rewards):
        return frozenset()
    return mentioned_by(rows if place.snapshot is None else _rows_of(place, place.snapshot, "train", into=into))
