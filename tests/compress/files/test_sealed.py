import json
from pathlib import Path

import pytest

from slimsight.compress.errors import Damaged
from slimsight.compress.files.sealed import find_damage, read_sealed, sha256_of_file, write_sealed


def test_every_byte_of_a_sealed_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"name": "é", "figures": [1.5, None], "inner": {"seal": "mine"}}
    write_sealed(path, value)
    assert read_sealed(path) == value
    assert json.loads(path.read_text())["name"] == "é"
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with pytest.raises(Damaged, match=r"^.*a\.json (was changed|is cut off)"):
                read_sealed(path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            read_sealed(path)


def test_a_file_of_an_earlier_version_is_taken_where_that_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_sealed(path, older=True) == {"a": 1}
    with pytest.raises(Damaged, match="or an earlier version wrote it: it has no seal"):
        read_sealed(path)
    for text in ("[1]", "{", "\0\0"):
        path.write_text(text)
        with pytest.raises(Damaged) as found:
            read_sealed(path, older=True)
        assert found.value.path == path
    with pytest.raises(FileNotFoundError):
        read_sealed(tmp_path / "gone.json")


def test_damage_is_told_by_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"12345")
    size, sha256 = 5, sha256_of_file(path)
    assert find_damage(path, size, sha256) is None
    path.write_bytes(b"123")
    assert str(find_damage(path, size, sha256)) == f"{path} is cut off: 3 of 5 bytes are there"
    path.write_bytes(b"123456")
    assert "it has 6 bytes, 5 were recorded" in str(find_damage(path, size, sha256))
    path.write_bytes(b"12344")
    assert f"{sha256[:12]}... was recorded" in str(find_damage(path, size, sha256))
    path.unlink()
    assert str(find_damage(path, size, sha256)) == f"{path} is gone"
