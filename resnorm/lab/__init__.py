"""Experiments and what came out of them: description, record, store, runs and plans."""

from resnorm.lab.differences import Difference, difference
from resnorm.lab.experiment import Experiment, sweep
from resnorm.lab.frames import frame, label, mean_and_deviation, origin, summary
from resnorm.lab.plans import PLANS, PRESETS, check_lambdas, check_orders, check_preset, check_seeds, plan
from resnorm.lab.record import Record, source_hash
from resnorm.lab.running import estimate, recorded, run, run_all
from resnorm.lab.store import Store, benchmark

__all__ = [
    "PLANS",
    "PRESETS",
    "Difference",
    "Experiment",
    "Record",
    "Store",
    "benchmark",
    "check_lambdas",
    "check_orders",
    "check_preset",
    "check_seeds",
    "difference",
    "estimate",
    "frame",
    "label",
    "mean_and_deviation",
    "origin",
    "plan",
    "recorded",
    "run",
    "run_all",
    "source_hash",
    "summary",
    "sweep",
]
