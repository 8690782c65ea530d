"""Budget files: amounts as people write them, and every mistake by its line."""

from pathlib import Path

import pytest

from slimsight.compress.errors import ConfigError
from slimsight.deploy.budget import Amount, BudgetFile, Limit, load_budget


def write(folder: Path, text: str) -> Path:
    path = folder / "budget.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("key", "given_value", "amount"),
    [
        ("macs", 0.5, Amount(0.5, relative=True)),
        ("macs", 1, Amount(1.0, relative=True)),
        ("macs", "50%", Amount(0.5, relative=True)),
        ("macs", "100 %", Amount(1.0, relative=True)),
        ("macs", 20_000_000, Amount(20e6, relative=False)),
        ("macs", "20M", Amount(20e6, relative=False)),
        ("macs", "20e6", Amount(20e6, relative=False)),
        ("macs", "4.5 G", Amount(4.5e9, relative=False)),
        ("macs", "0.5 GMACs", Amount(0.5e9, relative=False)),
        ("macs", "60 MMACs", Amount(60e6, relative=False)),
        ("latency", "3 ms", Amount(3.0, relative=False)),
        ("latency", "60 %", Amount(0.6, relative=True)),
        ("params", "500k", Amount(500e3, relative=False)),
        ("params", "0.5M", Amount(500e3, relative=False)),
        ("size", "1.2MB", Amount(1.2e6, relative=False)),
        ("size", "800 kB", Amount(800e3, relative=False)),
        ("size", "2MiB", Amount(2 * 2**20, relative=False)),
        ("size", "900B", Amount(900.0, relative=False)),
    ],
)
def test_amounts(key: str, given_value: object, amount: Amount) -> None:
    assert getattr(BudgetFile.model_validate({key: given_value}), key) == Limit(amount)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "macs: 20MB",
            r"macs: '20MB' is not a valid limit on MACs: give a ratio to the original up to 1 \(0.5 or 50%\) or",
        ),
        ("macs: 0", "macs: 0 is not a valid limit on MACs"),
        ("macs: -1", "macs: -1 is not a valid limit on MACs"),
        ("macs: true", "macs: True is not a valid limit on MACs"),
        ("macs: .nan", "macs: nan is not a valid limit on MACs"),
        ("macs: [1]", r"macs: \[1\] is not a valid limit on MACs"),
        ("macs: 120%", "macs: '120%' would let MACs grow"),
        ("macs: 40", r"macs: 40 is neither a ratio nor a plausible amount of MACs: .*20M, 500k, "),
        ("params: lots", "params: 'lots' is not a valid limit on parameters"),
        ("size: 1.2 XB", "size: '1.2 XB' is not a valid limit on bytes: .*1.2MB, 800kB, 2MiB"),
        (
            "accuracy: 88",
            r"accuracy: 88 is not a valid accuracy: give a share from 0 to 1 or a percentage \(0.88 or '88%'\)",
        ),
        ("accuracy_drop: 1", "accuracy_drop: 1 is a drop by 100 points: write '1%'"),
        ("accuracy_drop: -1%", "accuracy_drop: '-1%' is not a valid accuracy drop"),
        (
            "parity: false",
            "parity: False is not a valid limit on parity: give true .* remove the line to check nothing",
        ),
        ("parity: 0", "parity: 0 is not a valid limit on parity"),
        ("speedup: fast", r"speedup: 'fast' is not a valid speed-up: give the least ratio allowed \(1.3 or 1.3x\)"),
        ("macs:", "macs: has no value: give one or remove the line"),
        ("mac: 50%", r"mac: unknown key; allowed: macs, params, size, latency, .*; did you mean 'macs'\?"),
        ("speed_up: 2", r"speed_up: unknown key; .*; did you mean 'speedup'\?"),
        ("zzz: 2", r"zzz: unknown key; allowed: macs, params"),
        (
            "",
            "budget: it limits nothing: give at least one of macs, params, size, latency, device_latency, speedup, ",
        ),
        ("macs: 50%\nmacs: 60%", "macs: written twice, in line 1 and line 2; keep one"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"is not a usable budget file:\n  (line \d+: )?{message}"):
        load_budget(write(tmp_path, line))


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_budget(write(tmp_path, "mac: 1\nsize: 3\naccuracy: 88\nspeedup: 1.2\n"))
    assert [line.split(":")[:2] for line in str(caught.value).splitlines()[1:]] == [
        ["  line 1", " mac"],
        ["  line 2", " size"],
        ["  line 3", " accuracy"],
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("macs: [", r"budget.yaml is not YAML \(.*line 1, column 8"),
        ("- macs", r"budget.yaml is not a budget file: it holds \['macs'\], not lines such as 'macs: 50%'"),
        ("half", "is not a budget file: it holds 'half'"),
        ("? [a]\n: 1", r"budget.yaml is not YAML \(line 1, column 3: found unhashable key"),
    ],
)
def test_not_a_budget_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_budget(write(tmp_path, text))


def test_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no budget file at .*none\.yaml: check --budget"):
        load_budget(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot read the budget file .*: it is a folder, and a file is needed"):
        load_budget(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("macs: {fail: 60M, warn: 70M}", "line 1: macs.warn: '70M' never warns before '60M' fails: give a level below"),
        ("accuracy: {fail: 88%, warn: 80%}", "line 1: accuracy.warn: '80%' never warns before '88%' fails: .* above"),
        ("macs:\n  fail: 60M\n  wran: 55M", "line 3: macs.wran: unknown key; .* did you mean 'warn'?"),
        ("macs:\n  fail: 60M\n  warn:", "line 3: macs.warn: has no value"),
        ("macs: {}", "line 1: macs: {} gives no limit: give one value, or {fail: ..., warn: ...}"),
    ],
)
def test_levels_that_mean_nothing(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?").replace("{", r"\{")):
        load_budget(write(tmp_path, line))
