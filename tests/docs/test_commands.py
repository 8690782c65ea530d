"""Every command of README and docs/ works unchanged, on a finished run, in a folder with the reader's files.

slimsight commands are called in this process: starting Python and torch for each would take longer than all of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

import slimsight.deploy.bench
import slimsight.deploy.trust.run
from slimsight.deploy.bench.probe import TrialResult
from slimsight.deploy.budget import BudgetFile, load_budget
from slimsight.deploy.cli.main import main
from slimsight.deploy.doctor import Diagnosis, Finding
from slimsight.deploy.settings.recipe import Recipe, load_recipe

from .pages import PAGES, ROOT, Command, blocks, commands, in_shell, name_of, spans

NOT_RUN = {
    r"make \w+": "installs gigabytes, and the tests are what is running",
    r"pip install ": "installs",
    r".* export .*--to (\S*,)?tensorrt(,| )": "needs an NVIDIA GPU",
}
if find_spec("tensorrt_rtx") is None:
    NOT_RUN[r".* export .*--to (\S*,)?tensorrt-rtx"] = "needs tensorrt-rtx, which has no wheel for this machine"
if find_spec("executorch") is None:
    NOT_RUN[r".* export .*--to (\S*,)?executorch"] = "needs ExecuTorch, which is no part of the dev extra"
PAGES_WITH_COMMANDS = [page for page in PAGES if blocks(page, "sh")]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens work that other tests cover.

    ``bench`` measures one session instead of ten, and no memory; ``trust`` uses fewer images; ``doctor`` starts no
    processes; a run draws no pictures.
    """
    whole = slimsight.deploy.bench.run_bench

    def one_session(*arguments: Any, settings: slimsight.deploy.bench.Settings, **options: Any) -> Any:
        quick = dataclasses.replace(settings, rounds=20, sessions=1, warmup=0.1)
        return whole(*arguments, settings=quick, **options)

    monkeypatch.setattr("slimsight.deploy.bench.run_bench", one_session)
    monkeypatch.setattr(
        "slimsight.deploy.bench.probe.Prober.__call__", lambda self, trial: TrialResult(host_bytes=1000)
    )
    thorough = slimsight.deploy.trust.run.measure_trust

    def quick_look(*arguments: Any, count: int | None, **options: Any) -> Any:
        return thorough(*arguments, count=min(count or 20, 20), **options)

    monkeypatch.setattr("slimsight.deploy.trust.run.measure_trust", quick_look)
    healthy = Diagnosis((Finding("machine", "python", "ok", "as it runs these tests"),))
    monkeypatch.setattr("slimsight.deploy.doctor.diagnose", lambda: healthy)
    for draw in ("draw_pictures", "draw_worst"):
        monkeypatch.setattr(f"slimsight.deploy.run.pipeline.{draw}", lambda *_arguments: None)


def reason_not_to_run(command: Command) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, command.line)), None)


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page(
    page: Path, project: Path, run_command: Callable[[Command], tuple[int, str]], done_before: set[str]
) -> None:
    for block in blocks(page, "python"):  # files that the text shows are there when its commands run
        if (named := re.match(r"# (\S+\.py)\n", block)) and named[1] != "my_model.py":
            (project / named[1]).write_text(block, encoding="utf-8")
    for block in blocks(page, "sh"):
        for command in commands(block):
            if reason_not_to_run(command) is None and plain(command) not in done_before:
                code, said = run_command(command)
                assert code == command.code, f"{command.line}\n{said}"
                done_before.add(plain(command))


@pytest.fixture(scope="session")
def done_before() -> set[str]:
    """A command that is on two pages runs once."""
    return set()


def plain(command: Command) -> str:
    return command.line.removeprefix(".venv/bin/").split(" #")[0].strip()


@pytest.fixture
def run_command(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Command], tuple[int, str]]:
    """Runs a command; gives its exit code and output."""

    def start(command: Command) -> tuple[int, str]:
        if command.is_ours:
            with without_recipe(command, project), pytest.raises(SystemExit) as left:
                main(command.words[1:])
            found = capsys.readouterr()
            assert "Traceback" not in found.out + found.err
            return int(left.value.code or 0), found.out + found.err
        return in_shell(command.line, project)

    return start


@contextmanager
def without_recipe(command: Command, project: Path) -> Iterator[None]:
    """``init`` writes files that exist already: they are moved away, its output is loaded, and they are restored."""
    small = {name: project / name for name in ("recipe.yaml", "budget.yaml")} if command.words[1] == "init" else {}
    texts = {name: path.read_text(encoding="utf-8") for name, path in small.items()}
    for path in small.values():
        path.unlink()
    yield
    if small:
        load_recipe(small["recipe.yaml"])
        load_budget(small["budget.yaml"])
    for name, path in small.items():
        path.write_text(texts[name], encoding="utf-8")


def test_what_is_not_run_exists(say_help: Callable[[str], str]) -> None:
    """Targets of make, extras of pip, commands and options of ours."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    skipped = [c for page in PAGES for block in blocks(page, "sh") for c in commands(block) if reason_not_to_run(c)]
    assert skipped
    for command in skipped:
        if command.words[0] == "make":
            assert re.search(rf"^{command.words[1]}:", makefile, re.MULTILINE), command.line
        elif command.words[:2] == ["pip", "install"]:
            for extra in re.findall(r"\[([\w-]+)\]", command.line):
                assert re.search(rf"^{extra} = \[", project, re.MULTILINE), command.line
        else:
            assert unknown_options(command.words[1:], say_help) == [], command.line


@pytest.mark.parametrize("page", [page for page in PAGES if spans(page)], ids=name_of)
def test_commands_in_running_text_exist(page: Path, say_help: Callable[[str], str]) -> None:
    for span in spans(page):
        assert unknown_options(span.split()[1:], say_help) == [], span


@pytest.fixture
def say_help(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """What a command's ``--help`` says."""

    def say(command: str) -> str:
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0, command
        return capsys.readouterr().out

    return say


def unknown_options(words: list[str], say_help: Callable[[str], str]) -> list[str]:
    """The options in a command that its help does not know; the command itself must be one."""
    named = words[0].isalpha() and words[0].islower()  # `slimsight COMMAND --help` and `slimsight --version` are shapes
    described = say_help(words[0] if named else "")
    options = (word.partition("=")[0] for word in words if word.startswith("--"))
    return [option for option in options if option not in described]


YAML = [(page, block) for page in PAGES for block in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "block"), YAML, ids=[f"{name_of(page)}-{n}" for n, (page, _) in enumerate(YAML)])
def test_every_recipe_and_budget_that_is_shown_loads(page: Path, block: str, tmp_path: Path) -> None:
    keys = set(yaml.safe_load(block))
    path = tmp_path / "shown.yaml"
    path.write_text(block, encoding="utf-8")
    if keys <= set(BudgetFile.model_fields):
        load_budget(path)
    else:
        assert keys <= set(Recipe.model_fields), f"{name_of(page)}: neither a recipe nor a budget file: {keys}"
        load_recipe(path)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{name_of(page)}: {target}"
