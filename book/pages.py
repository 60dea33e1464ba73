"""The generated pages: variant gallery, claims ledger, bibliography, API reference."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import nbformat

from book import benchmarks, forecasts, opening_figure
from book.chapters import Project
from resnorm.claims import LEVELS, VERDICTS, Card

# The package's modules from the bottom up: a module imports only from those before it (tests/test_structure.py).
MODULES = (
    "extras",
    "compiled",
    "norms",
    "recursion",
    "drawing",
    "letters",
    "words",
    "streams",
    "branches",
    "init",
    "catalog",
    "models",
    "theory",
    "probes",
    "data",
    "training",
    "claims",
    "plots",
    "lab",
)
GROUPS = {
    "generic": ("Around any branch", "`F` stands for any learned function: an MLP, two convolutions, attention."),
    "image": ("Convolutional blocks", "`C` is a convolution, `r` a ReLU; the norm is a batch norm unless you choose another."),
    "transformer": ("Transformer layers", "`A` is self-attention, `X` attention to a memory, `M` a feed-forward network."),
    "stream": (
        "Skips that cross the blocks",
        "The word is one block; [the stream](api/streams.md) says what the block reads of those before it.",
    ),
}


def write_pages(project: Project, source: Path, verdicts: dict[str, dict]) -> None:
    """Write every generated page into the folder that Jupyter Book reads."""
    keys = bibliography_keys(project)
    measured = benchmarks.read(project.root / "results/benchmarks")
    (source / "api").mkdir(exist_ok=True)
    pages = {
        "gallery": gallery(measured),
        "claims": ledger(project, verdicts, keys, source),
        "api/index": api_index(),
        "api/command_line": command_line(project),
    }
    pages |= {f"api/{name}": api(name, keys) for name in MODULES}
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    for page in sorted(source.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if benchmarks.PLACEHOLDER.search(text):
            text, missing = benchmarks.fill(text, measured, source)
            page.write_text(text, encoding="utf-8")
            if missing:
                print(f"  {page.stem}: not measured yet: {', '.join(missing)}")
    index = source / "index.md"
    figure = f"![{opening_figure.draw(source / 'opening_figure.svg')}](opening_figure.svg)"
    index.write_text(index.read_text(encoding="utf-8").replace("OPENING_FIGURE", figure), encoding="utf-8")


def bibliography_keys(project: Project) -> list[str]:
    return re.findall(r"^@\w+\{(\w+),", (project.root / "book/references.bib").read_text(encoding="utf-8"), re.MULTILINE)


# -------------------------------------------------------------------------------- gallery


def gallery(measured: dict[str, dict] | None = None) -> str:
    """Every variant of the catalog: word, equation, drawing, properties, cost where it is `measured`, citation."""
    from resnorm.catalog import NOT_BUILT, VARIANTS

    parts = [
        "# The variant gallery",
        "One letter per operation, run from left to right; upper case is a learned branch, lower case is glue. "
        "`n` normalises, `a` adds the skip, `r` is an activation; square brackets hold branches side by side, and after a bar the "
        "skip is taken anew. [The reference](api/words.md) has all letters. "
        "This page is generated from `resnorm.catalog.VARIANTS`: the word, the equation and the drawing all come from "
        "the same string that builds the module.",
        benchmarks.costs(measured or {}),
    ]
    for tag, (title, sentence) in GROUPS.items():
        parts += [f"## {title}", sentence, *(_variant(one, measured or {}) for one in VARIANTS.values() if tag in one.tags)]
    parts += [
        "## Not built",
        "What the literature has and the catalog has not, with the reason.",
        "\n".join(f"- **{name}**: {reason}" for name, reason in NOT_BUILT.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _variant(variant, measured: dict[str, dict]) -> str:
    width = 64
    block = variant.block(width)
    branches = sum(p.numel() for name, part in block.named_children() if name.split("_")[1].isupper() for p in part.parameters())
    learned = sum(parameter.numel() for parameter in block.parameters()) - branches
    options = "".join(f", {name}={value!r}" for name, value in variant.options.items())
    equation, needs, make = block.equation(latex=True), block.ends_in_merge, f".block({width}{options})"
    if variant.stream:
        stream = variant.carry(width, blocks := 12)
        learned = blocks * learned + sum(parameter.numel() for parameter in stream.parameters())
        branches *= blocks
        equation = _stream_equation(stream)
        needs, make = stream.sums, f".carry({width}, {blocks}{options})"
    properties = [
        f"`{block.word}`",
        f'`variant("{variant.name}"){make}`',
        f"{learned:,} of {learned + branches:,} parameters lie outside the branches",
        "a stack needs a last norm" if needs else "a stack needs no last norm",
    ]
    properties += [cost] if (cost := benchmarks.cost_of(variant.name, measured)) else []
    properties += [f"initialised by [`{variant.init}`](api/init.md)"] if variant.init else []
    return (
        f"(variant-{variant.name.replace('_', '-')})=\n### {variant.title}\n\n"
        f"{variant.sentence} {{cite:t}}`{variant.cite}`\n\n"
        f':::{{div}} variant\n```{{raw}} html\n<figure class="word">{block.draw()}</figure>\n```\n\n'
        f"$$\n{equation}\n$$\n:::\n\n"
        f":::{{div}} properties\n{' · '.join(properties)}\n:::"
    )


def _stream_equation(stream) -> str:
    """The equation of a stream: the first that its docstring shows."""
    return re.search(r"\$\$(.+?)\$\$", inspect.getdoc(type(stream)), re.DOTALL)[1].strip()


# -------------------------------------------------------------------------------- ledger


def ledger(project: Project, verdicts: dict[str, dict], keys: list[str], source: Path) -> str:
    """Every claim of the book with its verdict, by level of evidence: what this build measured, and what is published."""
    cards = [_card(entry, verdicts.get(entry["id"])) for entry in project.claims]
    reading = [*project.chapters, *(card.chapter for card in cards)].index
    counts = Counter(card.kind for card in cards)
    total = ", ".join(
        f"{sign} {counts[kind]} {kind.replace('only when', 'on a condition')}" for kind, sign in VERDICTS.items() if counts[kind]
    )
    parts = [
        "# The claims ledger",
        "Every claim that a chapter tests, with what this build measured. A claim is an assertion in its notebook: "
        "when a measurement contradicts its verdict, the book does not build. A published figure from secondary "
        "sources is marked as such.",
        "The claims are sorted by their level of evidence, and then by chapter. [](how_this_book_decides.md) has the rules.",
        f"{len(cards)} claims: {total}." if cards else "There are no claims yet.",
    ]
    if refuted := [card for card in cards if card.kind == "does not hold"]:
        parts += ["## What did not hold", "Each sentence leads to its measurement, which says where it was made."]
        parts += ["\n".join(f"- {{ref}}`{card.statement} <claim-{card.id}>` ({card.level})" for card in refuted)]
    for level, meaning in LEVELS.items():
        of_level = [card for card in cards if card.level == level]
        if not of_level:
            continue
        parts += [f"## {level.capitalize()}", f"{len(of_level)} claims: {meaning}."]
        for chapter in sorted({card.chapter for card in of_level}, key=reading):
            exists = chapter in project.chapters
            link = f"Measured in [](notebooks/{chapter}.ipynb)." if exists else "The chapter is still to be written."
            rows = [_claim(card, keys) for card in of_level if card.chapter == chapter]
            parts += [f"### {_title(project, chapter)} ({level})", link, *rows]
    parts += forecasts.section(cards, source)
    return "\n\n".join(parts) + "\n"


def _card(entry: dict, verdict: dict | None) -> Card:
    """The card that a chapter has written, or one that says why there is none."""
    facts = {key: entry[key] for key in ("id", "statement", "source", "chapter", "level")}
    facts["forecast"] = entry.get("forecast")
    return Card(**facts | (verdict or {"verdict": "not yet measured", "measured": None, "note": entry.get("reason")}))


def _title(project: Project, chapter: str) -> str:
    """A chapter's title: the first line of its notebook."""
    if chapter not in project.chapters:
        return chapter.replace("_", " ").capitalize()
    return nbformat.read(project.notebook(chapter), 4).cells[0].source.splitlines()[0].removeprefix("# ")


