"""The plugin as pytest meets it: in projects of its own, made by pytester."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from xml.etree import ElementTree

import pytest

import slimsight.deploy.testing  # what a session inside this one imports, it forgets when it ends
import slimsight.pytest_plugin

pytest_plugins = "pytester"

ROOT = Path(__file__).resolve().parents[2]
# The entry point, where this version is installed, must not register the plugin a second time.
PLUGIN = ("-p", "no:slimsight", "-p", "slimsight.pytest_plugin", "--strict-markers")
PLUGIN += ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # this session has imported it already
PLUGIN += ("-p", "no:unraisableexception")  # it collects garbage five times a session
MODEL = """
    import pytest
    from torch import nn

    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))
"""
MACS = (3 * 8 + 8 * 16) * 9 * 64


def run(pytester: pytest.Pytester, test: str, *options: str, subprocess: bool = False) -> pytest.RunResult:
    pytester.makepyfile(MODEL + test)
    start = pytester.runpytest_subprocess if subprocess else pytester.runpytest_inprocess
    return start(*PLUGIN, *options)


def test_the_entry_point_is_this_module() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ((name, value),) = project["entry-points"]["pytest11"].items()
    assert name == "slimsight"
    assert EntryPoint(name, value, "pytest11").load() is slimsight.pytest_plugin


def test_it_costs_nothing_where_it_is_not_used() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import slimsight.pytest_plugin;"
        "print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["slimsight", "slimsight.pytest_plugin"]


def test_it_changes_nothing_where_it_is_not_used(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_passes(): pass\n\ndef test_fails(): assert 1 == 2")
    outcomes = []
    for options in (("-p", "no:slimsight"), PLUGIN):
        found = pytester.runpytest_inprocess(*options)
        outcomes.append([re.sub(r"[\d.]+s", "", line) for line in found.outlines if not line.startswith("plugins:")])
        assert found.parseoutcomes() == {"passed": 1, "failed": 1}
    assert outcomes[0] == outcomes[1]


def test_the_fixture_and_what_it_leaves_in_junit(pytester: pytest.Pytester) -> None:
    test = """
    def test_small(slimsight):
        assert slimsight.assert_macs(build(), "3x8x8", max="100k") == 87552
        slimsight.assert_params(build(), max="2k")
        slimsight.assert_size(build(), max="6kB")
    """
    run(pytester, test, "--junitxml=junit.xml", "-W", "error::pytest.PytestWarning", *PLUGIN[-4:]).assert_outcomes(
        passed=1
    )
    (case,) = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("testcase")
    written = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert written == {"slimsight.macs": str(MACS), "slimsight.params": "1392", "slimsight.size_bytes": "5568"}


def test_a_failure_is_a_few_lines_without_our_code(pytester: pytest.Pytester) -> None:
    test = """
    def test_small(slimsight):
        slimsight.assert_macs(build(), "3x8x8", max="50k")
    """
    found = run(pytester, test)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(
        [
            '>       slimsight.assert_macs(build(), "3x8x8", max="50k")',
            "E       AssertionError: MACs: 0.09 M, at most 0.05 M allowed: 0.04 M too much, 75.1 % over",
            "E       layers with most MACs:",
            "E         2  0.07 M  84.2 %",
            "E         0  0.01 M  15.8 %",
            "*test_a_failure_is_a_few_lines_without_our_code.py:*: AssertionError",
        ]
    )
    assert "slimsight/" not in found.stdout.str()
    assert len(found.outlines) < 30


def test_bad_input_is_a_sentence_without_our_code(pytester: pytest.Pytester) -> None:
    test = """
    def test_shape(slimsight):
        slimsight.assert_macs(build(), "1x8x8", max="50k")

    def test_limit(slimsight):
        slimsight.assert_params(build(), max="many")
    """
    found = run(pytester, test)
    found.assert_outcomes(failed=2)
    found.stdout.fnmatch_lines(
        [
            "E       slimsight.compress.errors.ModelError: the model does not take 1x8x8 images: RuntimeError: *",
            "E       slimsight.compress.errors.ConfigError: max: 'many' is not a valid limit on parameters: give *",
        ]
    )
    assert "slimsight/" not in found.stdout.str()


def test_the_marker_is_held_by_check(pytester: pytest.Pytester) -> None:
    test = """
    pytestmark = pytest.mark.slimsight(macs="100k", params="1k")

    def test_of_the_file(slimsight):
        slimsight.check(build(), "3x8x8")

    @pytest.mark.slimsight(params="2k", size="100%")
    def test_of_its_own(slimsight):
        slimsight.check(build(), "3x8x8", against=build())
    """
    found = run(pytester, test)
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.fnmatch_lines(
        [
            "E       AssertionError: parameters: 1,392, at most 1,000 allowed: 392 too much, 39.2 % over",
            "FAILED *::test_of_the_file - *",
        ]
    )


def test_a_limit_that_nothing_is_held_to_fails(pytester: pytest.Pytester) -> None:
    test = """
    @pytest.mark.slimsight(macs="1M")
    def test_without_the_fixture(): pass

    @pytest.mark.slimsight(macs="1M")
    def test_without_a_check(slimsight): pass

    def test_without_a_marker(slimsight): slimsight.check(build(), "3x8x8")

    @pytest.mark.slimsight(flops=1)
    def test_of_another_cost(slimsight): slimsight.check(build(), "3x8x8")

    @pytest.mark.slimsight("1M")
    def test_without_a_name(slimsight): slimsight.check(build(), "3x8x8")
    """
    found = run(pytester, test)
    found.assert_outcomes(failed=5)
    unheld = "the marker slimsight names limits, and the test checked no model against them: take the fixture*"
    found.stdout.fnmatch_lines(
        [
            unheld,
            unheld,
            "E*: slimsight.check(model, x) has no limits: mark the test, e.g. @pytest.mark.slimsight(macs='60M')",
            "E*: the marker slimsight has flops: give macs, params, size, or call assert_latency",
            "E*: the marker slimsight needs names: @pytest.mark.slimsight(macs='60M')",
        ]
    )


def test_it_works_in_workers(pytester: pytest.Pytester) -> None:
    """Figures reach the JUnit file of the session, and latency is left out with its reason."""
    test = """
    def test_small(slimsight):
        slimsight.assert_macs(build(), "3x8x8", max="100k")

    def test_large(slimsight):
        slimsight.assert_macs(build(), "3x8x8", max="50k")

    def test_fast(slimsight):
        slimsight.assert_latency(build(), "3x8x8", max="1 s")
    """
    found = run(pytester, test, "-n", "2", "-rs", "--junitxml=junit.xml", subprocess=True)
    found.assert_outcomes(passed=1, failed=1, skipped=1)
    found.stdout.fnmatch_lines(
        [
            "E       AssertionError: MACs: 0.09 M, at most 0.05 M allowed: *",
            "SKIPPED * latency is not measured in gw? of pytest-xdist: *run this test without -n*",
        ]
    )
    properties = ElementTree.parse(pytester.path / "junit.xml").getroot().iter("property")
    assert [(item.get("name"), item.get("value")) for item in properties] == [("slimsight.macs", str(MACS))]


def test_latency_without_workers(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    test = """
    @pytest.mark.filterwarnings("ignore")
    def test_fast(slimsight):
        assert slimsight.assert_latency(build(), "3x8x8", max="1 s", rounds=10, seconds=1) < 1000
        slimsight.assert_latency(build(), "3x8x8", max="1us", rounds=10, seconds=1)
    """
    found = run(pytester, test)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["E       AssertionError: latency: * ms, at most 0.001 ms allowed: *"])
    assert "slimsight/" not in found.stdout.str()
