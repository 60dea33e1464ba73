"""Processes that end with the one that started them, however it ends.

A kernel is a session of its own and may start others: neither a signal nor the death of the build reaches them. So each
carries a mark in its environment, and a watcher, which waits for the end of the build, ends what carries it.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = "RESNORM_BUILD"


@contextmanager
def ending_with_this_one() -> Iterator[None]:
    """End every process that is started in the block if the block raises, or if this process ends in it, killed or not."""
    before, mark = os.environ.get(MARK), uuid.uuid4().hex
    # In a session of its own: who kills the build's group does not kill the watcher.
    watcher = subprocess.Popen(
        [sys.executable, "-m", "book.processes", mark],
        stdin=subprocess.PIPE,
        start_new_session=True,
        cwd=Path(__file__).parent.parent,
    )
    os.environ[MARK] = mark
    try:
        yield
    except BaseException:
        end_all(mark)
        raise
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        with suppress(BrokenPipeError):
            watcher.communicate(b"done")


def end_all(mark: str) -> None:
    """Kill all processes that carry the mark, and those that they have started meanwhile."""
    import psutil

    clear = 0
    while clear < 2:
        marked = list(_marked(mark))
        clear = 0 if marked else clear + 1
        for process in marked:
            with suppress(psutil.Error):  # it may have ended meanwhile
                process.kill()
        time.sleep(0.1)


def _marked(mark: str) -> Iterator:
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) != mark or process.status() == psutil.STATUS_ZOMBIE:
                continue
            # Python's own tracker serves this process, and ends with it.
            if process.ppid() != os.getpid() or "resource_tracker" not in " ".join(process.cmdline()):
                yield process


if __name__ == "__main__":
    # Until the build says that it is done, or its end closes the pipe.
    if sys.stdin.buffer.read() != b"done":
        end_all(sys.argv[1])
