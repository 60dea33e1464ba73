"""The book's claims: what a source says, what was measured, and whether it holds.

The statements stand in ``book/claims.yml``; a chapter measures one and calls `claim`, which prints a card and stops the
build if the outcome is not the expected one.
"""

import functools
import html
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnorm.extras import needed_for
from resnorm.lab.record import PACKAGE
from resnorm.lab.store import write_atomically

_FIELDS = {"id", "statement", "source", "chapter", "expected"}
_SYMBOLS = {"holds": "✓", "holds only when": "◐", "does not hold": "✗", "undecided": "?", "not yet measured": "…"}
_COLOURS = {"holds": "#009E73", "holds only when": "#E69F00", "does not hold": "#D55E00"}
_GREY = "#787878"


class ClaimFailed(AssertionError):
    """Say that a measurement contradicts what ``book/claims.yml`` expects."""


@dataclass(frozen=True)
class Card:
    """Show one claim with its verdict; ``measured`` is there for the prose to quote."""

    id: str
    statement: str
    source: str
    chapter: str
    verdict: str
    measured: Any
    published: str | None = None
    note: str | None = None

    @property
    def kind(self) -> str:
        """The verdict without its condition: holds, holds only when, does not hold, undecided."""
        return "holds only when" if self.verdict.startswith("holds only when") else self.verdict

    def rows(self) -> list[tuple[str, str]]:
        """What stands below the statement: pairs of a label and a text."""
        pairs = [("Measured here", _text(self.measured)), ("Published", self.published), ("Note", self.note)]
        return [("Claimed by", cite(self.source)), *((label, text) for label, text in pairs if text)]

    def __str__(self) -> str:
        rows = "\n".join(f"    {label}: {text}" for label, text in self.rows())
        return f"{_SYMBOLS[self.kind]} {self.verdict}: {self.statement}\n{rows}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Colours of text and background are the page's own, so that the card reads in its light and its dark form.
        rows = "".join(f'<div style="opacity:.85"><b>{label}:</b> {html.escape(text)}</div>' for label, text in self.rows())
        return (
            f'<div class="claim" id="claim-{self.id}" role="note" style="border:1px solid #78787866;border-left:.35em '
            f'solid {_COLOURS.get(self.kind, _GREY)};border-radius:.3em;padding:.6em 1em;margin:1em 0">'
            f"<div><b>{_SYMBOLS[self.kind]} Claim: {html.escape(self.verdict)}</b></div>"
            f'<div style="margin:.25em 0;font-size:1.05em">{html.escape(self.statement)}</div>{rows}</div>'
        )


def claim(id: str, measured: Any, holds: bool | None, published: str | None = None, note: str | None = None) -> Card:
    """State what was measured on a claim of the book and whether it holds; return its card.

    ``id``: an entry of ``book/claims.yml``; ``measured``: a text, a number or a dictionary of numbers; ``holds``: True,
    False, or None where the measurement cannot tell (see `resnorm.lab.Difference`); ``published``:
    the published figure with its source; ``note``: where the measurement stops. Writes the verdict into the folder that
    RESNORM_CLAIMS names, if it is set.
    Raises ClaimFailed if ``holds`` is not what the entry expects, ValueError for an unknown id, TypeError if ``holds``
    is neither a truth value nor None.
    """
    entries = {entry["id"]: entry for entry in read_claims()}
    if id not in entries:
        raise ValueError(f"there is no claim {id!r} in book/claims.yml; add it, or use one of {', '.join(entries)}")
    if holds is not None and type(holds).__name__ not in ("bool", "bool_"):
        raise TypeError(f"holds is {holds!r}; give one True or False, or None where the measurement cannot tell")
    entry = entries[id]
    expected = entry["expected"]
    outcome = "undecided" if holds is None else "holds" if holds else "does not hold"
    verdict = expected if outcome == "holds" and expected.startswith("holds") else outcome
    card = Card(id, entry["statement"], entry["source"], entry["chapter"], verdict, _plain(measured), published, note)
    if expected == "not yet measured":
        raise ClaimFailed(f"the claim {id!r} is now measured ({verdict}); write this as `expected` in book/claims.yml")
    if verdict != expected:
        raise ClaimFailed(f"the claim {id!r} is expected to be {expected!r}, but {verdict}; measured {_text(measured)}")
    if folder := os.environ.get("RESNORM_CLAIMS"):
        verdict_json = json.dumps(asdict(card), ensure_ascii=False, indent=1, sort_keys=True)
        write_atomically(Path(folder) / f"{id}.json", verdict_json + "\n")
    return card


