"""A study: the arms that a question compares, their planned experiments, their recorded runs, and what these say."""

import functools
import importlib.util
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from resnorm.claims import Card, Cards, card, claims, joined
from resnorm.extras import needed_for
from resnorm.lab.experiment import Experiment
from resnorm.lab.frames import frame, origin, setting, settings_columns
from resnorm.lab.plans.checks import check_preset
from resnorm.lab.record import Record
from resnorm.lab.rules import OF_A_DIFFERENCE, RULES, Judgement, axis, condition_name, lower_is_better, points, sentence, side
from resnorm.lab.running import run_all
from resnorm.lab.runs import Runs, committed, studies_folder
from resnorm.lab.statistics import Comparison, ModeratedVariance, best_rates, compare, control, hierarchical, moderated_variance
from resnorm.lab.statistics.settings import INTERIOR
from resnorm.lab.store import Store

# Of translations, beside the metrics of every run.
SCORES = ("bleu", "chrf")


def studies() -> tuple[str, ...]:
    """The names of all studies, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in studies_folder().glob("*/plan.py")))


def study(name: str, preset: str = "cpu", arms: Any = None, **narrow: Any) -> "Study":
    """Return the study ``name`` at the size ``preset``.

    ``arms``: a name or a list of names (default: all); ``narrow``: the plan's own parameters, such as ``seeds``, ``depths``
    or ``orders``. Raises ValueError for an unknown study, preset, arm or parameter.
    """
    module, preset = _module(_plan_of(name)), check_preset(preset)
    own = list(inspect.signature(module.arms).parameters)[1:] if hasattr(module, "arms") else []
    allowed = [*own, *list(inspect.signature(module.experiments).parameters)[2:]]
    for key in narrow:
        if key not in allowed:
            raise ValueError(f"the study {name!r} has no parameter {key!r}; allowed: {', '.join(['arms', *allowed])}")
    settings = module.arms(preset, **{key: narrow[key] for key in own if key in narrow}) if hasattr(module, "arms") else module.ARMS
    if arms is not None:
        chosen = [arms] if isinstance(arms, str) else list(arms)
        for arm in chosen:
            if arm not in settings:
                raise ValueError(f"the study {name!r} has no arm {arm!r}; allowed: {', '.join(map(repr, settings))}")
        settings = {arm: settings[arm] for arm in chosen}
    return Study(name, preset, dict(settings), {key: value for key, value in narrow.items() if key not in own})


def plan(name: str, preset: str = "smoke", **narrow: Any) -> list[Experiment]:
    """Return the experiments of a study at a size; see `study`."""
    return study(name, preset, **narrow).planned


def pack(source: Store, presets: Iterable[str], target: Runs | None = None) -> dict[tuple[str, str], int]:
    """Move runs from a folder into the studies that planned them; return how many by study and preset.

    A run that several studies plan goes into each of them, and into the first of the sizes that plan it. It leaves the
    folder when it stands in all.
    """
    target = committed() if target is None else target
    waiting = {record.experiment.name: record for record in source.records()}
    packed: dict[tuple[str, str], int] = {}
    done: set[str] = set()
    for name in studies() if waiting else ():
        of_study: set[str] = set()
        for preset in presets:
            planned = study(name, preset)
            chosen: dict[str, list[Record]] = {}
            for item in planned.planned:
                if item.name in waiting and item.name not in of_study:
                    chosen.setdefault(planned.arm_of[item.name], []).append(waiting[item.name])
                    of_study.add(item.name)
            if chosen:
                target.add(name, preset, chosen, [item.name for item in planned.planned])
                packed[name, preset] = sum(map(len, chosen.values()))
        done |= of_study
    source.remove([waiting[name] for name in done])
    return packed


def _plan_of(name: str) -> Path:
    path = studies_folder() / str(name) / "plan.py"
    if not path.is_file():
        raise ValueError(f"there is no study {name!r}; allowed: {', '.join(studies())}")
    return path


@functools.cache
def _module(path: Path) -> ModuleType:
    description = importlib.util.spec_from_file_location(f"resnorm.studies.{path.parent.name}.plan", path)
    assert description is not None and description.loader is not None
    module = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Study:
    """Hold one study at one size: its arms, their experiments, and their runs in ``store``.

    ``settings``: what each arm sets; ``narrow``: parameters of its plan; ``store``: where the runs are (default: the
    recorded ones). An arm has one name, from the plan to the page.
    """

    name: str
    preset: str
    settings: dict[str, dict[str, Any]]
    narrow: dict[str, Any] = field(default_factory=dict)
    store: Runs | Store = field(default_factory=committed)

    @property
    def module(self) -> ModuleType:
        """The plan itself: ``studies/NAME/plan.py``."""
        return _module(_plan_of(self.name))

    @property
    def question(self) -> str:
        """The first line of the plan: what the study asks, and of whom."""
        return (self.module.__doc__ or "").partition("\n")[0]

    @functools.cached_property
    def experiments(self) -> dict[str, list[Experiment]]:
        """The planned experiments of every arm."""
        experiments = self.module.experiments
        return {arm: experiments(self.preset, settings, **self.narrow) for arm, settings in self.settings.items()}

    @property
    def arms(self) -> list[str]:
        """The names of the arms, in the plan's order."""
        return list(self.settings)

    @property
    def planned(self) -> list[Experiment]:
        """All planned experiments, arm by arm."""
        return [experiment for experiments in self.experiments.values() for experiment in experiments]

    @functools.cached_property
    def arm_of(self) -> dict[str, str]:
        """The arm of every planned experiment, by the experiment's name."""
        return {item.name: arm for arm, experiments in self.experiments.items() for item in experiments}

    @functools.cached_property
    def records(self) -> list[Record]:
        """The runs that are there, in the order of `planned`."""
        return [record for experiment in self.planned if (record := self.store.get(experiment)) is not None]

    def of(self, *arms: str) -> list[Record]:
        """The runs of these arms."""
        self._check(arms)
        return [record for record in self.records if self.arm_of[record.experiment.name] in arms]

    def missing(self, *arms: str) -> list[Experiment]:
        """The planned experiments of these arms (default: all) that have no run."""
        self._check(arms)
        have = {record.experiment.name for record in self.records}
        return [item for arm in arms or self.arms for item in self.experiments[arm] if item.name not in have]

    def lacking(self, *arms: str) -> str:
        """Say how many runs are missing, and the command that fills them; "" where none is."""
        count = len(self.missing(*arms))
        if not count:
            return ""
        chosen = "".join(f" --arm {arm!r}" for arm in arms or self.arms if self.missing(arm)) if self.records else ""
        command = f"python -m resnorm fill {self.name} --preset {self.preset}{chosen}"
        return f"{count} {'run is' if count == 1 else 'runs are'} missing: `{command}`"

    def run(self, progress: bool = False, **options: Any) -> "Study":
        """Run what the live store lacks and return the study with these runs; see `resnorm.lab.run_all`."""
        store = Store.live()
        run_all(self.planned, store, progress=progress, **options)
        return replace(self, store=store)

    def origin(self) -> str:
        """Say where the runs come from and what is missing, in one line of Markdown; see `resnorm.lab.origin`."""
        lacking = self.lacking()
        return origin(self.records) + (f" {lacking}." if lacking else "")

    def frame(self, kind: str = "metrics", **where: Any):
        """The runs as a tidy frame with a column `arm`; see `resnorm.lab.frame`. ``where``: settings and their values."""
        return _chosen(frame(self.records, kind, self.arm_of), where)

    def values(self, metric: str = "test_accuracy", **where: Any):
        """One row a run: arm, seed, every setting that varies, status and `value`.

        ``metric``: of the runs, or one of them as an error: `test_error` is 100 (1 - test_accuracy), in %; of translations
        `test_bleu` too. A run that diverged has no loss and gets nothing right. ``where``: settings and their values, or lists
        of them. Raises ValueError for a metric that no run has.
        """
        with needed_for("tables of records"):
            import pandas

        known = sorted({name for record in self.records for name in record.metrics | _scores(record)})
        if self.records and metric.replace("_error", "_accuracy") not in known:
            raise ValueError(f"no run of {self.name!r} has the metric {metric!r}; allowed: {', '.join(known)}")
        columns = {name: path for name, path in settings_columns(self.records).items() if name not in ("task", "model", "variant")}
        rows = [
            {"arm": self.arm_of[record.experiment.name]}
            | {name: setting(record, path) for name, path in columns.items()}
            | {"status": record.status, "value": measured(record, metric)}
            for record in self.records
        ]
        return _chosen(pandas.DataFrame(rows, columns=None if rows else ["arm", "seed", "status", "value"]), where)

    def variance(self, metric: str = "test_accuracy", **where: Any) -> ModeratedVariance:
        """The variance between seeds of every arm, moderated by the others; see `moderated_variance`."""
        return moderated_variance(self.by_seed(metric, **where))

    def by_seed(self, metric: str = "test_accuracy", **where: Any) -> dict[str, dict[int, float]]:
        """The finite values of a metric by arm and seed. Raises ValueError where an arm has several runs of one seed."""
        return _by_seed(self.values(metric, **where))

    def gap(self, first: str, second: str, metric: str = "test_accuracy", margin: float | None = None, **where: Any) -> Comparison:
        """Compare two arms, `first` minus `second`, seed by seed, with the variance of all arms of the study.

        ``where``: settings that single out one condition, such as ``depth=56``. ``margin``: a difference that does not
        matter. Raises ValueError where an arm has no run, or several of one seed because ``where`` leaves more than one condition.
        """
        self._check((first, second))
        table = self.by_seed(metric, **where)
        for arm in (first, second):
            if arm not in table:
                raise ValueError(self.lacking(arm) or f"no run of {arm!r} has a finite {metric}")
        return _compared(table, first, second, metric, margin)

    def gap_at_best_rates(
        self, first: str, second: str, metric: str = "test_accuracy", margin: float | None = None, tuning: Iterable[int] = ()
    ) -> Comparison:
        """Compare two arms, `first` minus `second`, each at its own best rate; otherwise as `gap`.

        ``tuning``: the seeds that choose the rates, see `best_rates`; the others are compared.
        """
        self._check((first, second))
        values, rates = self.values(metric), self.best_rates(metric, tuning).lr
        chosen = values[(values.lr == values.arm.map(rates)) & ~values.seed.isin(list(tuning))]
        return _compared(_by_seed(chosen), first, second, metric, margin)

    def best_rates(self, metric: str = "test_accuracy", tuning: Iterable[int] = ()):
        """A frame with a row an arm: its best rate by the metric of the validation split, and whether the grid ends there.

        ``tuning``: the seeds that choose; see `resnorm.lab.best_rates`.
        """
        values = self.values(metric.replace("test_", "validation_"), seed=list(tuning))
        return best_rates(values, larger=not lower_is_better(metric)).set_index("arm")

    def change(
        self, arm: str, first: dict[str, Any], second: dict[str, Any], metric: str = "test_accuracy", margin: float | None = None
    ) -> Comparison:
        """Compare an arm under two conditions, `first` minus `second`, seed by seed, with the variance of all arms in both.

        ``first``, ``second``: settings that single out one condition each, such as ``{"depth": 56}``. Otherwise as `gap`.
        """
        self._check((arm,))
        table = {
            f"{name}, {condition_name(condition)}": seeds
            for condition in (first, second)
            for name, seeds in self.by_seed(metric, **condition).items()
        }
        return _compared(table, f"{arm}, {condition_name(first)}", f"{arm}, {condition_name(second)}", metric, margin)

    def judge(self, id: str, **words: Any) -> Card:
        """Judge a contest of ``studies/NAME/claims.yml`` by its rule, and return its card.

        Where runs of its arms are missing, the card says which command fills them, and nothing fails.
        ``words``: `published` or `note` of the card. Raises ValueError for an unknown claim, or one that is no contest.
        """
        if id not in self.contests:
            raise ValueError(f"{id!r} is no contest of the study {self.name!r}; allowed: {', '.join(self.contests)}")
        entry = self.contests[id]
        arms = dict.fromkeys(entry[key] for key in ("better", "than") if key in entry)
        if lacking := self.lacking(*arms):
            return card(id, None, "not yet measured", note=lacking)
        rule = RULES[entry["rule"]]
        judgement: Judgement = rule(
            self, **{key: entry[key] for key in list(inspect.signature(rule).parameters)[1:] if key in entry}
        )
        note = joined(judgement.note, self._tuned(entry), words.pop("note", None))
        return card(id, judgement.measured, judgement.outcome, note=note, rule=sentence(entry["rule"]), **words)

    def verdicts(self, *ids: str) -> Cards:
        """The cards of these contests (default: of all at this size), one below the other; see `judge`."""
        return Cards(self.judge(id) for id in ids or self.contests)

    @functools.cached_property
    def contests(self) -> dict[str, dict[str, Any]]:
        """The contests of ``studies/NAME/claims.yml``, by their id; one that names a preset is decided at this size only."""
        of_study = {id: entry for id, entry in claims().items() if entry.get("study") == self.name and "rule" in entry}
        return {id: entry for id, entry in of_study.items() if entry.get("preset", self.preset) == self.preset}

    @functools.cached_property
    def gaps(self) -> dict[str, Comparison]:
        """The comparison of each contest whose runs are all there, with false discoveries controlled over them together."""
        gaps = {}
        for id, entry in self.contests.items():
            arms = (entry["better"], entry["than"])
            if entry["rule"] not in OF_A_DIFFERENCE or not all(arm in self.settings for arm in arms) or self.missing(*arms):
                continue
            if arms[0] == arms[1]:
                first, second = entry["conditions"]
                gaps[id] = self.change(arms[0], first, second, entry["metric"], entry.get("margin"))
            elif "tuning" in entry:
                gaps[id] = self.gap_at_best_rates(*arms, entry["metric"], entry.get("margin"), entry["tuning"])
            else:
                gaps[id] = self.gap(*arms, entry["metric"], entry.get("margin"), **entry.get("where", {}))
        return control(gaps)

    def ranks(self, reference: str, metric: str = "test_accuracy", arms: Iterable[str] | None = None):
        """One model of all arms (or ``arms``): a frame with a row an arm, its rank and how far it may be off, best first.

        Arms whose runs scatter far more than the others' are left out: `variance(metric).unstable` names them. See
        `resnorm.lab.hierarchical` for the columns.
        """
        with needed_for("tables of records"):
            import pandas

        variance = self.variance(metric)
        steady = {arm: variance.arms[arm] for arm in arms or self.arms if arm in variance.arms and arm not in variance.unstable}
        model = hierarchical(
            {arm: own.mean for arm, own in steady.items()},
            {arm: math.sqrt(own.moderated / len(own.seeds)) for arm, own in steady.items()},
            reference,
            larger=not lower_is_better(metric),
        )
        return pandas.DataFrame(model.effects).sort_values("rank", ignore_index=True)

    def table(self, metric: str = "test_accuracy", **where: Any):
        """A frame with a row an arm: mean, standard deviation and seeds, best first."""
        values = self.values(metric, **where)
        rows = values.groupby("arm", sort=False).value.agg(["mean", "std", "count"])
        return rows.sort_values("mean", ascending=lower_is_better(metric))

    def figure(self, metric: str = "test_accuracy", reference: str | None = None, **options: Any):
        """A dot for each run, an arm a row, best first; ``reference``: the arm that a line is drawn through."""
        from resnorm import plots

        where = {key: options.pop(key) for key in list(options) if key in settings_columns(self.records)}
        table = self.table(metric, **where)
        names = [arm for arm in table.index if table["count"][arm]]
        options = {"names": names, "reference": reference, "ylabel": axis(metric)} | options
        return plots.dot_table(self.values(metric, **where), "value", "arm", **options)

    def curves(self, metric: str = "loss", split: str = "train", arms: Iterable[str] | None = None, **options: Any):
        """The learning curves of all arms (or ``arms``): a metric by step; see `resnorm.plots.curves` for ``options``."""
        from resnorm import plots

        options = {"ylabel": {"train": "training"}.get(split, split) + f" {axis(metric)}"} | options
        frame = self.frame("curves", split=split, metric=metric, arm=list(arms or self.arms))
        return plots.curves(frame, "step", "value", "arm", **options)

    def tried(self, path: str, values: Iterable[Any], *metrics: str):
        """The recorded runs of each arm's first experiment with one setting varied, where several were tried: a frame.

        ``path``: as in `Experiment.replace`, such as ``recipe.lr``. Columns: `arm`, the setting under its own name, `planned`
        for the value that the study has, and the ``metrics``.
        """
        with needed_for("tables of records"):
            import pandas

        key, rows, values = path.rpartition(".")[2], [], list(values)
        for arm, (planned, *_) in self.experiments.items():
            varied = [planned.replace(path, value) for value in values]
            records = [record for experiment in varied if (record := self.store.get(experiment)) is not None]
            for record in records if len(records) > 1 else ():
                row = {"arm": arm, key: setting(record, path), "planned": record.experiment == planned}
                rows.append(row | {metric: measured(record, metric) for metric in metrics})
        return pandas.DataFrame(rows, columns=["arm", key, "planned", *metrics])

    def against(self, reference: str, metric: str = "test_accuracy", arms: Iterable[str] | None = None, **where: Any):
        """Every arm (or ``arms``) minus one: a frame with `arm`, `gap`, its `interval`, and both as `text`; see `gap`."""
        with needed_for("tables of records"):
            import pandas

        arms = [arm for arm in arms or self.arms if arm != reference]
        gaps = {arm: self.gap(arm, reference, metric, **where) for arm in arms if not self.missing(arm, reference)}
        return pandas.DataFrame(
            [{"arm": arm, "gap": gap.estimate, "interval": gap.interval, "text": str(gap)} for arm, gap in gaps.items()],
            columns=["arm", "gap", "interval", "text"],
        )

    def against_figure(self, reference: str, metric: str = "test_accuracy", **where: Any):
        """Every arm minus one, a point with its 95 % interval a row; ``where`` as in `against`."""
        from resnorm import plots

        label = f"{points(metric)[1]}, minus that of {reference}"
        return plots.intervals(self.against(reference, metric, **where), "gap", "arm", "interval", xlabel=label, reference=0)

    def forest(self, *ids: str):
        """The differences of contests (default: of all) with their 95 % intervals, a row each; a line marks no difference.

        Raises ValueError for an id that has no difference here, or where the differences are not of one unit.
        """
        from resnorm import plots

        with needed_for("tables of records"):
            import pandas

        for id in ids:
            if id not in self.gaps:
                raise ValueError(f"{id!r} has no difference in {self.name!r} to draw; allowed: {', '.join(self.gaps)}")
        gaps = {id: self.gaps[id] for id in ids or self.gaps}
        units = dict.fromkeys(gap.unit for gap in gaps.values())
        if len(units) != 1:
            raise ValueError(f"the contests have no common unit: {', '.join(map(repr, units))}; name those of one")
        entries = [self.contests[id] for id in gaps]
        names = [
            f"{entry['better']}, {condition_name(entry['conditions'][0])} − {condition_name(entry['conditions'][1])}"
            if entry["better"] == entry["than"]
            else f"{entry['better']} − {entry['than']}"
            for entry in entries
        ]
        rows = [
            {"contest": name, "difference": gap.estimate, "interval": gap.interval}
            for name, gap in zip(names, gaps.values(), strict=True)
        ]
        label = f"{next(iter(units))},\n{side(entries[0]['metric']).rpartition('; ')[2].rstrip('.')}"
        return plots.intervals(pandas.DataFrame(rows), "difference", "contest", "interval", xlabel=label, reference=0)

    def _tuned(self, entry: dict[str, Any]) -> str | None:
        """At which rate each arm of a contest stands, where seeds of its own chose it."""
        if "tuning" not in entry:
            return None
        rates = self.best_rates(entry["metric"], entry["tuning"])
        chosen = (
            f"{rates.lr[arm]:g} for {arm}" + ("" if rates.optimum[arm] == INTERIOR else f" ({rates.optimum[arm]})")
            for arm in (entry["better"], entry["than"])
        )
        seeds = " and ".join(map(str, entry["tuning"]))
        return f"Each at its own best rate, by the validation split of seeds {seeds}: {', '.join(chosen)}."

    def _check(self, arms: Iterable[str]) -> None:
        for arm in arms:
            if arm not in self.settings:
                raise ValueError(f"the study {self.name!r} has no arm {arm!r}; allowed: {', '.join(map(repr, self.settings))}")


