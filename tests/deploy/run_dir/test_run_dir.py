import hashlib
import json
from pathlib import Path

import pytest

from slimsight.compress.config import GatesConfig
from slimsight.compress.errors import Damaged, RunError, TrainingError
from slimsight.deploy.run.fingerprints import fingerprint
from slimsight.deploy.run_dir import MARKER, open_run, read_run


def test_a_finished_stage_holds_only_for_its_fingerprint(tmp_path: Path) -> None:
    with open_run(tmp_path / "run") as run:
        place = run.begin("gates")
        assert place == tmp_path / "run" / "stages" / "gates"
        (place / "plan.json").write_text("{}")
        run.slim.mkdir()
        run.slim_model.write_bytes(b"12345")
        record = run.finish("gates", "abc", 1.5, {"accuracy": 0.9}, [place / "plan.json", run.slim_model])
        assert run.valid_record("gates", "abc") == record
        assert run.valid_record("gates", "abd") is None
        assert run.valid_record("finetune", "abc") is None
    written = json.loads((place / "done.json").read_text())
    assert len(written.pop("seal")) == 64
    assert written == {
        "fingerprint": "abc",
        "seconds": 1.5,
        "metrics": {"accuracy": 0.9},
        "files": {"stages/gates/plan.json": 2, "slim/model.safetensors": 5},
        "sha256": {
            "stages/gates/plan.json": hashlib.sha256(b"{}").hexdigest(),
            "slim/model.safetensors": hashlib.sha256(b"12345").hexdigest(),
        },
        "inputs": {},
        "fingerprint_version": 2,
    }
    assert read_run(tmp_path / "run").record("gates") == record


@pytest.mark.parametrize("damage", ["no record", "half a record", "other keys", "no file", "another size"])
def test_a_stage_that_is_not_whole_is_not_done(tmp_path: Path, damage: str) -> None:
    with open_run(tmp_path) as run:
        place = run.begin("predictor")
        file, done = place / "weights.safetensors", place / "done.json"
        file.write_bytes(b"123")
        run.finish("predictor", "abc", 1, {}, [file])
        assert run.valid_record("predictor", "abc") is not None
        if damage == "no record":
            done.unlink()
        elif damage == "half a record":
            done.write_text(done.read_text()[:40])
        elif damage == "other keys":
            done.write_text('{"fingerprint": "abc"}')
        elif damage == "no file":
            file.unlink()
        else:
            file.write_bytes(b"1234")
        assert run.valid_record("predictor", "abc") is None


@pytest.mark.parametrize("size", [3, 4])
def test_a_file_that_changed_is_found_before_it_is_used(tmp_path: Path, size: int) -> None:
    with open_run(tmp_path) as run:
        file = run.begin("predictor") / "weights"
        file.write_bytes(b"123")
        run.finish("predictor", "abc", 1, {}, [file])
        file.write_bytes(b"4" * size)
        run.check()  # whoever writes the run mends it
    how = "its sha256 is" if size == 3 else "it has 4 bytes, 3 were recorded"
    with pytest.raises(
        Damaged,
        match=rf"^{file} was changed since it was written: {how}.*; 'slimsight run RECIPE --out {tmp_path}' rebuilds",
    ) as found:
        read_run(tmp_path)
    assert found.value.path == file
    assert str(read_run(tmp_path, verify=False).damage("predictor")).startswith(str(file))


def test_records_of_earlier_versions_are_taken(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        place = run.begin("gates")
        (place / "scores").write_bytes(b"123")
        older = {"fingerprint": "abc", "seconds": 1.0, "metrics": {}, "files": {"stages/gates/scores": 3}}
        (place / "done.json").write_text(json.dumps(older))
        record = run.valid_record("gates", "abc")
    assert record is not None
    assert record.follows({"selector": "whatever it gave"})
    assert read_run(tmp_path).record("gates") == record


def test_a_record_names_nothing_outside_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with open_run(tmp_path / "run") as run:
        place = run.begin("gates") / "done.json"
        for name in ("../mine", str(tmp_path / "mine")):
            record = {"fingerprint": "abc", "seconds": 1.0, "metrics": {}, "files": {name: 0}}
            place.write_text(json.dumps(record))
            assert run.record("gates") is None
            run.forget("gates")
    assert (tmp_path / "mine").exists()


def test_a_stage_that_was_being_removed_is_not_done_and_is_removed_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_args: object, **_options: object) -> None:
        raise Killed

    with open_run(tmp_path) as run:
        run.begin("export")
        run.original_onnx.write_bytes(b"123")
        run.finish("export", "abc", 1, {}, [run.original_onnx])
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", kill)
            with pytest.raises(Killed):
                run.forget("export")
        assert run.record("export") is None
        run.check()
        run.forget("export")
        assert not run.original_onnx.exists()
        assert list(run.stage_dir("export").iterdir()) == []


