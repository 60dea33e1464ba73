"""Packages that the core does not need: an error that names the extra which brings them."""

from collections.abc import Iterator
from contextlib import contextmanager


class MissingExtra(ImportError):
    """A package of an extra is not installed; the message says what needs it and how to install it."""


@contextmanager
def needed_for(purpose: str, extra: str = "lab", instead: str = "") -> Iterator[None]:
    """Import an optional package within this context; ``purpose`` (a plural) and ``extra`` stand in the error.

    ``with needed_for("figures"): import matplotlib``. ``instead``: a sentence on what can be done without the package.
    Raises MissingExtra where a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "resnorm"):
            raise
        raise MissingExtra(
            f'{purpose} need the package {package}, which is not installed: pip install "resnorm[{extra}]". {instead}'.strip()
        ) from error
