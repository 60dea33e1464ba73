"""Sentences, tables and figures from results/benchmarks/*.json: no measured number of the book is typed by hand.

A page holds placeholders, `{{training_loops.speed}}` or `{{engine.channels_last}}`: the file, and a part of it. A part
that was never measured says so on the page, and `fill` returns its name.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from book.chapters import BuildError

Content = dict[str, Any]
PLACEHOLDER = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
UNITS = {
    "images_per_second": "images/s",
    "tokens_per_second": "tokens/s",
    "peak_memory_bytes": "peak memory",
    "copy_gb_per_second": "copy (GB/s)",
    "matrix_product_gflops": "matrix product (GFLOP/s)",
}
DASH = "–"


def read(folder: Path) -> dict[str, Content]:
    """Every measurement in the folder by its name; none where there is no folder."""
    from resnorm.lab import benchmark

    try:
        return {path.stem: benchmark(path.stem, folder) for path in sorted(folder.glob("*.json"))}
    except ValueError as error:
        raise BuildError(str(error)) from None


# -------------------------------------------------------------------------------- numbers as text


def number(value: float) -> str:
    """Three digits that mean something, thousands with a comma."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.2f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def cell(value: Any, column: str = "") -> str:
    """A value as it stands in a table: a spread as median and range, bytes in MB, an accuracy in per cent."""
    if isinstance(value, dict) and "median" in value:
        return f"{cell(value['median'], column)} ({cell(value['low'], column)}{DASH}{cell(value['high'], column)})"
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " × ".join(map(str, value))
    if isinstance(value, int | float):
        if column.endswith("_bytes"):
            return f"{number(value / 1e6)} MB"
        if "accuracy" in column:
            return f"{100 * value:.2f} %"
        return f"{value:.3f}" if "loss" in column else f"{value:,}" if isinstance(value, int) else number(value)
    return str(value).replace("|", r"\|").replace("us/step", "µs/step")


def machine(content: Content) -> str:
    """Where the numbers come from, as one sentence."""
    where = content.get("provenance", {})
    parts = [f"Measured on {where.get('date', 'an unknown day')[:10]}", str(where.get("device") or "an unknown machine")]
    parts += [f"{where['threads']} thread{'s' if where['threads'] != 1 else ''}"] if where.get("threads") else []
    parts += [f"torch {where['torch']}"] if where.get("torch") else []
    parts += [f"commit {where['commit'][:7]}{'+changes' if '+' in where['commit'] else ''}"] if where.get("commit") else []
    settings = content.get("settings", {})
    parts += [f"{settings['rounds']} rounds"] if settings.get("rounds") else []
    parts += [str(settings[key]) for key in ("model", "data") if isinstance(settings.get(key), str)]
    parts += [f"batches of {settings['batch_size']}"] if settings.get("batch_size") else []
    return f"{', '.join(parts)}."


def small_print(text: str) -> str:
    return f":::{{div}} properties\n{text}\n:::"


def table(rows: Iterable[Content], columns: dict[str, str]) -> str:
    """A Markdown table of the columns that at least one row has."""
    rows = list(rows)
    columns = {key: title for key, title in columns.items() if any(row.get(key) not in (None, "") for row in rows)}
    # A cell of words reads from the left, a cell of numbers from the right.
    left = {key for key in columns if any(isinstance(row.get(key), str | bool) for row in rows)}
    lines = [list(columns.values()), [":---" if key in left else "---:" for key in columns]]
    lines += [[cell(row.get(key), key) for key in columns] for row in rows]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f":::{{div}} measured\n{markdown}\n:::"


def whole_table(rows: list[Content], leave_out: tuple[str, ...] = ("kind",)) -> str:
    """A table of whatever columns the rows have, in their order; what is the same in all rows stands below it."""
    keys = dict.fromkeys(key for row in rows for key in row if key not in leave_out)
    same = [key for key in keys if len(rows) > 1 and all(row.get(key) == rows[0].get(key) for row in rows)]
    # A row without a name would be a row of nothing.
    same = [key for key in same if rows[0].get(key) is not None and not isinstance(rows[0][key], dict)]
    made = table(rows, {key: heading(key) for key in keys if key not in same})
    below = ", ".join(f"{heading(key)} {cell(rows[0][key], key)}" for key in same)
    return f"{made}\n\n{small_print(f'In all rows: {below}.')}" if below else made


