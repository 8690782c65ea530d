"""``slimsight package`` on a finished run: what is in it, that it works alone, and that what was changed is found."""

import json
import shutil
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import yaml

from slimsight.compress.errors import ExportError
from slimsight.compress.files.sealed import sha256_of_file
from slimsight.deploy.package.card import render_card
from slimsight.deploy.package.model_file import choose_file
from slimsight.deploy.package.package import _labels
from slimsight.deploy.package.targets import TARGETS
from slimsight.deploy.run_dir import read_run
from slimsight.export.onnx_files.metadata import read_metadata

from .conftest import alone, loaded, sum_again, verify

RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino"}


@pytest.mark.parametrize("target", RUNTIMES)
def test_both_scripts_work_with_nothing_but_the_runtime_numpy_and_pillow(packaged, target, tmp_path):
    if target == "openvino":
        pytest.importorskip("openvino")
    folder = packaged(target)
    allowed = f"{RUNTIMES[target]},numpy,PIL"
    predicted = alone(folder / "predict.py", allowed, str(folder / "golden/00-colour.png"))
    assert (predicted.returncode, predicted.stderr) == (0, "")
    golden = json.loads((folder / "golden/golden.json").read_text(encoding="utf-8"))
    logits = np.array(golden["images"][0]["logits"])
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    lines = [line.split(" %  ") for line in predicted.stdout.splitlines()]
    assert [int(label) for _, label in lines] == np.argsort(-logits)[:5].tolist()
    assert [float(share) for share, _ in lines] == pytest.approx((100 * np.sort(shares)[::-1][:5]).tolist(), abs=0.006)
    verified = alone(folder / "verify.py", allowed, "--calls", "20", "--json", str(tmp_path / "verify.json"))
    assert (verified.returncode, verified.stderr) == (0, "")
    assert verified.stdout.splitlines()[-1] == "PASSED: the package works on this device"
    found = json.loads((tmp_path / "verify.json").read_text(encoding="utf-8"))
    assert found["model"]["sha256"] == sha256_of_file(folder / "onnx/model.onnx")
    assert found["outputs"]["difference"] <= (0 if target == "onnxruntime" else 1e-5)
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ([], "give one image: python predict.py IMAGE"),
        (["a.png", "b.png"], "give one image: python predict.py IMAGE"),
        (["none.png"], "No such file or directory: 'none.png'"),
        ([__file__], "cannot identify image file"),
    ],
)
def test_predict_says_in_a_sentence_what_is_wrong(packaged, given, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["predict.py", *given])
    with loaded(packaged("onnxruntime") / "predict.py") as script:
        assert script.main() == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), sentence in said.err) == ("", 1, True)


def test_the_guard_of_imports_would_find_another_package(packaged):
    said = alone(
        packaged("onnxruntime") / "predict.py", "numpy,PIL", str(packaged("onnxruntime") / "golden/00-colour.png")
    )
    assert said.returncode == 2
    assert "onnxruntime is not the runtime, numpy or pillow" in said.stderr


def test_what_is_in_it_and_says_what_the_run_says(packaged, finished):
    folder = packaged("onnxruntime", latency_ms=12.5)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    golden = {name for name in names if name.endswith(".png")}
    assert len(golden) == 12
    rest = (
        "README.md SHA256SUMS golden/golden.json labels.txt onnx/model.onnx predict.py preprocess.json requirements.txt"
    )
    assert names - golden == {*rest.split(), "verify.py"}
    assert sha256_of_file(folder / "onnx/model.onnx") == sha256_of_file(finished.root / "slim/model.onnx")
    stated = read_metadata(folder / "onnx/model.onnx")
    assert (folder / "labels.txt").read_text(encoding="utf-8").split("\n")[:-1] == list(stated.classes)
    made = json.loads((folder / "preprocess.json").read_text(encoding="utf-8"))
    assert (made["words"], made["mean"]) == (stated.all["preprocessing"], list(stated.mean))
    assert (made["normalisation"], made["range"], made["channels"]) == ("inside the file", [0, 1], "RGB")
    assert len((folder / "predict.py").read_text(encoding="utf-8").splitlines()) < 60
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines())
    assert listed == {name: sha256_of_file(folder / name) for name in names - {"SHA256SUMS"}}
    assert json.loads((folder / "golden/golden.json").read_text("utf-8"))["limits"]["latency_ms"] == 12.5


