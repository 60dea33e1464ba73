"""A build that is killed leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import nbformat
import psutil
import pytest
from test_book import notebook, project  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent
# A kernel is a session of its own, and so may be what it starts.
CHILD = (
    "import subprocess, sys, time;subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'], start_new_session=True)"
)
STARTS = f"""
import subprocess, sys, time
from book.processes import ending_with_this_one
with ending_with_this_one():
    subprocess.Popen([sys.executable, "-c", {CHILD + "; time.sleep(100)"!r}], start_new_session=True)
    time.sleep(0.5)
    print("started", flush=True)
    if sys.argv[1] == "error":
        raise ValueError
    if sys.argv[1] == "end":
        sys.exit()
    if sys.argv[1] != "done":
        time.sleep(100)
"""
BUILDS = """
import sys
from pathlib import Path
from book import chapters
if __name__ == "__main__":
    project = chapters.Project(Path(sys.argv[1]), Path(sys.argv[1]) / "_build")
    chapters.execute_all(project, ["other"], "smoke", False, 1, False)
"""


def started(*words) -> tuple[subprocess.Popen, str]:
    mark = uuid.uuid4().hex
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STARTED_BY_TEST": mark}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    # A shell starts what runs in its background with Ctrl-C ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, *words], env=environment, cwd=ROOT, start_new_session=True, **pipes), mark
    finally:
        signal.signal(signal.SIGINT, before)


def left(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("STARTED_BY_TEST") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def nothing_is_left(mark: str, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while (processes := left(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in processes:
        process.kill()
    return not processes


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, "group", "error", "end"])
def test_what_was_started_ends_with_who_started_it(end):
    process, mark = started("-c", STARTS, end if isinstance(end, str) else "wait")
    with process:
        assert process.stdout.readline() == "started\n"
        if end == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif not isinstance(end, str):
            process.send_signal(end)
    assert nothing_is_left(mark)


def test_what_was_started_stays_where_nothing_went_wrong():
    process, mark = started("-c", STARTS, "done")
    assert process.stdout.readline() == "started\n" and process.wait() == 0
    assert len(left(mark)) == 2
    nothing_is_left(mark, 0)
    process.stdout.close()


def test_a_killed_build_leaves_no_kernel_behind(project):  # noqa: F811
    sign = project.root / "started"
    cell = f"{CHILD}\nopen({str(sign)!r}, 'w').close()\ntime.sleep(100)"
    nbformat.write(notebook(cell), project.root / "notebooks/other.ipynb")
    process, mark = started("-c", BUILDS, str(project.root))
    with process:
        deadline = time.monotonic() + 100
        while not sign.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sign.exists() and len(left(mark)) >= 4
        process.kill()
    assert nothing_is_left(mark)


def test_two_builds_of_one_tree_execute_a_chapter_once(project, tmp_path):  # noqa: F811
    nbformat.write(notebook("import time; time.sleep(3)"), project.root / "notebooks/other.ipynb")
    script = tmp_path / "scripts/build.py"  # beside the project's own package it would be found instead of ours
    script.parent.mkdir()
    script.write_text(BUILDS)
    said = [process.communicate(timeout=180)[0] for process, _ in [started(script, project.root) for _ in range(2)]]
    assert sorted("by another build" in text or "unchanged" in text for text in said) == [False, True], said
    assert [path.name for path in (project.build / "executed/other").glob("*.part")] == []