def heading(key: str) -> str:
    """A column's name as a reader takes it: the unit in brackets."""
    key = re.sub(r"_(ms|us)(?=_|$)(.*)", r"\2 (\1)", key)
    return re.sub(r"\bus\b", "µs", UNITS.get(key, key.replace("_", " ").removesuffix(" bytes")))


def middle(value: Any) -> float:
    return value["median"] if isinstance(value, dict) else value


# -------------------------------------------------------------------------------- costs: the gallery

_COST = {"time": "time", "forward": "forward", "backward": "backward", "bf16": "time in bf16", "memory": "memory"}
_INPUTS = {"channels_last": "channels last", "contiguous": "contiguous", "tokens": "tokens"}
NO_COSTS = (
    "No cost has been measured yet. `make bench` measures time and memory of every norm and of every placement, and "
    "the tables appear here."
)


def costs(measured: dict[str, Content]) -> str:
    """The tables of the gallery: what a norm costs, and what a placement costs."""
    if "costs" not in measured:
        return f"## What it costs\n\n{NO_COSTS}"
    content = measured["costs"]
    norms = _by_precision(content, "norm", ("norm", "input"))
    order = list(_INPUTS)
    norms.sort(key=lambda row: (order.index(row["input"]) if row["input"] in order else len(order), middle(row["time"])))
    shapes = "; ".join(
        f"{_INPUTS.get(row['input'], row['input'])} {cell(row['shape'])}" for row in {row["input"]: row for row in norms}.values()
    )
    norms = [row | dict(name=f"`{row['norm']}`", on=_INPUTS.get(row["input"], row["input"])) for row in norms]
    parts = [
        "## What it costs",
        "Each number is a ratio: the median of all rounds, with the smallest and the largest in brackets. What is "
        "compared took turns on one machine, without a compiler.",
        small_print(machine(content)),
        "### The norms",
        "One copy of the input is the unit of time: it reads every value once and writes every value once. A norm's "
        "forward pass has to do that, and its backward pass reads two tensors and writes one. So forward and backward "
        "together, the column *time*, cannot be far below two and a half. *Memory* is what is kept for the backward "
        "pass; its unit is the input.",
        table(norms, {"name": "norm", "on": "input"} | _COST),
        small_print(f"Shapes: images {shapes}."),
        "### The placements",
        "The unit is the plain skip around the same branches, so that what is left is the price of the norms and "
        "scales. The row *Residual* is that skip itself, measured twice: a difference as small as its distance from 1 "
        "is none.",
    ]
    from resnorm.catalog import VARIANTS

    placements = _by_precision(content, "variant", ("variant", "group"))
    for group in dict.fromkeys(row["group"] for row in placements):
        rows = sorted((row for row in placements if row["group"] == group), key=lambda row: middle(row["time"]))
        rows = [row | dict(name=_link(row["variant"], VARIANTS), word=f"`{row['word']}`") for row in rows]
        units = ", ".join(f"`{word}`" for word in dict.fromkeys(row["reference"] for row in rows))
        parts += [
            table(rows, {"name": "placement", "word": "word"} | _COST),
            small_print(f"Relative to {units}, on inputs of {cell(rows[0]['shape'])}."),
        ]
    return "\n\n".join(parts)


def cost_of(name: str, measured: dict[str, Content]) -> str:
    """One variant's cost as a phrase; empty where it was not measured."""
    rows = [row for row in _rows(measured.get("costs"), "variant") if row["variant"] == name]
    row = next((row for row in rows if row["precision"] == "fp32"), None)
    if row is None or row["word"] == row["reference"]:
        return ""
    time, memory = number(middle(row["time"])), number(row["memory"])
    return f"{time} times the time and {memory} times the memory of the plain skip `{row['reference']}`"


