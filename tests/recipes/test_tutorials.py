"""Every tutorial, typed from top to bottom into one shell: each command works, and prints what the page shows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.tutorials import FOLDER, ON_A_CLUSTER, UNSET, Typist, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = sorted(page for page in FOLDER.glob("*.md") if page.stem not in ON_A_CLUSTER)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_does_what_it_says_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    with Typist(page, tmp_path, environment) as typist:
        assert sum(bool(step.shown) for step in typist.steps) >= 4
        wrong = typist.type_until(patience_seconds=850)
        assert len(typist.printed) == len(typist.steps)
    assert wrong == {}, "\n".join(typist.printed)


def test_a_page_is_left_to_the_cluster_only_if_it_exists() -> None:
    assert {page.stem for page in FOLDER.glob("*.md")} > ON_A_CLUSTER


def test_output_that_a_page_only_claims_is_noticed() -> None:
    printed = "rl  0.912 better\nversion 2 published at /tmp/x/1-abcdef0123456\n"
    assert missing("rl 0.4 better\nversion 1 published at …\n", printed) == []
    assert missing("rl 0.4 worse\n", printed) == ["rl # worse"]
    assert missing("version 2 published at …\nrl 0.9 better\n", printed) == ["rl # better"], "in this order"
