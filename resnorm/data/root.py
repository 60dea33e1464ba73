"""Where data sets are kept, and what to tell a reader who does not have them."""

import os
from pathlib import Path


class DataError(OSError):
    """A data set is missing, damaged or out of reach; the message says what to do and which bundled set would serve."""


def data_root(root: str | os.PathLike | None = None) -> Path:
    """The folder of the downloaded data sets: ``root``, else $RESNORM_DATA, else ~/.cache/resnorm."""
    return Path(root or os.environ.get("RESNORM_DATA") or "~/.cache/resnorm").expanduser()