def test_the_model_card_has_the_hubs_front_matter_and_the_reports_figures(packaged, finished):
    report = finished.report
    text = (packaged("onnxruntime") / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert (front["library_name"], front["pipeline_tag"], front["license"]) == (
        "onnx",
        "image-classification",
        "unknown",
    )
    results = {row["dataset"]["split"]: row["metrics"][0] for row in front["model-index"][0]["results"]}
    assert results["test"] == {
        "type": "accuracy",
        "value": round(report.slim.test_accuracy, 4),
        "name": "test accuracy",
    }
    assert results["validation"]["value"] == round(report.slim.val_accuracy, 4)
    assert f"{report.slim.params:,}" in text
    assert "**PASSED**" in text
    assert f"{report.saliency.center_drift_px:.2f} px" in text
    assert "Licence: **to be filled in**" in text
    original = (packaged("onnxruntime", original=True) / "README.md").read_text(encoding="utf-8")
    tested = yaml.safe_load(original.split("---\n")[1])["model-index"][0]["results"][0]["metrics"][0]["value"]
    assert tested == round(report.original.test_accuracy, 4)
    assert "verdict" not in original


def test_the_same_run_gives_the_same_zip(say, finished, tmp_path):
    for name in ("a.zip", "b.zip"):
        said = say("package", finished.root, "--for", "onnxruntime", "--out", tmp_path / name, "--latency", "20ms")
        assert said.code == 0, said.err
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    code, printed, found = verify(tmp_path / "unpacked")
    assert (code, found["latency"]["limit_ms"]) == (0, 20), printed
    assert "at most 20 ms" in printed


def test_packages_for_tensorrt_compile_and_say_in_one_sentence_what_is_missing(packaged, monkeypatch, capsys):
    folder = packaged("tensorrt")
    for script in folder.glob("*.py"):
        compile(script.read_text(encoding="utf-8"), script.name, "exec")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "trtexec --onnx=onnx/model.onnx --saveEngine=model.engine" in card
    assert "--maxShapes=images:1x3x16x16" in card
    for name in ("predict.py", "engine.py"):
        said = alone(folder / name, "numpy,PIL", str(folder / "golden/00-colour.png"))
        assert (said.returncode, said.stderr) == (2, "error: tensorrt is not the runtime, numpy or pillow\n")


def _swap_weights(folder, finished):
    shutil.copyfile(finished.root / "original.onnx", folder / "onnx/model.onnx")


def _other_filter(folder, finished):
    _edit_json(folder / "preprocess.json", lambda made: made.update(interpolation="bicubic"))


def _blue_first(folder, finished):
    script = folder / "predict.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(
        text.replace("np.asarray(square, np.float32)", "np.asarray(square, np.float32)[..., ::-1]"), "utf-8"
    )


def _follow_rotation(folder, finished):
    script = folder / "predict.py"
    text = script.read_text(encoding="utf-8").replace("from PIL import Image\n", "from PIL import Image, ImageOps\n")
    script.write_text(text.replace('image.convert("RGB")', 'ImageOps.exif_transpose(image).convert("RGB")'), "utf-8")


def _edit_golden(folder, finished):
    _edit_json(folder / "golden/golden.json", lambda made: made["images"][3]["logits"].__setitem__(2, 1.0))


def _edit_json(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "pixels", "outputs"),
    [
        (_swap_weights, 0, False),
        (_other_filter, 9, False),  # all but those that are not scaled
        (_blue_first, 11, False),  # all but the grey image
        (_follow_rotation, 1, None),
        (_edit_golden, 0, False),
    ],
    ids=["weights", "filter", "channels", "rotation", "golden"],
)
def test_what_was_changed_together_with_its_checksum_is_found(changed, finished, change, pixels, outputs):
    change(changed, finished)
    sum_again(changed)
    code, printed, found = verify(changed)
    assert code == 1, printed
    assert found["files"]["wrong"] == []
    assert len(found["preprocessing"]["different"]) == pixels
    assert outputs is None or found["outputs"]["passed"] is outputs
    assert (found["passed"], printed.splitlines()[-1][:6]) == (False, "FAILED")


