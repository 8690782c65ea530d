"""Run directories of a stranger: what lies in them, where they lead, and whose code they name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimsight.compress.config import ModelConfig
from slimsight.compress.errors import ConfigError
from slimsight.compress.surgery import PrunePlan
from slimsight.deploy.bench.models import find_models
from slimsight.deploy.run_dir import open_run, read_run
from slimsight.deploy.run_dir.allowed_code import load_run_recipe, remember_code, remember_engine, untrusted_code_reason
from slimsight.deploy.trust.run import _read_earlier_rows

GROUP = "net.layers.0.0.conv1"
PLANS: dict[str, tuple[Any, str]] = {
    "a layer that is not there": ({"net.\x1b[2J.nowhere": (16, [0])}, r"'net.\x1b[2J.nowhere' has 16 channels"),
    "a layer that is no convolution": ({"normalize": (16, [0])}, "no such layer"),
    "another width": ({"GROUP": (17, [0])}, "has 17 channels, the model has 16"),
    "a channel beyond the last": ({"GROUP": (16, [0, 16])}, "sorted, unique and below 16"),
    "a negative channel": ({"GROUP": (16, [-1, 0])}, "sorted, unique and below 16"),
    "a channel twice": ({"GROUP": (16, [0, 0])}, "sorted, unique and below 16"),
    "half a channel": ({"GROUP": (16, [0.5])}, "a list of integers"),
    "truth as a channel": ({"GROUP": (16, [True])}, "a list of integers"),
    "a negative width": ({"GROUP": (-16, [0])}, "sorted, unique and below -16"),
    "no channels": ({"GROUP": (16, [])}, "leaves group"),
    "all channels": ({"GROUP": (16, list(range(16)))}, "there is nothing to remove"),
    "a million channels": (
        {"GROUP": (16, list(range(10**6)))},
        "sorted, unique and below 16, not (0, 1, 2, 3, 4, 5, ...)",
    ),
    "no groups": ({}, "there is nothing to remove"),
}


def plan_text(groups: dict[str, Any], real: str) -> str:
    kept = {name.replace("GROUP", real): {"width": width, "kept": kept} for name, (width, kept) in groups.items()}
    return json.dumps({"schema": 1, "groups": kept})


@pytest.mark.parametrize("what", PLANS)
def test_plan(what: str, place: Any, refused: Callable[..., str]) -> None:
    groups, why = PLANS[what]
    run = place.run()
    plan = run / "slim" / "plan.json"
    plan.write_text(plan_text(groups, next(iter(PrunePlan.load(plan).kept))), encoding="utf-8")
    assert why in refused("explain", run, place.write("x.png", b""), "--with", "gradient")


@pytest.mark.parametrize(
    ("content", "why"), [("[" * 99_999, "nested"), ("{", "no JSON"), ("[]", "schema 1"), ("9" * 9999, "too large")]
)
def test_no_plan(content: str, why: str, place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    (run / "slim" / "plan.json").write_text(content, encoding="utf-8")
    assert why in refused("explain", run, place.write("x.png", b""), "--with", "gradient")


# --- what leads out of a run directory ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../outside/victim.txt", "/etc/passwd", "slim/../../../outside/victim.txt", "a\\b"]
)
@pytest.mark.parametrize("key", ["files", "sha256"])
def test_a_record_of_files_elsewhere(name: str, key: str, place: Any, refused: Callable[..., str]) -> None:
    """``run`` removes the files that the record of a stage names, and ``--reuse`` copies them."""
    run = place.run()
    record = {"fingerprint": "0", "seconds": 1, "metrics": {}, "files": {}, key: {name: 8 if key == "files" else "0"}}
    (run / "stages" / "finetune" / "done.json").write_text(json.dumps(record), encoding="utf-8")
    assert "it is not a stage record" in refused("export", run)
    with open_run(run) as opened:
        opened.forget("finetune")
    assert place.touched() == []


@pytest.mark.parametrize("name", ["stages", "slim", ".slimsight", "report.html", "run.log", "export", "stages/gates"])
def test_a_link_out_of_it(name: str, place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    at = run / name
    if at.is_dir():
        at.rename(place.folder / "moved")
    at.unlink(missing_ok=True)
    at.symlink_to(place.outside if name in ("stages", "slim", "export", "stages/gates") else place.victim)
    recipe = place.write("recipe.yaml", "data: {source: digits, image_size: 16}\nmodel: {name: resnet20}")
    for command in (("status", run), ("run", recipe, "--out", run), ("export", run)):
        said = refused(*command)
        assert "a link that points outside the folder" in said or "is not the folder of a run" in said


def test_a_pipe_in_it(place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    os.mkfifo(run / "run.log")
    assert "run.log is a named pipe" in refused("status", run)


def test_a_link_within_is_taken(place: Any) -> None:
    run = place.run()
    (run / "again.json").symlink_to("report.json")
    assert read_run(run).report_json.is_file()


# --- code --------------------------------------------------------------------------------------------------------


def with_code(place: Any) -> Path:
    """A run whose model is a file that comes with it."""
    evil = place.write("evil.py", f"{place.code}\ndef make(classes):\n    raise SystemExit(3)\n")
    run: Path = place.run(model=ModelConfig(name=f"{evil}:make"))
    return run


COMMANDS: dict[str, tuple[str, ...]] = {
    "explain": ("explain", "RUN", "x.png", "--with", "gradient"),
    "export": ("export", "RUN", "--to", "onnx"),
    "trust": ("trust", "RUN", "--with", "gradient"),
    "inspect": ("inspect", "RUN", "--input", "3x16x16"),
    "bench": ("bench", "RUN", "--runtime", "torch"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_its_code_is_not_run(command: str, place: Any, refused: Callable[..., str]) -> None:
    run = with_code(place)
    said = refused(*(str(run) if word == "RUN" else word for word in COMMANDS[command]))
    assert "evil.py:make, that was not run here as it is now" in said
    assert "--allow-code" in said


@pytest.mark.parametrize("command", ["status", "report"])
def test_commands_that_build_nothing_need_no_leave(
    command: str, place: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    from slimsight.deploy.cli.main import main

    monkeypatch.setenv("SLIMSIGHT_CACHE", str(cache))
    run = with_code(place)
    with pytest.raises(SystemExit) as left:
        main([command, str(run)])
    assert left.value.code == 0
    assert place.touched() == []
    capsys.readouterr()


def test_code_that_was_run_here_runs_again(place: Any, tmp_path: Path) -> None:
    """Only that: another content, another factory or another place is somebody else's."""
    run, cache = with_code(place), tmp_path / "cache"
    evil = place.folder / "evil.py"
    model = ModelConfig(name=f"{evil}:make")
    assert untrusted_code_reason(model, cache) is not None
    remember_code(model, cache)
    assert untrusted_code_reason(model, cache) is None
    assert load_run_recipe(read_run(run), cache=cache).model == model
    assert untrusted_code_reason(ModelConfig(name=f"{evil}:other"), cache) is not None
    copied = place.write("elsewhere/evil.py", evil.read_bytes())
    assert untrusted_code_reason(ModelConfig(name=f"{copied}:make"), cache) is not None
    evil.write_text(evil.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="was not run here as it is now"):
        load_run_recipe(read_run(run), cache=cache)
    assert load_run_recipe(read_run(run), allow_code=True, cache=cache).model == model
    assert untrusted_code_reason(ModelConfig(name="resnet20"), cache) is None