def _link(name: str, variants: dict) -> str:
    return f"{{ref}}`{variants[name].title} <variant-{name.replace('_', '-')}>`" if name in variants else name


def _rows(content: Content | None, kind: str) -> list[Content]:
    return [row for row in (content or {}).get("rows", []) if row.get("kind") == kind]


def _by_precision(content: Content, kind: str, names: tuple[str, ...]) -> list[Content]:
    """The fp32 rows, each with the time of its bf16 twin; forward and backward without their ranges."""
    rows = _rows(content, kind)
    key = lambda row: tuple(row[name] for name in names)  # noqa: E731
    half = {key(row): row["time"] for row in rows if row["precision"] == "bf16"}
    return [
        row | dict(forward=middle(row["forward"]), backward=middle(row["backward"]), bf16=half.get(key(row)))
        for row in rows
        if row["precision"] == "fp32"
    ]


# -------------------------------------------------------------------------------- the page on training fast


def fill(text: str, measured: dict[str, Content], folder: Path) -> tuple[str, list[str]]:
    """Put what was measured in place of each placeholder, figures into `folder`; return the text and what has no value.

    Raises BuildError for a placeholder that no function below makes.
    """
    missing: list[str] = []

    def value(match: re.Match) -> str:
        name = match[1]
        file, _, part = name.partition(".")
        make = PARTS.get(file, {}).get(part) or (_technique(part) if file == "engine" and part else None)
        if make is None:
            allowed = ", ".join(f"{file}.{part}" for file, parts in PARTS.items() for part in parts)
            raise BuildError(f"{{{{{name}}}}} is no placeholder of book/benchmarks.py; there are {allowed}, engine.TECHNIQUE")
        made = make(measured[file], folder) if file in measured else ""
        if made:
            return made
        missing.append(name)
        return small_print(f"Not measured yet: `{name}`. `make bench` measures it and writes it here.")

    return PLACEHOLDER.sub(value, text), missing


def _technique(slug: str) -> Callable[[Content, Path], str]:
    """What one technique of the engine gained, one paragraph a machine and precision."""

    def make(content: Content, folder: Path) -> str:
        rows = [row for row in content["rows"] if row.get("technique") == slug]
        here = content.get("provenance", {}).get("device")
        return small_print("\n\n".join(_gain(row, here) for row in rows)) if rows else ""

    return make


def _gain(row: Content, here: str | None) -> str:
    where = [row.get("precision"), None if row.get("device") in ("cpu", here) else row.get("device")]
    where = ", ".join(filter(None, where))
    ratio = row["ratio"]
    text = (
        f"**{number(ratio['median'])} times** as fast ({number(ratio['low'])} to {number(ratio['high'])}): "
        f"{cell(row['without'])} {cell(row['unit'])} without it, {cell(row['with'])} with it"
    )
    kept = "" if row.get("kept", True) else " Not kept."
    return f"{text}{f', in {where}' if where else ''}.{kept} {row.get('note') or ''}".strip()


def _engine_table(kept: bool) -> Callable[[Content, Path], str]:
    def make(content: Content, folder: Path) -> str:
        rows = [row for row in content["rows"] if row.get("kept", True) == kept]
        rows = [row | {"without": middle(row["without"]), "with": middle(row["with"])} for row in rows]
        rows.sort(key=lambda row: -middle(row["ratio"]))
        columns = {
            "title": "technique",
            "ratio": "times as fast",
            "without": "without",
            "with": "with",
            "unit": "unit",
            "precision": "precision",
        } | ({} if kept else {"note": "note"})
        columns |= {"device": "on"} if len({row.get("device") for row in rows}) > 1 else {}
        return f"{table(rows, columns)}\n\n{small_print(machine(content))}" if rows else ""

    return make


def _engine_figure(content: Content, folder: Path) -> str:
    rows = sorted(content["rows"], key=lambda row: -middle(row["ratio"]))
    names = [row["title"] for row in rows]
    kept = [bool(row.get("kept", True)) for row in rows]
    return bars(folder / "engine.svg", names, [row["ratio"] for row in rows], "times as fast as without", kept, "kept", unit=1.0)