def test_a_changed_model_is_found_and_not_run(changed):
    with (changed / "onnx/model.onnx").open("ab") as file:
        file.write(b"more")
    code, printed, found = verify(changed)
    assert code == 1
    assert printed.startswith("files: onnx/model.onnx was changed since it was packaged\nFAILED")
    assert "outputs" not in found
    assert found["passed"] is False


@pytest.mark.parametrize("name", ["onnx/model.onnx", "golden/07-colour.png", "predict.py"])
def test_a_file_that_is_used_and_not_listed_is_found(changed, name):
    sum_again(changed, without=name)
    code, printed, _ = verify(changed)
    assert (code, printed.splitlines()[0]) == (1, f"files: {name} is not listed in SHA256SUMS")


def test_a_call_that_takes_too_long_fails_and_a_missing_runtime_cannot_be_checked(changed, monkeypatch):
    code, printed, found = verify(changed, "--limit-ms", "1e-6")
    assert (code, found["latency"]["passed"], found["outputs"]["passed"]) == (1, False, True)
    assert found["latency"]["low_ms"] <= found["latency"]["median_ms"] <= found["latency"]["high_ms"]
    code, printed, found = verify(changed, "--device", "Nowhere")
    assert (code, found) == (2, None)
    assert "ONNX Runtime has no NowhereExecutionProvider" in printed
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, printed, found = verify(changed)
    assert (code, found) == (2, None)
    assert printed.startswith("error: it could not be checked: import of onnxruntime halted")
    with pytest.raises(SystemExit) as left:
        verify(changed, "--calls", "3")
    assert left.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--for", "ncnn"), "there are no packages for ncnn yet: convert slim/model.onnx"),
        (("--for", "litert"), "there are no packages for litert yet"),
        (("--for", "onnxruntimr"), "--for is 'onnxruntimr'; did you mean 'onnxruntime'?"),
        (("--for", "executorch", "--precision", "fp16"), "packages for executorch are of fp32, int8"),
        (("--for", "executorch"), "no model.pte on record for executorch: make it with 'slimsight export"),
        (("--for", "openvino", "--precision", "fp16"), "--to onnx --precision fp16'"),
        (("--for", "openvino", "--precision", "int8"), "--to onnx --precision int8'"),
        (("--for", "tensorrt", "--precision", "int8"), "--set export.int8.forms=[u8,s8]'"),
        (("--for", "openvino", "--precision", "int4"), "--precision is 'int4'"),
        (("--for", "openvino", "--precision", "fp16", "--original"), "the run has no original in FP16"),
        (("--for", "openvino", "--precision", "int8", "--original"), "the run has no original in INT8"),
        (("--for", "openvino", "--latency", "20"), "--latency: '20' is not a valid limit on latency on a device"),
        (("--for", "openvino", "--push-to-hub", "no-owner"), "--push-to-hub is 'no-owner': give OWNER/NAME"),
    ],
)
def test_what_there_is_no_package_of_is_said_in_a_sentence(say, finished, arguments, sentence, tmp_path):
    said = say("package", finished.root, *arguments, "--out", tmp_path / "out")
    assert said.code == 2
    assert sentence in said.error.replace("\n", " ")
    assert not (tmp_path / "out").exists()


def test_a_run_whose_file_was_changed_is_not_packaged(say, finished, tmp_path):
    root = finished.copy(tmp_path / "run")
    with (root / "slim/model.onnx").open("ab") as file:
        file.write(b"more")
    said = say("package", root, "--for", "onnxruntime", "--out", tmp_path / "out")
    assert (said.code, "was changed since it was written" in said.error) == (2, True)


