"""The evaluation's report: everything measured, nothing executed, nothing fetched, and never a failed stage."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ratchet_jobs.report import page, sections
from ratchet_jobs.report.charts import learning_curves, reliability_diagram
from ratchet_jobs.report.drawing import LIGHT, inline_svg, save_plot
from ratchet_jobs.report.page import CLASSIFIER, write_report
from tests.report_case import BROKEN, GATES, report_of, rl_history, write_evaluation

HOSTILE = ("<script>alert(1)</script>", 'x" onload="alert(2)', "$\\frac{broken$", "\u202eevil\x07", "日本 <b>&amp;")


class Page(HTMLParser):
    """What a browser would see: elements with attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def named(self, *tags: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.elements if tag in tags)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report_of(tmp_path_factory.mktemp("case") / "whole", gates=GATES)


def test_the_page_has_every_section_and_the_numbers_of_the_documents(text: str, tmp_path: Path) -> None:
    output, _ = write_evaluation(tmp_path, gates=GATES)
    evaluation, comparison = (
        json.loads((output / f"{name}.json").read_text()) for name in ("evaluation", "comparison")
    )
    seen = Page(text).text
    for title, _ in sections.SECTIONS:
        assert title in seen
    assert "What RL made was committed: accuracy" in seen
    difference = comparison["rl_against_baseline"]["accuracy"]
    assert f"{difference['difference']:+.4f} {difference['low']:+.4f} to {difference['high']:+.4f}" in seen
    for policy in (evaluation, comparison["policies"]["supervised"], comparison["champion"]):
        assert f"{policy['metrics']['accuracy']:.4f}" in seen
    assert "accuracy >= 0.5" in seen
    assert "f1 of 'card' >= 0.4" in seen
    assert "2 of 2 gates hold." in seen
    assert "hyper.rewards[0].type accuracy" in seen
    assert "minTextChars 3" in seen
    assert "d" * 64 in seen


def test_every_number_of_the_history_has_a_learning_curve_each_reward_its_line(text: str) -> None:
    page_seen = Page(text).text
    names = {"policy_loss", "value_loss", "entropy", "approx_kl", "clipfrac", "explained_variance"}
    charts = {chart.title: chart for chart in learning_curves(rl_history(60).columns(), unit="rollout")}
    assert names | {"avg_return", "best_return", "reward", "accuracy"} <= charts.keys()
    assert all(name in page_seen for name in charts)
    svg = inline_svg(charts["reward"].draw, alt="", salt="")
    assert ">accuracy</text>" in svg
    assert ">calibration</text>" in svg
    assert "calibration 0.5" in charts["reward"].alt


def test_a_hostile_label_is_text_and_nothing_else(tmp_path: Path) -> None:
    text = report_of(tmp_path, labels=HOSTILE)
    seen = Page(text)
    assert not list(seen.named("script", "iframe", "object", "embed", "link", "img", "b", "form"))
    attributes = {name for _, found in seen.elements for name in found}
    assert not {name for name in attributes if name.startswith("on")}
    assert "<script>alert(1)</script>" in seen.text, "shown as it is called"
    assert "$\\frac{broken$" in seen.text
    assert "could not be" not in seen.text


def test_the_page_needs_nothing_beside_it_and_forbids_what_it_does_not_need(text: str) -> None:
    seen = Page(text)
    policy = next(found for found in seen.named("meta") if found.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'; style-src 'unsafe-inline'")
    targets = [found.get(name) or "" for _, found in seen.elements for name in ("src", "href", "xlink:href")]
    assert all(target.startswith("#") for target in targets if target)
    assert not re.search(r"url\((?!#)|@import", text)


def test_the_page_is_readable_without_seeing_it(text: str) -> None:
    seen = Page(text)
    plots = list(seen.named("svg"))
    assert len(plots) > 15
    assert all(found["role"] == "img" and len(found["aria-label"] or "") > 20 for found in plots)
    assert all(found.get("scope") in ("col", "row") for found in seen.named("th"))
    assert len(list(seen.named("caption"))) == len(list(seen.named("table")))
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= level + 1 for level, later in pairwise(levels))
    assert next(seen.named("html")) == {"lang": "en"}
    assert next(found for found in seen.named("meta") if found.get("name") == "viewport")


def test_no_two_things_of_the_page_have_one_id_and_every_reference_leads_somewhere(text: str) -> None:
    ids = Counter(found["id"] for _, found in Page(text).elements if "id" in found)
    assert [name for name, count in ids.items() if count > 1] == []
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text))
    assert used
    assert used <= ids.keys()