def test_its_engines_are_not_opened(place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIMSIGHT_CACHE", str(tmp_path / "cache"))
    run = place.run()
    engine = run / "slim" / "model.tensorrt.fp32.engine"
    engine.write_bytes(b"anything")
    (slim,) = find_models([run])
    assert slim.path_for("tensorrt") is None
    assert "was not built here" in slim.missing_reason("tensorrt")
    (allowed,) = find_models([run], allow_code=True)
    assert allowed.path_for("tensorrt") == engine
    remember_engine(engine, tmp_path / "cache")
    (built,) = find_models([run])
    assert built.path_for("tensorrt") == engine


def test_the_current_folder_is_nothing_to_import_from(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``bench`` and ``doctor`` start Python: a file called json.py where somebody stands is not theirs."""
    from slimsight.deploy.doctor.probing import probe

    for name in ("json.py", "subprocess.py", "tempfile.py", "sysconfig.py"):
        place.write(name, place.code)
    monkeypatch.chdir(place.folder)
    assert probe(["compiler"], 120)["compiler"].facts
    assert place.touched() == []


@pytest.mark.parametrize(
    "files", [[{"file": "../../outside/victim.txt", "size_bytes": 8, "sha256": "0"}], [{}], 7, [[]], [{"file": 3}]]
)
def test_files_that_export_json_names(files: Any, place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    (run / "export").mkdir()
    (run / "export" / "export.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    assert "export.json" in refused("bench", run)


@pytest.mark.parametrize("name", ["../../outside", "A stage", "x/y"])
def test_a_stage_by_another_name(name: str, place: Any, refused: Callable[..., str]) -> None:
    run = place.run()
    record = {"fingerprint": "0", "seconds": 1, "metrics": {}, "files": {}, "inputs": {name: "0"}}
    (run / "stages" / "finetune" / "done.json").write_text(json.dumps(record), encoding="utf-8")
    assert "it is not a stage record" in refused("export", run)


@pytest.mark.parametrize(
    "rows", [[{}], [1], 7, [{"key": "k", "test": "sanity", "explainer": "e", "result": {"steps": []}}], [[]]]
)
def test_rows_of_trust(rows: Any, tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    file.write_text(json.dumps({"rows": rows}), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no rows of this command"):
        _read_earlier_rows(file, {})
