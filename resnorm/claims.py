"""The book's claims: what a source says, what was measured, and whether it holds.

The statements stand in ``book/claims.yml``, and those that a study decides beside its plan, in ``studies/NAME/claims.yml``.
A chapter measures one and calls `claim`, or `Study.judge`, which prints a card and stops the build if the outcome is not
the expected one.
"""

import functools
import html
import json
import math
import os
import re
import statistics
import string
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnorm.extras import needed_for
from resnorm.training.files import whole_file

PACKAGE = Path(__file__).resolve().parent
NEEDED = ("id", "statement", "source", "chapter", "level", "expected")
# What a contest adds, for the rule that decides it; `Study.judge` hands these to it.
CONTEST = ("rule", "better", "than", "metric", "margin", "where", "conditions", "cannot_refute", "chance", "preset", "tuning")
OPTIONAL = ("reason", "forecast", "published", "note", *CONTEST)
LEVELS = {
    "identity": "algebra, checked by a computation",
    "at initialisation": "measured on networks before training",
    "small training": "measured on small networks trained here",
    "published size": "measured at the size of the publication",
}
VERDICTS = {
    "holds": "✓",
    "holds only when": "◐",
    "does not hold": "✗",
    "undecided": "?",
    "not tested here": "○",
    "not yet measured": "…",
}
_COLOURS = {"holds": "#009E73", "holds only when": "#E69F00", "does not hold": "#D55E00"}
_GREY = "#787878"


class ClaimFailed(AssertionError):
    """Say that a measurement contradicts what the claim's entry expects."""


@dataclass(frozen=True)
class Card:
    """Show one claim with its verdict; ``measured`` is there for the prose to quote."""

    id: str
    statement: str
    source: str
    chapter: str
    level: str
    verdict: str
    measured: Any
    published: str | None = None
    rule: str | None = None
    note: str | None = None
    forecast: float | None = None

    @property
    def kind(self) -> str:
        """The verdict without its condition: holds, holds only when, does not hold, undecided, ..."""
        return kind_of(self.verdict)

    @property
    def symbol(self) -> str:
        """The sign of the verdict."""
        return VERDICTS[self.kind]

    def rows(self, source: str | None = None) -> list[tuple[str, str]]:
        """What stands below the statement: pairs of a label and a text; ``source``: how its author is named."""
        pairs = [
            ("Evidence", f"{self.level}: {LEVELS[self.level]}"),
            ("Measured here", text(self.measured)),
            ("Decided by", self.rule),
            ("Forecast", None if self.forecast is None else f"{self.forecast:.0%}, before the runs"),
            ("Published", self.published),
            ("Note", self.note),
        ]
        return [("Claimed by", source or cite(self.source)), *((label, words) for label, words in pairs if words)]

    def __str__(self) -> str:
        rows = "\n".join(f"    {label}: {words}" for label, words in self.rows())
        return f"{self.symbol} {self.verdict}: {self.statement}\n{rows}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        # Colours of text and background are the page's own, so that the card reads in its light and its dark form.
        rows = "".join(f'<div style="opacity:.85"><b>{label}:</b> {html.escape(words)}</div>' for label, words in self.rows())
        return (
            f'<div class="claim" id="claim-{self.id}" role="note" style="border:1px solid #78787866;border-left:.35em '
            f'solid {_COLOURS.get(self.kind, _GREY)};border-radius:.3em;padding:.6em 1em;margin:1em 0">'
            f"<div><b>{self.symbol} Claim: {html.escape(self.verdict)}</b></div>"
            f'<div style="margin:.25em 0;font-size:1.05em">{html.escape(self.statement)}</div>{rows}</div>'
        )