def _speed_figure(rate: str) -> Callable[[Content, Path], str]:
    def make(content: Content, folder: Path) -> str:
        rows = [row for row in _rows(content, "speed") if rate in row]
        if not rows:
            return ""
        rows.sort(key=lambda row: -middle(row[rate]))
        names = [f"{row['loop']}, {row.get('precision', '')}".rstrip(", ") for row in rows]
        path = folder / f"{content.get('name', 'speed')}.svg"
        return bars(path, names, [row[rate] for row in rows], UNITS[rate], [_ours(row) for row in rows], "this engine")

    return make


def _speed_table(rate: str) -> Callable[[Content, Path], str]:
    def make(content: Content, folder: Path) -> str:
        # The figure above has the range of the rate; what is to be compared is the ratio.
        rows = [row | {rate: middle(row[rate])} for row in _rows(content, "speed") if rate in row]
        rows.sort(key=lambda row: -row[rate])
        columns = {
            "loop": "loop",
            "precision": "precision",
            rate: UNITS[rate],
            "ratio": "this engine over it",
            "ratio_bf16": "in bf16 over it",
            "workers": "workers",
            "peak_memory_bytes": "memory",
        }
        return f"{table(rows, columns)}\n\n{small_print(machine(content))}" if rows else ""

    return make


def _speed_summary(rate: str) -> Callable[[Content, Path], str]:
    def make(content: Content, folder: Path) -> str:
        sentences, rows = [], [row for row in _rows(content, "speed") if rate in row]
        for ours in filter(_ours, rows):
            others = [row for row in rows if not _ours(row)]
            others = [row for row in others if row.get("precision") == ours.get("precision")] or others
            times = sorted((_times(ours, row, rate), _named(row, ours)) for row in others)
            if times:
                (fast, first), (slow, last) = times[0], times[-1]
                sentences.append(
                    f"In {ours.get('precision')}{', compiled,' if _compiled(ours) else ''} this engine trained "
                    f"{number(middle(ours[rate]))} {UNITS[rate]}, "
                    f"{number(fast)} times as many as the fastest other loop ({first})"
                    + (f" and {number(slow)} times as many as the slowest ({last})." if len(times) > 1 else ".")
                )
        return " ".join(sentences)

    return make


def _named(row: Content, ours: Content) -> str:
    precision = row.get("precision")
    return row["loop"] if precision in (None, ours.get("precision")) else f"{row['loop']}, in {precision}"


def _times(ours: Content, row: Content, rate: str) -> float:
    """How many times as fast ours is: round by round where the row says so, else by the medians."""
    precision = ours.get("precision")
    stated = row.get(f"ratio_{precision}") or (row.get("ratio") if row.get("precision") == precision else None)
    if _compiled(ours):  # the ratios of a row are to the engine as it is by default
        stated = None
    return middle(stated) if stated else middle(ours[rate]) / middle(row[rate])


def _compiled(row: Content) -> bool:
    return "compiled" in row["loop"]


def _ours(row: Content) -> bool:
    return "resnorm" in row["loop"].lower() or row["loop"].lower().split()[0] in ("ours", "fit")


def _kind(kind: str) -> Callable[[Content, Path], str]:
    return lambda content, folder: whole_table(rows) if (rows := _rows(content, kind)) else ""


def _limit(content: Content, folder: Path) -> str:
    """The step beside the machine's limit: the ratio with its range first, then medians of what it is made of."""
    rows = []
    for row in _rows(content, "limit"):
        first = {key: row[key] for key in ("precision", "step_over_limit") if key in row}
        rest = {key: middle(value) for key, value in reversed(row.items()) if key not in first}
        rows.append(first | rest)
    return whole_table(rows) if rows else ""


def _accuracy(content: Content, folder: Path) -> str:
    """Final accuracy or loss of each loop, the spread over its seeds beside the mean."""
    rows = []
    for row in _rows(content, "accuracy"):
        for key in [key for key in row if key.endswith("_sd") and row[key] is not None]:
            name = key.removesuffix("_sd")
            row = row | {name: f"{cell(row[name], name).removesuffix(' %')} ± {cell(row[key], name)}"}
        rows.append({key: value for key, value in row.items() if not key.endswith("_sd")})
    return whole_table(rows) if rows else ""


