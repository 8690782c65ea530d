import pytest

from slimsight.deploy.machine import describe_machine, device_name, machine_state, steal_share, versions


def test_versions_leave_out_what_is_not_installed() -> None:
    found = versions()
    assert {"python", "slimsight", "torch", "torch-pruning", "fvcore", "onnx"} <= found.keys()
    assert len({"onnxruntime", "onnxruntime-gpu"} & found.keys()) >= 1
    assert all(found.values())


def test_the_device_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert device_name() == "CPU (riscv64, 1 thread)"
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert device_name() == "CPU (riscv64, 2 threads)"
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    assert device_name() == "NVIDIA H200"


def test_what_the_machine_was_busy_with_is_known() -> None:
    before = machine_state()
    sum(range(10**6))
    after = machine_state()
    assert len(after["load_average"]) == 3
    assert after["ticks"] is None or after["ticks"] >= before["ticks"]
    facts = describe_machine()
    assert facts["processor"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]


def test_stolen_time_is_a_share_of_all_time() -> None:
    before, after = {"ticks": 1000, "ticks_stolen": 10}, {"ticks": 1200, "ticks_stolen": 40}
    assert steal_share(before, after) == 0.15
    assert steal_share({"ticks": None, "ticks_stolen": None}, after) is None
    assert steal_share(after, after) is None