def _claim(card: Card, keys: list[str]) -> str:
    rows = card.rows(source=_cited(card.source, keys))
    details = "".join(f"\n- **{name}:** {_cited(str(value), keys)}" for name, value in rows)
    css = card.kind.replace(" ", "-")
    return (
        f"(claim-{card.id})=\n:::{{admonition}} {card.symbol} {card.verdict.capitalize()}\n:class: verdict {css}\n"
        f"{_cited(card.statement, keys)}\n{details}\n:::"
    )


# -------------------------------------------------------------------------------- API reference


def api_index() -> str:
    """The list of modules, each with the first sentence of its docstring."""
    rows = []
    for name in MODULES:
        first = inspect.getdoc(importlib.import_module(f"resnorm.{name}")).split("\n\n")[0].replace("\n", " ").replace("|", r"\|")
        rows.append(f"| [{name}]({name}.md) | {first} |")
    return (
        "\n".join(
            [
                "# API reference\n",
                "From the docstrings. A module imports only from modules above it. The most used names come straight "
                "from `resnorm`: `from resnorm import Block, norm, Stack, VARIANTS, fit`.\n",
                "| module | what it does |",
                "|---|---|",
                *rows,
                "| [command line](command_line.md) | The same experiments from a terminal: `python -m resnorm`. |",
            ]
        )
        + "\n"
    )