def test_begin_clears_what_an_earlier_run_left(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        place = run.begin("selector")
        for name in ("listed", "selector.safetensors", "notes.txt"):
            (place / name).write_text("x")
        (place / "deep").mkdir()
        (place / "deep" / "listed").write_text("x")
        run.finish("selector", "abc", 1, {}, [place / "listed"])
        assert sorted(path.name for path in run.begin("selector").iterdir()) == ["deep", "notes.txt"]  # the user's
        assert (place / "deep" / "listed").is_file()
        assert run.record("selector") is None


def test_figures_that_are_no_numbers_do_not_finish_a_stage(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.begin("gates")
        with pytest.raises(TrainingError, match=r"'gates' ended with history\.1\.loss = nan: it diverged"):
            run.finish("gates", "abc", 1, {"history": [{"loss": 1.0}, {"loss": float("nan")}]}, [])
        assert run.record("gates") is None


def test_temporary_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        place = run.begin("gates")
        for name in (".plan.json.77.part", "notes.part", ".hidden.part"):
            (place / name).touch()
    with open_run(tmp_path):
        assert sorted(entry.name for entry in place.iterdir()) == [".hidden.part", "notes.part"]


def test_other_folders_are_refused_untouched(tmp_path: Path) -> None:
    for name in "abcde":
        (tmp_path / name).touch()
    with (
        pytest.raises(RunError, match=r"contains other files \(a, b, c and 2 more\) and no run; choose a new or"),
        open_run(tmp_path),
    ):
        pass
    assert not (tmp_path / MARKER).exists()
    with (
        pytest.raises(RunError, match=r"a file of that name exists; choose another --out"),
        open_run(tmp_path / "a"),
    ):
        pass
    with pytest.raises(RunError, match=r"a file of that name exists"), open_run(tmp_path / "a" / "run"):
        pass


def test_a_run_without_its_hidden_marker_is_still_a_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "stages" / "gates").mkdir(parents=True)
    (tmp_path / "stages" / "gates" / "done.json").write_text(
        '{"fingerprint": "", "seconds": 1, "metrics": {}, "files": {}}', encoding="utf-8"
    )
    assert read_run(tmp_path).recipe == tmp_path / "recipe.yaml"
    with open_run(tmp_path) as run:
        assert run.recipe.exists()


def test_read_run_wants_a_run_and_changes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere does not exist; give the folder of a run \(the --out of"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file is a file; give the folder of a run"):
        read_run(tmp_path / "file")
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no \.slimsight and no recipe\.yaml"):
        read_run(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_run_stays_where_it_is_when_the_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_run(Path("run")) as run:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert run.begin("gates") == tmp_path / "run" / "stages" / "gates"


def test_places_are_those_of_the_design(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        places = [
            run.recipe,
            run.log,
            run.original_onnx,
            run.slim_model,
            run.plan,
            run.slim_explainer,
            run.slim_onnx,
            run.slim_pt2,
            run.report_json,
            run.report_md,
        ]
    assert [place.relative_to(tmp_path).as_posix() for place in places] == [
        "recipe.yaml",
        "run.log",
        "original.onnx",
        "slim/model.safetensors",
        "slim/plan.json",
        "slim/explainer.safetensors",
        "slim/model.onnx",
        "slim/model.pt2",
        "report.json",
        "report.md",
    ]


def test_fingerprints_follow_content_alone(tmp_path: Path) -> None:
    first = fingerprint({"gates": GatesConfig(steps=50), "path": tmp_path, "inputs": ("a", "b")})
    assert first == fingerprint({"inputs": ["a", "b"], "path": str(tmp_path), "gates": GatesConfig(steps=50)})
    assert first != fingerprint({"gates": GatesConfig(steps=51), "path": tmp_path, "inputs": ("a", "b")})
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    with pytest.raises(TypeError, match="no fingerprint of a set"):
        fingerprint({"x": {1}})