def _other_kinds(content: Content, folder: Path) -> str:
    """A table of each kind of row beside the speed and the single runs."""
    kinds = dict.fromkeys(row.get("kind") for row in content["rows"])
    parts = {
        kind: _accuracy(content, folder) if kind == "accuracy" else whole_table(_rows(content, kind))
        for kind in kinds
        if kind not in (None, "speed", "run")
    }
    return "\n\n".join(f"**{kind.replace('_', ' ').capitalize()}**\n\n{part}" for kind, part in parts.items())


def _everything(content: Content, folder: Path) -> str:
    """All rows, and where they were measured."""
    return f"{whole_table(content['rows'])}\n\n{small_print(machine(content))}"


def _machine(content: Content, folder: Path) -> str:
    return machine(content)


def recursive_table(content: Content, folder: Path | None = None) -> str:
    """The cost of the recursive skip by its order, in layer norms of the same sum.

    One table for each size, number type and, on a GPU, way of launching.
    """
    parts, rows = [], content["rows"]
    key = lambda row: (cell(row["size"]), row["dtype"], *([row["launch"]] if "launch" in row else []))  # noqa: E731
    for case in dict.fromkeys(map(key, rows)):
        here = [row for row in rows if key(row) == case]
        orders = sorted({row["order"] for row in here if row.get("order")})
        by_form: dict[str, Content] = {}
        for row in here:
            if row.get("order") and row.get("ratio_to_layer_norm"):
                by_form.setdefault(row["form"], {"form": row["form"]})[f"order_{row['order']}"] = row["ratio_to_layer_norm"]
        columns = {"form": "form"} | {f"order_{order}": f"order {order}" for order in orders}
        parts += [f"**{', '.join(case)}**", table(by_form.values(), columns)] if by_form else []
    return "\n\n".join([*parts, small_print(machine(content))]) if parts else ""


# -------------------------------------------------------------------------------- the page on weights of other libraries

_TOLD = ("network", "safetensors, config")


def _loaded(content: Content) -> list[Content]:
    """One row for each pair of networks: the outcome where the network or its configuration was given, and without."""
    rows = []
    for row in content["rows"]:
        ways = {True: [], False: []}
        for way, outcome in row["outcomes"].items():
            ways[way in _TOLD].append(outcome)
        told, alone = (" or ".join(dict.fromkeys(ways[kind])) for kind in (True, False))
        equal = "equal" in (*ways[True], *ways[False])
        why = "" if equal else row.get("reason", "").partition(";")[0].partition(" and so on")[0]
        rows.append(
            dict(
                network=f"`{row['network']}`",
                library=row["library"],
                ours=f"`{row['ours']}`",
                told=told,
                alone=alone,
                difference=(f"{row['difference']:.0e}" if row["difference"] else "0") if equal else DASH,
                why=why,
            )
        )
    return rows


def _loaded_summary(content: Content, folder: Path) -> str:
    rows = _loaded(content)
    known = [row for row in rows if row["told"] == "equal"]
    refused = [row for row in rows if row["told"] == "refused" and row["alone"] == "refused"]
    names = len({(row["library"], row["network"]) for row in rows})
    silent = [row for row in rows if "wrong" in row["told"] + row["alone"]]
    return (
        f"{names} networks of torchvision, timm and Hugging Face with random weights, every timm `resnet*` and `resnetv2*` among "
        f"them, were given to ours {len(rows)} times: to the network that the error advises and, where that has options which "
        f"leave no tensor, to the one without them. With the network itself or its configuration {len(known)} gave the same "
        f"logits and {len(rows) - len(known)} were refused. {len(refused)} were refused in every way. Tensors alone cannot tell "
        f"{sum('unchecked' in row['alone'] for row in rows)}: they were loaded, and the log named what was not checked. "
        f"Loaded without a word, with other logits: {len(silent) or 'none'}. Equal is a largest difference of at most "
        f"{content['settings']['tolerance']:.0e} of the largest logit.\n\n{small_print(machine(content))}"
    )


