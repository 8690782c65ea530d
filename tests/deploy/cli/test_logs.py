import errno
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from slimsight.deploy.cli.terminal import LibraryMessages

LIGHTNING = """
import sys, warnings
from pathlib import Path
from slimsight.deploy.cli.terminal import LibraryMessages
with LibraryMessages() as messages:
    messages.to(Path(sys.argv[1]))
    from slimsight.compress.training import make_fabric
    make_fabric("bf16-mixed")
    warnings.warn("look out")
warnings.warn("afterwards")
"""


def test_what_libraries_say_is_in_the_log_and_not_on_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    command = [sys.executable, "-c", LIGHTNING, str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "bfloat16" not in done.stderr
    assert "look out" not in done.stderr
    assert "afterwards" in done.stderr
    text = log.read_text()
    assert "Using bfloat16 Automatic Mixed Precision" in text
    assert "look out" in text
    assert "afterwards" not in text


def test_everything_is_as_before_when_the_block_ends(tmp_path: Path) -> None:
    handlers, shown = list(logging.getLogger().handlers), warnings.showwarning
    with LibraryMessages() as messages:
        messages.to(tmp_path / "run.log")
        logging.getLogger("some.library").warning("one")
        assert warnings.showwarning is not shown
    logging.getLogger("some.library").warning("two")
    assert logging.getLogger().handlers == handlers
    assert warnings.showwarning is shown
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert line.endswith(" some.library: one")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_a_full_disk_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OSError, match=str(errno.ENOSPC)):
        Path("/dev/full").write_text("x")
    with LibraryMessages() as messages:
        messages.to(Path("/dev/full"))
        logging.getLogger("some.library").warning("lost")
    assert "lost" not in capsys.readouterr().err
