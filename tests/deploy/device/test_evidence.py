"""verify.json comes back: judged by a budget, shown in the report; of another model, or changed, it is refused."""

import hashlib
import json
import shutil

import numpy as np
import pytest

from slimsight.deploy.device import read_evidence
from slimsight.deploy.package import PackageRequest, package_run
from slimsight.deploy.report import read_report

from ..package.conftest import verify

BUDGET = "device_latency: {fail: 1 s, warn: 0.5 us}\n"


def seal(path, content):
    """Write ``content`` as verify.py does."""
    text = json.dumps({"seal": "0" * 64, **content}, indent=2) + "\n"
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest(), 1), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(finished, cache, tmp_path_factory):
    """What verify.py measured of the run's slim model, and of its original."""
    folder = tmp_path_factory.mktemp("devices")
    found = {}
    for name, original in (("slim", False), ("original", True)):
        request = PackageRequest(finished.root, "onnxruntime", out=folder / name, original=original)
        package_run(request, cache=cache)
        code, printed, content = verify(folder / name)
        assert code == 0, printed
        del content["seal"]
        found[name] = content
    return found


@pytest.fixture
def judge(say, finished, tmp_path):
    """``judge(content)``: ``check`` of the run with a verify.json of ``content``."""

    def check(*contents, budget=BUDGET, run=finished.root):
        (tmp_path / "budget.yaml").write_text(budget, encoding="utf-8")
        given = [word for n, one in enumerate(contents) for word in ("--measured", seal(tmp_path / f"{n}.json", one))]
        wrote = tmp_path / "check.json"
        said = say("check", run, "--budget", tmp_path / "budget.yaml", "--json", wrote, *given)
        checks = json.loads(wrote.read_text(encoding="utf-8"))["checks"] if wrote.exists() else []
        return said, [row for row in checks if row["key"] == "device_latency"]

    return check


def altered(content, *path, to):
    copy = json.loads(json.dumps(content))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return copy


def test_latency_is_judged_by_the_high_end_of_its_interval(made, judge):
    said, (row,) = judge(made["slim"])
    latency = made["slim"]["latency"]
    assert (said.code, row["status"], row["value"], row["limit"]) == (0, "warned", latency["high_ms"], 0.0005)
    times = np.sort(latency["times_ms"])  # of 20 calls: the 6th and the 15th
    assert (latency["calls"], latency["low_ms"], latency["high_ms"]) == (20, times[5], times[14])
    limit = f"{(latency['median_ms'] + latency['high_ms']) / 2 * 1000:.6f} us"
    if latency["median_ms"] < latency["high_ms"]:
        said, (row,) = judge(made["slim"], budget=f"device_latency: {limit}\n")
        assert (said.code, row["status"]) == (1, "failed")


def test_without_a_measurement_the_check_fails(judge):
    said, (row,) = judge()
    assert (said.code, row["status"], row["value"]) == (1, "failed", None)
    assert "nothing was measured on a device" in row["reason"]


@pytest.mark.parametrize("text", ["50%", "0.5", "10", "-1 ms", "true", "{}", "{fail: 1 ms, warn: 2 ms}"])
def test_a_limit_is_a_time(judge, text):
    said, rows = judge(budget=f"device_latency: {text}\n")
    assert (said.code, rows) == (2, [])
    assert "device_latency" in said.error


def test_a_measurement_of_another_model_is_refused(made, judge):
    said, _ = judge(made["original"])
    assert said.code == 2
    assert "original (original.onnx), and its slim model is judged" in said.error
    said, _ = judge(altered(made["slim"], "model", "sha256", to="ab" * 32))
    assert said.code == 2
    assert "is of another model: on the device onnx/model.onnx has the sha256 abababababab..." in said.error


def test_an_onnx_file_takes_only_its_own_measurement(made, say, finished, tmp_path):
    (tmp_path / "budget.yaml").write_text("device_latency: 1 s\n", encoding="utf-8")
    given = ("--budget", tmp_path / "budget.yaml", "--measured", seal(tmp_path / "v.json", made["slim"]))
    assert say("check", finished.root / "slim/model.onnx", *given).code == 0
    said = say("check", finished.root / "original.onnx", *given)
    assert (said.code, "is of another model" in said.error) == (2, True)


@pytest.mark.parametrize(
    ("path", "to", "sentence"),
    [
        (("latency", "median_ms"), 1e-9, "the median of its times is"),
        (("latency", "high_ms"), 1e-9, "the high end of its times is"),
        (("latency", "low_ms"), 1e-9, "the low end of its times is"),
        (("latency", "calls"), 21, "it has 20 times of 21 calls"),
        (("latency", "times_ms", 3), -1.0, "latency.times_ms.3: Input should be greater than 0"),
        (("latency", "batch"), 8, "latency.batch: Input should be 1"),
        (("outputs", "difference"), 0.5, "its logits differ by 0 of the largest, and it says 0.5"),
        (("outputs", "agreement"), 0.5, "its logits agree on 1 of the images, and it says 0.5"),
        (("outputs", "logits", 0), [1.0], "its logits are not of one number of classes"),
        (("outputs", "logits"), None, "it has no logits, and a difference"),
        (("outputs", "images"), 11, "its numbers of golden images differ"),
        (("precision",), "fp64", "precision: Input should be 'fp32', 'fp16' or 'int8'"),
        (("model", "sha256"), "short", "model.sha256: String should match pattern"),
        (("schema",), 2, "is not of verify.py (schema 1)"),
        (("schema",), True, "is not of verify.py (schema 1)"),
        (("files",), None, "is not complete"),
        (("files", "wrong"), ["predict.py was changed"], "measured nothing, as the package on the device is not what"),
        (("surplus",), 1, "surplus: Extra inputs are not permitted"),
    ],
)
def test_what_was_changed_and_sealed_again_contradicts_itself(made, judge, path, to, sentence):
    said, _ = judge(altered(made["slim"], *path, to=to))
    assert said.code == 2
    assert sentence in said.error