def _loaded_table(content: Content, folder: Path) -> str:
    columns = {
        "network": "network",
        "library": "of",
        "told": "with the network or its configuration",
        "alone": "tensors alone",
        "difference": "largest difference",
        "ours": "into",
        "why": "why not",
    }
    return f":::::{{dropdown}} Every network\n{table(_loaded(content), columns)}\n:::::"


def _language_summary(content: Content, folder: Path) -> str:
    counts = content["settings"]["counts"]
    told, alone = counts["told"], counts["tensors"]
    return (
        f"The same for the language models of transformers {content['settings']['transformers']}, small and with random weights: "
        f"with the network or its configuration {told.get('equal', 0)} gave the same logits and {told.get('refused', 0)} were "
        f"refused; from tensors alone {alone.get('other', 0)} were loaded that compute something else, and the log named what was "
        f"not checked.\n\n{small_print(machine(content))}"
    )


def _loop_parts(rate: str, *kinds: str) -> dict[str, Callable[[Content, Path], str]]:
    made = dict(figure=_speed_figure(rate), speed=_speed_table(rate), summary=_speed_summary(rate), machine=_machine)
    made |= dict(accuracy=_accuracy)
    return made | {kind: _kind(kind) for kind in kinds}


# -------------------------------------------------------------------------------- other people's models with other norms

_OUTCOMES = ("converted", "refused", "refused on the example", "silently wrong", "broken")
_REASONS = {
    r" reads ": "another module reads the norm's parameters",
    r"has no single width|has a gain of shape": "the norm has no single width",
    r"works along": "the new norm works along another axis only",
    r"computes none of|computes more in training": "the norm computes something of its own",
    r"beside gain and bias|more than its input|holds modules that": "the norm takes or holds more than a norm does",
    r"leave one value a group|has one or none|of one feature": "a statistic of a single value",
    r"is not finite": "not finite: running statistics that no training has filled",
    r"holds it in a plain": "the norm is held outside of the modules",
}


def _tried(content: Content) -> list[Content]:
    return [row for row in content["rows"] if row["outcome"] in _OUTCOMES]


def _conversion_summary(content: Content, folder: Path) -> str:
    rows, libraries = _tried(content), dict.fromkeys(row["library"] for row in content["rows"])
    tried = {library: len({row["model"] for row in rows if row["library"] == library}) for library in libraries}
    models = " and ".join(
        f"{count} of {library} {content['settings'].get(library, '')}".strip() for library, count in tried.items()
    )
    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in _OUTCOMES}
    return (
        f"{len(rows)} conversions were tried, on {models}: {counts['converted']} gave a model that passes the check, "
        f"{counts['refused'] + counts['refused on the example']} were refused, {counts['silently wrong']} were silently wrong, "
        f"and {counts['broken']} ended in any other way.\n\n{_machine(content, folder)}"
    )


def _conversion_counts(content: Content, folder: Path) -> str:
    rows = _tried(content)
    groups = dict.fromkeys((row["library"], row["conversion"]) for row in rows)
    counted = []
    for library, conversion in groups:
        of = [row["outcome"] for row in rows if (row["library"], row["conversion"]) == (library, conversion)]
        counted.append(dict(library=library, conversion=conversion, models=len(of)) | {one: of.count(one) for one in _OUTCOMES})
    shown = [one for one in _OUTCOMES if one in ("converted", "silently wrong") or any(row[one] for row in counted)]
    return table(counted, {key: key for key in ("library", "conversion", "models", *shown)})


def _conversion_reasons(content: Content, folder: Path) -> str:
    found: dict[tuple[str, str], list[str]] = {}
    for row in _tried(content):
        if row["outcome"] != "converted":
            reason = next((words for pattern, words in _REASONS.items() if re.search(pattern, row["reason"])), row["reason"])
            found.setdefault((row["conversion"], reason), []).append(row["model"])
    rows = [
        dict(conversion=conversion, reason=reason, models=len(models), such_as=f"`{models[0]}`")
        for (conversion, reason), models in sorted(found.items(), key=lambda pair: (pair[0][0], -len(pair[1])))
    ]
    columns = {key: heading(key) for key in ("conversion", "reason", "models", "such_as")}
    return table(rows, columns) if rows else "None was refused."