class Cards(list[Card]):
    """Show several cards, one below the other."""

    def __str__(self) -> str:
        return "\n".join(map(str, self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(card._repr_html_() for card in self)


def kind_of(verdict: str) -> str:
    """A verdict without its condition."""
    return "holds only when" if verdict.startswith("holds only when") else verdict


def claim(
    id: str, measured: Any, holds: bool | None, published: str | None = None, note: str | None = None, untested: str | None = None
) -> Card:
    """State what was measured on a claim of the book and whether it holds; return its card.

    ``id``: an entry of the claims; ``measured``: a text, a number or a dictionary of numbers; ``holds``: True, False, or
    None where the measurement cannot tell; ``published``: the published figure with its source; ``note``: where the
    measurement stops, after what the entry says of both; ``untested``: why this setting cannot speak, which makes the
    verdict "not tested here". Writes the verdict into the folder that RESNORM_CLAIMS names, if it is set.
    Raises ClaimFailed if the outcome is not what the entry expects, ValueError for an unknown id, TypeError if ``holds``
    is neither a truth value nor None.
    """
    if holds is not None and type(holds).__name__ not in ("bool", "bool_"):
        raise TypeError(f"holds is {holds!r}; give one True or False, or None where the measurement cannot tell")
    outcome = "not tested here" if untested else "undecided" if holds is None else "holds" if holds else "does not hold"
    return card(id, measured, outcome, published, joined(untested, note))


def card(
    id: str, measured: Any, outcome: str, published: str | None = None, note: str | None = None, rule: str | None = None
) -> Card:
    """Return the card of a claim with this outcome and write its verdict, as `claim`; "not yet measured" fails nothing."""
    if id not in claims():
        raise ValueError(f"there is no claim {id!r}; add it to book/claims.yml, or use one of {', '.join(claims())}")
    entry = claims()[id]
    expected = entry["expected"]
    verdict = expected if outcome == "holds" and expected.startswith("holds") else outcome
    facts = {key: str(entry[key]) for key in ("statement", "source", "chapter", "level")}
    made = Card(
        id,
        **facts,
        verdict=verdict,
        measured=_plain(measured),
        published=joined(entry.get("published"), published),
        rule=rule,
        note=joined(entry.get("note"), note),
        forecast=entry.get("forecast"),
    )
    if outcome != "not yet measured" and expected == "not yet measured":
        raise ClaimFailed(f"the claim {id!r} is now measured ({verdict}); write this as `expected` in {entry['file']}")
    if outcome != "not yet measured" and verdict != expected:
        raise ClaimFailed(f"the claim {id!r} is expected to be {expected!r}, but {verdict}; measured {text(measured)}")
    if folder := os.environ.get("RESNORM_CLAIMS"):
        with whole_file(Path(folder) / f"{id}.json", "w") as file:
            file.write(json.dumps(asdict(made), ensure_ascii=False, indent=1, sort_keys=True) + "\n")
    return made


@functools.cache
def claims() -> dict[str, dict[str, Any]]:
    """The claims of the book by their id, read once; see `read_claims`."""
    return {entry["id"]: entry for entry in read_claims(_book_file("claims.yml").parent.parent)}


def read_claims(home: Path) -> list[dict[str, Any]]:
    """Read the claims below a folder: ``book/claims.yml`` and ``studies/*/claims.yml``.

    Each entry has an id, a statement, a source, a chapter, the level of evidence and what is expected; a reason if it is not
    yet measured; and, if a study decides it, its rule with what that needs. Added here: `file`, and `study` where there is one.
    Raises ValueError naming the file, the entry and the field that is missing, unknown or wrong.
    """
    with needed_for("claims of the book"):
        import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries: dict[str, dict[str, Any]] = {}
    for path in [home / "book/claims.yml", *sorted(home.glob("studies/*/claims.yml"))]:
        file = path.relative_to(home).as_posix()
        study = {} if path.parent.name == "book" else {"study": path.parent.name}
        for entry in yaml.load(path.read_text(encoding="utf-8"), loader) or []:
            _check_entry(entry, file)
            if entry["id"] in entries:
                raise ValueError(f"{file}: the id {entry['id']!r} is used twice, here and in {entries[entry['id']]['file']}")
            entries[entry["id"]] = entry | {"file": file} | study
    return list(entries.values())


def _check_entry(entry: Any, file: str) -> None:
    name = entry.get("id") or entry if isinstance(entry, dict) else entry
    if not isinstance(entry, dict):
        raise ValueError(f"{file}: {name!r} is no entry; write id: ... and the other fields")
    needed = {*NEEDED, *(["reason"] if entry.get("expected") == "not yet measured" else [])}
    if wrong := sorted((needed - set(entry)) | (set(entry) - needed - {*OPTIONAL})):
        fields = ", ".join(sorted(needed))
        raise ValueError(f"{file}: {name!r} has missing or unknown fields: {', '.join(wrong)}; it needs {fields}")
    expected = str(entry["expected"])
    if kind_of(expected) not in VERDICTS or expected == "holds only when":
        allowed = ", ".join("holds only when ..." if kind == "holds only when" else kind for kind in VERDICTS)
        raise ValueError(f"{file}: {name!r} expects {expected!r}; allowed: {allowed}")
    if entry["level"] not in LEVELS:
        raise ValueError(f"{file}: {name!r} has the level {entry['level']!r}; allowed: {', '.join(LEVELS)}")
    for field in ("published", "note"):
        if not isinstance(entry.get(field, ""), str):
            raise ValueError(f"{file}: {name!r} has the {field} {entry[field]!r}; write it as text, in quotation marks")
    forecast = entry.get("forecast")
    if forecast is not None and not (type(forecast) in (int, float) and 0 <= forecast <= 1):
        raise ValueError(f"{file}: {name!r} has the forecast {forecast!r}; give a probability from 0 to 1")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", str(entry["id"])):
        raise ValueError(f"{file}: the id {name!r} is not lower-case words joined by hyphens")


def cite(source: str) -> str:
    """Return "Ba et al. (2016)" for a citation key of ``book/references.bib``; any other text as it is.

    Where several sources would read alike, the year has a letter, in the file's order: "He et al. (2016a)".
    """
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
    alike: dict[str, list[str]] = {}
    for key, label in found.items():
        alike.setdefault(label, []).append(key)
    for label, keys in alike.items():
        for key, letter in zip(keys, string.ascii_lowercase, strict=False) if len(keys) > 1 else ():
            found[key] = f"{label[:-1]}{letter})"
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


def text(measured: Any) -> str:
    """What was measured, as a line: numbers with four figures, a dictionary as its items."""
    measured = _plain(measured)
    if isinstance(measured, dict):
        return "; ".join(f"{key}: {text(value)}" for key, value in measured.items())
    if isinstance(measured, float):
        return f"{measured:.4g}"
    return "" if measured is None else str(measured)


def joined(*texts: str | None) -> str | None:
    """The texts that are there, one after the other; None if there is none."""
    return " ".join(filter(None, texts)) or None


def mean_and_deviation(values: Iterable[float]) -> str:
    """Return "mean ± sample standard deviation" of the finite values, or one value alone; "-" if there is none.

    Both have as many decimals as two figures of the deviation need: "0.912 ± 0.012".
    """
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return f"{finite[0]:.4g}" if finite else "-"
    mean, deviation = statistics.mean(finite), statistics.stdev(finite)
    if not deviation:
        return f"{mean:.4g} ± 0"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"
