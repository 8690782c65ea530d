import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from slimsight.compress.errors import RunError
from slimsight.compress.files.atomic import atomic_path, read_json, read_tensors, write_json, write_tensors, write_text


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_appears_whole_and_its_folder_with_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.bin"
    with atomic_path(path) as part:
        part.write_bytes(b"123")
        assert part.name == f".x.bin.{os.getpid()}.part"
        assert not path.exists()
    assert path.read_bytes() == b"123"
    assert names(path.parent) == ["x.bin"]


def test_half_a_file_is_removed(tmp_path: Path) -> None:
    def fails() -> None:
        with atomic_path(tmp_path / "x.txt") as part:
            part.write_text("half")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fails()
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_what_stood_there_survives_an_error(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "old")
    with pytest.raises(type(error)), atomic_path(path):
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, r"the disk is full: .*x\.txt could not be written; free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EACCES, r"cannot write .*x\.txt: Permission denied; choose a writable folder with --out"),
        (errno.EROFS, "Read-only file system; choose a writable folder"),
    ],
)
def test_a_full_or_closed_disk_is_told_in_a_sentence(tmp_path: Path, number: int, message: str) -> None:
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(RunError, match=message), atomic_path(tmp_path / "x.txt"):
        raise OSError(number, os.strerror(number))
    assert (tmp_path / "x.txt").read_text() == "old"


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"), atomic_path(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_json_reads_back_and_refuses_nan(tmp_path: Path) -> None:
    value = {"ä": [1, 0.1, None, True], "b": {"c": "d"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_text().endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert read_json(tmp_path / "x.json") == value


def test_tensors_read_back_bit_for_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    tensors = {"view": base.T, "alias": base, "half": base.detach().bfloat16(), "steps": torch.tensor(3)}
    write_tensors(tmp_path / "x.safetensors", tensors, {"kind": "test"})
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
        assert not found[name].requires_grad


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "real.txt").write_text("before")
    (tmp_path / "second").symlink_to(Path("far") / "real.txt")
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "dangling").symlink_to(Path("far") / "new.txt")
    write_text(tmp_path / "first", "after")
    write_text(tmp_path / "dangling", "made")
    assert (tmp_path / "first").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert (tmp_path / "far" / "real.txt").read_text() == "after"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["new.txt", "real.txt"]


def test_links_in_a_circle_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(RunError, match=r"cannot write .*/a: Too many levels of symbolic links"):
        write_text(tmp_path / "a", "x")


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_json(pipe, {"a": 1})
        assert os.read(reader, 100) == b'{\n  "a": 1\n}\n'
    finally:
        os.close(reader)
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_device_is_written_into_and_stays_one(tmp_path: Path) -> None:
    """A link to it, so that a fault costs the test's own link and no device."""
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "gone")
    assert (tmp_path / "null").is_symlink()
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("form", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_is_written_into_where_it_stands(tmp_path: Path, form: str) -> None:
    code = (
        "from pathlib import Path; from slimsight.compress.files.atomic import write_text\n"
        f"print('before'); write_text(Path('{form}'), 'content\\n'); print('after')"
    )
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert out.read_text() == "before\ncontent\nafter\n"
    found = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert found.stdout == b"before\ncontent\nafter\n"


def test_nothing_is_written_into_a_pipe_when_the_block_fails(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="mine"), atomic_path(pipe):
        raise ValueError("mine")
    assert pipe.is_fifo()


def test_the_same_tensors_and_metadata_give_the_same_bytes(tmp_path: Path) -> None:
    from slimsight.compress.files.atomic import read_metadata, read_tensors, write_tensors

    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(3, dtype=torch.int8)}
    metadata = {f"key {k}": f'"{k}" \N{LATIN SMALL LETTER O WITH DIAERESIS}' for k in range(9)}
    written = set()
    for _ in range(12):
        write_tensors(tmp_path / "t.safetensors", tensors, metadata)
        written.add((tmp_path / "t.safetensors").read_bytes())
    assert len(written) == 1
    assert read_metadata(tmp_path / "t.safetensors") == metadata
    read = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