def read_claims() -> list[dict[str, str]]:
    """Read ``book/claims.yml``: entries with id, statement, source, chapter, expected, and reason if not yet measured.

    Raises ValueError naming the entry and the field that is missing, unknown or wrong.
    """
    with needed_for("claims of the book"):
        import yaml

    path = _book_file("claims.yml")
    entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    seen = set()
    for entry in entries:
        name = entry.get("id") or entry
        needed = _FIELDS | ({"reason"} if entry.get("expected") == "not yet measured" else set())
        if set(entry) != needed:
            wrong = ", ".join(sorted(set(entry) ^ needed))
            fields = ", ".join(sorted(needed))
            raise ValueError(f"claims.yml: {name!r} has missing or unknown fields: {wrong}; it needs {fields}")
        expected = str(entry["expected"])
        if (expected not in _SYMBOLS and not expected.startswith("holds only when ")) or expected == "holds only when":
            raise ValueError(
                f"claims.yml: {name!r} expects {expected!r}; allowed: holds, holds only when ..., does not hold, "
                "undecided, not yet measured"
            )
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(entry["id"])) or entry["id"] in seen:
            raise ValueError(f"claims.yml: the id {name!r} is used twice or is not lower-case words joined by hyphens")
        seen.add(entry["id"])
    return entries


def cite(source: str) -> str:
    """Return "Ba et al. (2016)" for a citation key of ``book/references.bib``; any other text as it is."""
    return _citations().get(source, source)


@functools.cache
def _citations() -> dict[str, str]:
    try:
        text = _book_file("references.bib").read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    found = {}
    for key, body in re.findall(r"^@\w+\{([^,\s]+),(.*?)^\}", text, flags=re.MULTILINE | re.DOTALL):
        author = re.search(r"^\s*author\s*=\s*[{\"](.*?)[}\"],?\s*$", body, flags=re.MULTILINE)
        year = re.search(r"^\s*year\s*=\s*[{\"]?(\d{4})", body, flags=re.MULTILINE)
        if author and year:
            people = [_surname(person) for person in author[1].split(" and ")]
            names = " and ".join(people) if len(people) <= 2 else f"{people[0]} et al."
            found[key] = f"{names} ({year[1]})"
    return found


def _surname(person: str) -> str:
    first, comma, _ = person.partition(",")
    return (first if comma else person.split()[-1]).strip(" {}")


def _book_file(name: str) -> Path:
    """A file of the book, from the checkout or, in an installed package, from the copy that it carries."""
    for folder in (PACKAGE.parent / "book", PACKAGE / "book"):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(f"there is no book/{name}; work in a checkout of the repository, or install resnorm again")


def _plain(measured: Any) -> Any:
    if isinstance(measured, dict):
        return {str(key): _plain(value) for key, value in measured.items()}
    # NumPy's and torch's numbers are no JSON.
    return measured.item() if hasattr(measured, "item") else measured


def _text(measured: Any) -> str:
    measured = _plain(measured)
    if isinstance(measured, dict):
        return "; ".join(f"{key}: {_text(value)}" for key, value in measured.items())
    if isinstance(measured, float):
        return f"{measured:.4g}"
    return "" if measured is None else str(measured)