def api(name: str, keys: list[str]) -> str:
    """A module's page: its docstring, then its public classes and functions in the order of the source."""
    module = importlib.import_module(f"resnorm.{name}")
    objects = public_objects(module)
    parts = [f"# {name}", f"```{{py:module}} resnorm.{name}\n```", _cited(inspect.getdoc(module) or "", keys)]
    parts += [_object(module.__name__, label, one, keys) for label, one in objects]
    return "\n\n".join(parts) + "\n"


def public_objects(module: ModuleType) -> list[tuple[str, object]]:
    """The classes and functions of a module with a docstring: of a package, what its `__all__` lists."""
    package = hasattr(module, "__path__")
    names = module.__all__ if package else [name for name in vars(module) if not name.startswith("_")]
    found = [(name, getattr(module, name)) for name in names]
    found = [(name, one) for name, one in found if inspect.isclass(one) or inspect.isfunction(one)]
    found = [(name, one) for name, one in found if one.__doc__ and (package or one.__module__ == module.__name__)]
    return found if package else sorted(found, key=lambda pair: inspect.getsourcelines(pair[1])[1])


def _object(module: str, name: str, one: object, keys: list[str]) -> str:
    kind = "class" if inspect.isclass(one) else "function"
    body = [_cited(inspect.getdoc(one), keys)]
    if kind == "class":
        for method, function in vars(one).items():
            function = getattr(function, "__func__", function)
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                body.append(
                    _directive("method", f"{method}{_signature(function, method=True)}", _cited(inspect.getdoc(function), keys), 4)
                )
            elif isinstance(function, property) and function.__doc__:
                body.append(_directive("property", method, _cited(inspect.getdoc(function), keys), 4))
    return _directive(kind, f"{name}{_signature(one)}", "\n\n".join(body), 6, module)


def _directive(kind: str, signature: str, body: str, colons: int, module: str = "") -> str:
    option = f":module: {module}\n" if module else ""
    return f"{':' * colons}{{py:{kind}}} {signature}\n{option}\n{body}\n{':' * colons}"


def _signature(one: object, method: bool = False) -> str:
    """The signature without what no reader wants: `self`, the repr of a factory, quotes around an annotation."""
    try:
        signature = inspect.signature(one)
    except ValueError:
        return "()"
    parameters = list(signature.parameters.values())
    if method and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    plain = (bool, int, float, str, tuple, type(None), inspect.Parameter.empty.__class__)
    parameters = [p if isinstance(p.default, plain) or p.default is p.empty else p.replace(default=_Dots()) for p in parameters]
    text = str(signature.replace(parameters=parameters)).replace("'", '"')
    return re.sub(r'(: |-> )"([^"]*)"', r"\1\2", text).replace("resnorm.", "").replace(" -> None", "")


class _Dots:
    def __repr__(self) -> str:
        return "..."


def command_line(project: Project) -> str:
    """The help of `python -m resnorm` and of each of its commands."""

    def help_of(*command: str) -> str:
        environment = os.environ | {"COLUMNS": "92", "TERMINAL_WIDTH": "92", "NO_COLOR": "1", "PYTHONPATH": str(project.root)}
        call = [sys.executable, "-m", "resnorm", *command, "--help"]
        text = subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        return f"```text\n{text}\n```"

    top = help_of()
    commands = re.findall(r"^  (\w+)\s", top.partition("Commands:")[2], re.MULTILINE)
    parts = ["# Command line", "Every command goes through the same `lab.run` as the notebooks.", top]
    return "\n\n".join(parts + [f"## {name}\n\n{help_of(name)}" for name in commands]) + "\n"


def _cited(text: str, keys: list[str]) -> str:
    """Turn citation keys outside of code into citations."""
    parts = re.split(r"(`+[^`]*`+|\$\$.*?\$\$)", text, flags=re.DOTALL)
    pattern = re.compile(rf"\b({'|'.join(keys)})\b")
    return "".join(part if part.startswith(("`", "$$")) else pattern.sub(r"{cite:t}`\1`", part) for part in parts)