def test_a_changed_byte_breaks_the_seal(made, tmp_path, say, finished):
    path = seal(tmp_path / "v.json", made["slim"])
    path.write_text(path.read_text(encoding="utf-8").replace('"calls": 20', '"calls": 30'), encoding="utf-8")
    (tmp_path / "budget.yaml").write_text(BUDGET, encoding="utf-8")
    for file, sentence in (
        (path, "its seal does not fit: run verify.py on the device again"),
        (tmp_path / "budget.yaml", "it has no seal"),
        (tmp_path / "none.json", "none.json: give what 'python verify.py --json FILE' wrote"),
        (tmp_path, "cannot be read"),
    ):
        said = say("check", finished.root, "--budget", tmp_path / "budget.yaml", "--measured", file)
        assert (said.code, sentence in said.error) == (2, True), said.error


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda made: made["preprocessing"]["different"].append("golden/01-grey.png"),
            "1 of 12 golden images give other",
        ),
        (lambda made: _shift(made, 0.1), "logits there differ by "),
        (
            lambda made: made["outputs"].update(logits=None, difference=None, agreement=0.0),
            "logits there are not finite",
        ),
    ],
    ids=["pixels", "logits", "not finite"],
)
def test_a_time_of_a_device_that_computes_something_else_does_not_count(made, judge, spoil, reason):
    """Judged by our limits: those that the file states, and its own verdict, may have been loosened."""
    content = json.loads(json.dumps(made["slim"]))
    spoil(content)
    content["outputs"]["passed"] = content["outputs"]["logits"] is not None
    content["outputs"]["difference_limit"] = 10.0
    said, (row,) = judge(content)
    assert (said.code, row["status"], row["value"]) == (1, "failed", None)
    assert reason in row["reason"]


def _shift(content, share):
    """Logits of the first image moved by ``share`` of the largest."""
    outputs = content["outputs"]
    expected = np.array(outputs["expected"], np.float32)
    logits = expected.copy()
    logits[0] += np.float32(share * np.abs(expected).max())
    outputs["logits"] = logits.tolist()
    outputs["difference"] = float(np.abs(logits - expected).max()) / float(np.abs(expected).max())


def test_the_report_shows_it_and_a_later_check_needs_no_file(made, say, judge, finished, rerun, undrawn, tmp_path):
    root = finished.copy(tmp_path / "run")
    before = read_report(root)
    files = [seal(tmp_path / "v.json", made["slim"]), seal(tmp_path / "w.json", made["original"])]
    said = say("report", root, "--measured", files[0], "--measured", files[1])
    assert (said.code, "its slim model is judged" in said.error) == (2, True)
    assert not (root / "measured").exists(), "nothing is written if one is refused"
    assert say("report", root, "--measured", files[0]).code == 0
    assert say("report", root, "--measured", files[0]).code == 0
    (row,) = read_report(root).devices
    latency = made["slim"]["latency"]
    assert (row.artifact, row.high_ms, row.passed) == ("slim/model.onnx", latency["high_ms"], True)
    assert read_report(root).model_copy(update={"devices": None}) == before
    assert "## On devices" in (root / "report.md").read_text(encoding="utf-8")
    assert made["slim"]["runtime"]["version"] in (root / "report.html").read_text(encoding="utf-8")
    said, rows = judge(run=root)
    assert (said.code, len(rows)) == (0, 1)
    said, rows = judge(made["slim"], run=root)
    assert len(rows) == 1, "the same file is not counted twice"
    assert len(rerun(root).devices) == 1, "a run that is done again keeps it"
    shutil.copy(files[1], root / "measured/other.json")
    (root / "export").mkdir()
    (root / "export/export.json").write_text("damaged", encoding="utf-8")
    assert len(rerun(root).devices) == 1, "what is of another model, or cannot be looked up, is left out"


def test_several_runs_take_no_measurement(say, finished, tmp_path):
    other = finished.copy(tmp_path / "other")
    said = say("report", finished.root, other, "--measured", tmp_path / "v.json")
    assert (said.code, "--measured is of one run, and 2 are given" in said.error) == (2, True)


def test_evidence_is_read_as_it_was_measured(made, tmp_path):
    evidence = read_evidence(seal(tmp_path / "v.json", made["slim"]))
    assert evidence.outputs.images == 12
    assert evidence.runtime.device == ""
    assert evidence.latency.times_ms == made["slim"]["latency"]["times_ms"]
