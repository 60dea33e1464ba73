"""Files that are whole at every moment, and locks that end with their process."""

import signal
import subprocess
import sys

import pytest

from resnorm.training import files
from resnorm.training.files import lock, remove_litter, whole_file

# By its path: the package would import torch first.
HOLD = """
import runpy, sys, time
files = runpy.run_path(sys.argv[1])
what = files["lock"](files["Path"](sys.argv[2])) if sys.argv[3] == "lock" else files["whole_file"](files["Path"](sys.argv[2]), "w")
with what as held:
    if sys.argv[3] == "write":
        held.write("half"), held.flush()
    print("held", flush=True)
    time.sleep(60)
"""


def holding(path, what: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, files.__file__, path, what], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def killed(process: subprocess.Popen) -> None:
    with process:
        process.send_signal(signal.SIGKILL)


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "folder" / "file"
    with whole_file(path, "w") as first:
        first.write("first")
        with whole_file(path, "w") as second:  # which takes nothing of the first one's for litter
            second.write("second")
            assert not path.exists()
        assert path.read_text() == "second"
    assert path.read_text() == "first" and names(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_block_that_raises_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_file(path, "w") as file:
        file.write("half of the new o")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and names(tmp_path) == ["file"]


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path):
    path, other = tmp_path / "[file]", tmp_path / "[file] 2"
    writer, stranger = holding(path, "write"), holding(other, "write")
    remove_litter(tmp_path)
    assert len(names(tmp_path)) == 2
    killed(writer)
    killed(stranger)
    with whole_file(path, "w") as file:
        file.write("whole")
    assert path.read_text() == "whole" and len(names(tmp_path)) == 2  # the other file's is for its own next writer
    remove_litter(tmp_path)
    assert names(tmp_path) == ["[file]"]


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "folder" / "lock"
    with lock(path) as first, lock(path, wait=False) as second:
        assert (first, second) == (True, False)
    process = holding(path, "lock")
    with lock(path, wait=False) as ours:
        assert not ours
    killed(process)
    with lock(path) as ours:
        assert ours
    assert names(path.parent) == []


def test_where_nothing_can_be_locked_everybody_goes_on(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", refused)
    with lock(tmp_path / "lock") as first, lock(tmp_path / "lock", wait=False) as second:
        assert first and second
    with whole_file(tmp_path / "file", "w") as first:
        with whole_file(tmp_path / "file", "w") as second:
            second.write("second")
        first.write("first")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "first"