def test_the_hub_gets_the_packages_files_or_a_sentence(say, finished, monkeypatch, tmp_path):
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = say("package", finished.root, "--for", "onnxruntime", "--out", tmp_path / "a", "--push-to-hub", "me/model")
    assert (said.code, "pip install 'slimsight[hub]'" in said.error) == (2, True)
    assert not (tmp_path / "a").exists()
    calls = []

    class Api:
        def create_repo(self, name, **options):
            calls.append((name, options))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            calls.append((repo_id, folder_path, len(allow_patterns)))

    fake = SimpleNamespace(HfApi=Api, errors=SimpleNamespace(HfHubHTTPError=ConnectionError))
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    said = say("package", finished.root, "--for", "onnxruntime", "--out", tmp_path / "a", "--push-to-hub", "me/model")
    assert said.code == 0, said.err
    assert calls == [("me/model", {"private": True, "exist_ok": True}), ("me/model", str(tmp_path / "a"), 21)]
    said = say("package", finished.root, "--for", "onnxruntime", "--out", "a.zip", "--push-to-hub", "me/model")
    assert (said.code, "uploads a folder" in said.error) == (2, True)


def test_without_labels_there_are_numbers_and_no_accuracy(finished, tmp_path):
    report = finished.report
    unlabelled = report.model_copy(update={"data": report.data.model_copy(update={"labels": "none"})})
    for model in ("original", "slim"):
        figures = getattr(report, model).model_copy(update={"val_accuracy": None, "test_accuracy": None})
        unlabelled = unlabelled.model_copy(update={model: figures})
    stated = read_metadata(finished.root / "slim/model.onnx")
    assert _labels(stated, report) == (list(stated.classes), True)
    assert _labels(stated, unlabelled) == (list(stated.classes), False)
    assert _labels(replace(stated, classes=()), report) == ([str(n) for n in range(10)], False)
    assert _labels(replace(stated, classes=("a\nb", "c\x1b[31m")), report)[0] == [r"a\nb", r"c\x1b[31m"]
    chosen = choose_file(read_run(finished.root), unlabelled, TARGETS["onnxruntime"], "fp32", original=False)
    options = {"original": False, "files": {}, "latency_ms": None, "golden": 3, "labels_known": False}
    card = render_card(unlabelled, finished.recipe, chosen, TARGETS["onnxruntime"], "fp32", **options)
    assert "model-index" not in yaml.safe_load(card.split("---\n")[1])
    assert "`labels.txt` holds numbers" in card
    assert "The accuracy of this file itself was not measured" in card


def test_a_card_stays_a_card_whatever_the_names(finished):
    evil = "x\n---\nlicense: mit\n# <script> [a](b) `c`"
    report = finished.report.model_copy(update={"model": finished.report.model.model_copy(update={"name": evil})})
    recipe = finished.recipe.model_copy(
        update={"model": finished.recipe.model.model_copy(update={"name": "timm:resnet18.a1_in1k"})}
    )
    chosen = choose_file(read_run(finished.root), report, TARGETS["openvino"], "fp32", original=False)
    options = {"original": False, "files": {}, "latency_ms": 3.0, "golden": 3, "labels_known": True}
    card = render_card(report, recipe, chosen, TARGETS["openvino"], "fp32", **options)
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    read = yaml.safe_load(front)
    assert (read["license"], read["base_model"]) == ("unknown", "timm/resnet18.a1_in1k")
    assert read["model-index"][0]["name"] == evil
    assert body.splitlines()[1].startswith(r"# x --- license: mit # \<script> \[a](b) \`c\`: ")


def test_a_file_that_failed_its_comparison_is_not_packaged_for_that_runtime(finished):
    rows = [
        row.model_copy(update={"passed": row.runtime != "onnxruntime-cpu", "max_abs": 0.3})
        for row in finished.report.parity
    ]
    report = finished.report.model_copy(update={"parity": tuple(rows)})
    run = read_run(finished.root)
    with pytest.raises(ExportError, match=r"slim/model.onnx does not compute what PyTorch computes in onnxruntime-cpu"):
        choose_file(run, report, TARGETS["onnxruntime"], "fp32", original=False)
    chosen = choose_file(run, report, TARGETS["openvino"], "fp32", original=False)
    assert "onnxruntime-cpu fp32, batch 1: largest difference of logits 3.0e-01" in chosen.proof
