"""The runner behind `make test` counts right, refuses unknown tiers, and CI does not accept a skipped cluster test."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.tools import suite
from tests.tools.files import ROOT


@pytest.mark.parametrize(
    ("wanted", "want_tiers"),
    [
        pytest.param(None, suite.TIERS, id="unset means all"),
        pytest.param("", suite.TIERS, id="empty means all"),
        pytest.param("world unit", ("unit", "world"), id="the order is fixed"),
        pytest.param("e2e,unit", ("unit", "e2e"), id="commas are fine"),
    ],
)
def test_tiers_are_selected_by_name(wanted: str | None, want_tiers: tuple[str, ...]) -> None:
    assert suite.selected_tiers(wanted) == want_tiers


def test_an_unknown_tier_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="TIERS names smoke, which is no tier; the tiers are: unit world"):
        suite.selected_tiers("unit smoke")


def test_junit_errors_count_as_failures(tmp_path: Path) -> None:
    report = tmp_path / "r.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="m" name="a"/><testcase/><testcase><failure/></testcase>'
        '<testcase classname="m" name="b"><error/></testcase><testcase><skipped/></testcase></testsuite></testsuites>'
    )
    assert suite.read_junit(report) == (["m::a", "::"], ["::", "m::b"], 1)


def test_a_tier_without_a_test_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tests" / "empty").mkdir(parents=True)
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    result = suite.run_tier("empty", tmp_path)
    assert (result.passed, result.failed) == (0, 1)


def _tier(root: Path, body: str) -> None:
    folder = root / "tests" / "some"
    folder.mkdir(parents=True)
    (folder / "test_some.py").write_text(body)


def test_what_failed_beside_others_and_passes_alone_is_no_failure_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    marker = tmp_path / "second"
    _tier(
        tmp_path,
        f"""
from pathlib import Path

def test_race():
    marker = Path({str(marker)!r})
    if not marker.exists():
        marker.touch()
        raise AssertionError

def test_broken():
    raise AssertionError

def test_right():
    pass
""",
    )
    first = suite.run_tier("some", tmp_path)
    assert (first.passed, first.failed) == (1, 2)
    after = suite.try_again([suite.Result("mypy", 1.0, failed=1), first], tmp_path)
    assert [(each.name, each.passed, each.failed) for each in after] == [
        ("mypy", 0, 1),
        ("tests/some", 2, 1),
        ("tests/some, what failed again", 0, 0),
    ]
    suite.print_summary(after, seconds=2.0)
    out = capsys.readouterr().out.splitlines()
    assert out[-2:] == [
        "failed beside the other lane and passed alone: tests.some.test_some::test_race",
        "2 passed, 2 failed, 0 skipped",
    ]


def test_where_many_fail_nothing_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "run_tier", lambda *_args, **_options: pytest.fail("it was tried again"))
    many = suite.Result("tests/unit", 1.0, passed=9, failed=suite.FEW + 1)
    assert suite.try_again([many], tmp_path) == [many]


def test_a_crash_is_no_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    _tier(tmp_path, "import os\n\ndef test_crash():\n    os._exit(3)\n")
    first = suite.run_tier("some", tmp_path)
    assert (first.passed, first.failed) == (0, 1)
    assert [each.failed for each in suite.try_again([first], tmp_path)] == [1, 0]


def test_a_check_that_fails_counts_as_one_failure() -> None:
    assert suite.run_check("no", ("false",)).failed == 1
    assert suite.run_check("yes", ("true",)).passed == 1


def test_the_closing_line_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    suite.print_summary([suite.Result("a", 60.0, passed=2), suite.Result("b", 30.0, failed=1, skipped=3)], seconds=90.0)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "2 passed, 1 failed, 3 skipped"
    assert "1.5" in out


def test_what_waits_runs_beside_what_computes(tmp_path: Path) -> None:
    waiting, computing = suite.lanes(("unit", "contract", "e2e"), tmp_path, checks=True)
    assert (len(waiting), len(computing)) == (3, len(suite.CHECKS) + 1), "set-up, contract and e2e; checks and unit"
    together = threading.Barrier(2, timeout=60)

    def meets(name: str) -> suite.Phase:
        return lambda: suite.Result(name, float(together.wait() >= 0))

    results = suite.run_lanes([meets("a"), meets("b")], [meets("c"), meets("d")])
    assert [result.name for result in results] == ["a", "b", "c", "d"]


def test_a_phase_behind_prints_all_it_said_once_it_ended(capfd: pytest.CaptureFixture[str]) -> None:
    assert suite.run_check("both", ("sh", "-c", "echo one; echo two >&2; exit 3"), behind=True).failed == 1
    assert capfd.readouterr().out == "\n\n=== both: sh -c 'echo one; echo two >&2; exit 3'\none\ntwo\n"


def test_every_tier_of_the_runner_has_a_folder() -> None:
    assert [tier for tier in suite.TIERS if not (ROOT / "tests" / tier).is_dir()] == []


def inner_project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *, why_no_cluster: str | None) -> None:
    """A scratch project under our conftest, on a machine that has or lacks a cluster, without slow plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\nmarkers = cluster\n    gpu\n    timed")
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    pytester.makeconftest(f"{conftest}\n\ndef cluster_unavailable():\n    return {why_no_cluster!r}\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.cluster
        def test_needs_a_cluster():
            pytest.skip("no lab here")

        def test_needs_something_else():
            pytest.skip("not installed")

        def test_waits(time_scale):
            assert time_scale == 0.05
        """
    )


@pytest.mark.parametrize(
    ("ci", "why_no_cluster", "want"),
    [
        pytest.param("", None, {"passed": 1, "skipped": 2}, id="skips are fine elsewhere"),
        pytest.param("", "no root", {"passed": 1, "skipped": 2}, id="a machine without root skips"),
        pytest.param("true", None, {"passed": 1, "failed": 1, "skipped": 1}, id="a test that skips itself fails in CI"),
        pytest.param("true", "no root", {"passed": 1, "errors": 1, "skipped": 1}, id="a CI machine without root fails"),
    ],
)
def test_a_skipped_cluster_test_fails_in_ci_and_only_there(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    ci: str,
    why_no_cluster: str | None,
    want: dict[str, int],
) -> None:
    monkeypatch.setenv("CI", ci)
    inner_project(pytester, monkeypatch, why_no_cluster=why_no_cluster)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(**want)
    assert ("may not be skipped in CI" in result.stdout.str()) == bool(ci)
    assert (why_no_cluster or "no lab here") in result.stdout.str() or not ci


def test_users_of_time_scale_are_found_by_make_soak(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    inner_project(pytester, monkeypatch, why_no_cluster=None)
    pytester.runpytest_inprocess("-m", "timed").assert_outcomes(passed=1, deselected=2)