def _conversion_untried(content: Content, folder: Path) -> str:
    rows = [row for row in content["rows"] if row["outcome"] not in _OUTCOMES]
    lines = []
    for outcome in dict.fromkeys(row["outcome"] for row in rows):
        models = [f"`{row['model']}`" for row in rows if row["outcome"] == outcome]
        lines.append(f"- {outcome[0].upper()}{outcome[1:]} ({len(models)}): {', '.join(models)}.")
    return "\n".join(lines) or "Every model was tried."


PARTS: dict[str, dict[str, Callable[[Content, Path], str]]] = {
    "training_loops": _loop_parts("images_per_second", "pipeline", "overhead", "depth", "data") | dict(limit=_limit),
    "language_model": _loop_parts("tokens_per_second") | dict(others=_other_kinds),
    "engine": dict(figure=_engine_figure, kept=_engine_table(True), declined=_engine_table(False), machine=_machine),
    "recursive_skip": dict(table=recursive_table, machine=_machine),
    "recursive_skip_gpu": dict(table=recursive_table),
    "cuda_graph": dict(table=_everything),
    "load_weights": dict(summary=_loaded_summary, table=_loaded_table),
    "load_language_weights": dict(summary=_language_summary),
    "convert_norm": dict(
        summary=_conversion_summary, counts=_conversion_counts, reasons=_conversion_reasons, untried=_conversion_untried
    ),
    "channels_last": dict(table=_everything),
}


# -------------------------------------------------------------------------------- the figure


def bars(
    path: Path,
    names: list[str],
    spreads: list[Content],
    unit_name: str,
    marked: list[bool],
    meaning: str,
    unit: float | None = None,
) -> str:
    """Draw horizontal bars with their ranges as SVG; return the picture's Markdown, its alt text made of the numbers.

    `marked` bars are filled and hatched, and the key says what that means; `unit` draws a line at that value.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from resnorm import plots

    with plots.style():
        figure = Figure(figsize=(6.4, 1.2 + 0.36 * len(names)), layout="constrained")
        axes = figure.add_subplot()
        looks = {
            True: dict(fc=plots.COLOURS[0] + "73", ec=plots.COLOURS[0], hatch=plots.HATCHES[0]),
            False: dict(fc="none", ec=plots.GREY),
        }
        for row, (one, mark) in enumerate(zip(spreads, marked, strict=True)):
            axes.barh(row, one["median"], 0.62, lw=1.2, **looks[mark])
            reach = [[one["median"] - one["low"]], [one["high"] - one["median"]]]
            axes.errorbar(one["median"], row, xerr=reach, color=plots.GREY, lw=1.4, capsize=3)
            axes.annotate(number(one["median"]), (one["high"], row), (7, 0), textcoords="offset points", va="center")
        if unit is not None:
            axes.axvline(unit, color=plots.GREY, lw=1.2, ls="--")
        axes.set(yticks=range(len(names)), yticklabels=names, xlabel=unit_name)
        axes.set(xlim=(0, max(one["high"] for one in spreads) * 1.15), ylim=(len(names) - 0.4, -0.6))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        figure.legend(handles=[Patch(label=meaning, **looks[True])], loc="outside upper left")
        path.write_text(plots.svg(figure), encoding="utf-8")
    values = "; ".join(
        f"{name}: {number(one['median'])} ({number(one['low'])} to {number(one['high'])})" + (f", {meaning}" if mark else "")
        for name, one, mark in zip(names, spreads, marked, strict=True)
    )
    # Brackets would end the text of a Markdown picture.
    alt = f"Horizontal bars of {unit_name}, median and range. {values}.".replace("[", "(").replace("]", ")")
    return f"![{alt}]({path.name})"