def test_plots_take_their_colours_from_the_page_in_light_and_dark(text: str) -> None:
    assert "prefers-color-scheme: dark" in text
    assert "var(--s1)" in text
    assert not re.search(r"#0[12]030\d|#01020\d", text), "no stand-in colour is left"
    assert not re.search(r"(?:fill|stroke): ?#(?!none)", text), "no colour that only one theme can show"


def test_equal_evidence_gives_equal_bytes(tmp_path: Path, text: str) -> None:
    assert report_of(tmp_path / "again", gates=GATES) == text


def test_a_policy_that_was_measured_alone_has_no_comparison_and_its_broken_gate_is_told(tmp_path: Path) -> None:
    seen = Page(report_of(tmp_path, with_rl=False, gates=[*GATES, BROKEN])).text
    assert "Comparison" not in seen
    assert "2 of 3 gates hold." in seen
    assert re.search(r"ece <= 0\.0001 0\.\d{4} does not hold", seen)
    assert "Confusion matrix" in seen


def test_a_champion_that_is_absent_and_a_refused_policy_are_said_to_be(tmp_path: Path) -> None:
    seen = Page(report_of(tmp_path, champion=False, gates=[BROKEN])).text
    assert "RL was refused; the supervised policy was committed: ece is" in seen
    assert "The champion is not compared: the policy had no champion when the run started." in seen


def test_of_many_classes_the_pairs_confused_most_are_shown_and_the_page_stays_small(tmp_path: Path) -> None:
    text = report_of(tmp_path, labels=[f"intent number {number}" for number in range(400)], with_rl=False)
    assert len(text.encode()) < 1_500_000
    seen = Page(text).text
    assert "Most confused pairs" in seen
    assert "Confusion matrix" not in seen
    assert "150 better classes are left out" in seen


def test_each_of_several_tasks_has_its_own_calibration_and_confusion(tmp_path: Path) -> None:
    output, arguments = write_evaluation(tmp_path, with_rl=False)
    one = json.loads((output / "evaluation.json").read_text())
    whole = {name: one[name] for name in ("metrics", "labels", "per_class", "candidate", "snapshot")}
    (output / "evaluation.json").write_text(json.dumps(whole | {"tasks": {"topic": one, "tone": one}}))
    write_report(output, CLASSIFIER, **arguments)
    seen = Page((output / "report.html").read_text()).text
    for words in (
        "Confusion matrix of topic",
        "Confusion matrix of tone",
        "topic: Expected calibration error",
        "Tasks",
    ):
        assert words in seen
    assert "could not be" not in seen


def test_a_plot_that_cannot_be_drawn_says_so_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise ValueError("no ink")

    monkeypatch.setattr(page, "inline_svg", broken)
    seen = Page(report_of(tmp_path)).text
    assert "This plot could not be drawn: ValueError: no ink" in seen
    assert "Confusion matrix" in seen


def test_a_section_that_cannot_be_made_costs_the_others_nothing(tmp_path: Path) -> None:
    output, arguments = write_evaluation(tmp_path)
    evaluation = json.loads((output / "evaluation.json").read_text())
    del evaluation["reliability"]
    (output / "evaluation.json").write_text(json.dumps(evaluation))
    write_report(output, CLASSIFIER, **arguments)
    seen = Page((output / "report.html").read_text()).text
    assert "This section could not be made: KeyError: 'reliability'" in seen
    assert "Confusion matrix" in seen


def test_a_report_that_cannot_be_written_is_logged_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    output, arguments = write_evaluation(tmp_path)
    (output / "evaluation.json").unlink()
    write_report(output, CLASSIFIER, **arguments)
    assert not (output / "report.html").exists()
    printed = capsys.readouterr()  # or logged, where a test before this one set logs up as a program does
    assert "the report could not be written" in printed.out + printed.err + caplog.text


def test_a_plot_is_saved_as_a_picture_or_as_a_drawing_with_colours_of_its_own(tmp_path: Path) -> None:
    bins = [{"confidence": 0.5, "accuracy": 0.4, "rows": 3, "low": 0, "high": 1}]
    chart = reliability_diagram({"calibrated": bins, "uncalibrated": bins})
    save_plot(chart.draw, tmp_path / "a.png")
    save_plot(chart.draw, tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "a.svg").read_text()
    assert LIGHT.series[0] in svg
    assert "var(" not in svg
