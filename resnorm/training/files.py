"""Files that are whole at every moment, and locks that end with the process that holds them."""

import glob
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: every writer still has a temporary file of its own, but nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextmanager
def whole_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file that takes the place of ``path`` in one step when the block ends, and does not if the block raises.

    A reader, or a kill at any moment, finds the old file or the new one. Every writer has a temporary file of its own in
    the same folder; what killed writers of this path have left there is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_litter(path.parent, glob.escape(path.name))
    handle, temporary = _own_file(path)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(handle)
            # mkstemp makes files that only their owner reads; these are for everybody.
            os.chmod(temporary, 0o644)
            if fcntl:  # while the lock is held, so that nobody takes the file for litter
                os.replace(temporary, path)
        if not fcntl:  # Windows moves no open file
            os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_litter(folder: Path, name: str = "*") -> None:
    """Remove the temporary files that killed writers of ``name``, a pattern, have left in this folder; a live one's stay."""
    for temporary in folder.glob(f".{name}.*.part") if fcntl else ():
        with suppress(OSError), open(temporary, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while its writer lives
            os.unlink(temporary)


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of this name: True where this process has it, False where another one has and ``wait`` is false.

    The system takes a lock back from a process that ends, however it ends. The file is there as long as somebody holds
    or wants the lock. Where the file system knows no locks, everybody is handed True.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(handle, wait):
                yield False
                return
            # Whoever held it before has removed the file: what is locked then is not what others see, and keeps nobody out.
            if _stands_at(path, handle):
                try:
                    yield True
                finally:
                    with suppress(FileNotFoundError):
                        os.unlink(path)
                return
        finally:
            os.close(handle)


def _own_file(path: Path) -> tuple[int, str]:
    while True:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        # Between the two calls somebody may have taken the file for litter.
        if _locked(handle) and _stands_at(temporary, handle):
            return handle, temporary
        os.close(handle)


def _locked(handle: int, wait: bool = True) -> bool:
    """Lock an open file; False where another process has it. True where files cannot be locked at all."""
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        pass
    return True


def _stands_at(path: str | os.PathLike, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