def _by_seed(values) -> dict[str, dict[int, float]]:
    table: dict[str, dict[int, float]] = {}
    for row in values.to_dict("records"):
        seeds = table.setdefault(row["arm"], {})
        if row["seed"] in seeds:
            fixed = ("arm", "seed", "status", "value")
            varied = [name for name in values if name not in fixed and values[name].astype(str).nunique() > 1]
            raise ValueError(f"{row['arm']!r} has several runs of seed {row['seed']}: name a value of {' or '.join(varied)}")
        if math.isfinite(row["value"]):
            seeds[row["seed"]] = row["value"]
    return {arm: seeds for arm, seeds in table.items() if seeds}


def _compared(table: dict[str, dict[int, float]], first: str, second: str, metric: str, margin: float | None) -> Comparison:
    """Compare two rows of a table in the unit in which the metric's differences read."""
    scale, unit = points(metric)
    scaled = {arm: {seed: scale * value for seed, value in seeds.items()} for arm, seeds in table.items()}
    return compare(scaled, first, second, unit=unit, margin=margin)


def measured(record: Record, metric: str) -> float:
    """A metric of a run: a share or a score that it lacks is 0, a loss is NaN; `test_error` is 100 (1 - test_accuracy)."""
    if metric.endswith("_error"):
        return 100 * (1 - measured(record, metric.replace("_error", "_accuracy")))
    missing = 0.0 if metric.endswith(("accuracy", "exact", *SCORES)) else math.nan
    return (record.metrics | _scores(record)).get(metric, missing)


def _scores(record: Record) -> dict[str, float]:
    """The scores of a run's translations, such as `test_bleu`, each by the widest beam that was searched."""
    rows = sorted(record.measurements.get("translation", ()), key=lambda row: row["beam"])
    return {f"{row['split']}_{score}": row[score] for row in rows for score in SCORES}


def _chosen(table, where: dict[str, Any]):
    for column, value in where.items():
        if column not in table:
            raise ValueError(f"no setting {column!r} varies here; allowed: {', '.join(map(str, table.columns))}")
        table = table[table[column].isin(value if isinstance(value, (list, tuple)) else [value])]
    return table
