import functools
import inspect
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch

from resnorm import catalog, lab, models, transformer_lm
from resnorm.catalog import GIVEN_BY_MODEL
from resnorm.lab import Experiment, Record, Store, running
from resnorm.lab import record as record_module
from resnorm.lab import store as store_module

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(
    task=dict(name="digits"), model=dict(name="mlp_stack", depth=2, width=16), recipe=dict(epochs=1, batch_size=256, lr=0.05)
)


@pytest.fixture(scope="module")
def small_record(tmp_path_factory) -> Record:
    return lab.run(Experiment(**SMALL), Store(tmp_path_factory.mktemp("store")), progress=False)


def made(experiment: Experiment, **changes) -> Record:
    rows = [dict(step=step, epoch=step, split="train", metric="loss", value=1.0 / (1 + step)) for step in range(3)]
    probes = [dict(step=0, epoch=0, block=block, forward_rms=1.0, skip_share=None) for block in range(2)]
    provenance = dict(source=lab.source_hash(), wall_seconds=10.0, device="a CPU")
    content = dict(status="finished", metrics={"test_accuracy": 0.5}, curves=rows, probes=probes, provenance=provenance)
    return Record(experiment, **(content | changes))


# --- Experiment


def test_equal_descriptions_have_equal_names_and_any_change_gives_another():
    experiment = Experiment(**SMALL)
    turned = {part: dict(reversed(value.items())) for part, value in SMALL.items()}
    assert Experiment(**turned) == experiment
    assert Experiment(**turned).name == experiment.name and len(experiment.name) == 16
    assert experiment.replace("recipe.epochs", 1.0).name == experiment.name
    changed = [
        experiment.replace(path, value)
        for path, value in (("seed", 1), ("model.depth", 3), ("recipe.lr", 0.1), ("task.validation", 100))
    ]
    assert len({item.name for item in [experiment, *changed]}) == 5


def test_what_is_measured_afterwards_is_part_of_the_name_only_where_there_is_something():
    plain = Experiment(**SMALL)
    assert Experiment(**SMALL, measure=[]).to_dict() == plain.to_dict() and "measure" not in plain.to_json()
    measured = Experiment(**SMALL, measure=["affine_maps", "affine_maps"])
    assert measured != plain and measured == plain.replace("measure", ("affine_maps",))
    assert Experiment.from_json(measured.to_json()) == measured
    with pytest.raises(ValueError, match="'autopsy'.*affine_maps"):
        Experiment(**SMALL, measure=["autopsy"])
    with pytest.raises(TypeError, match="list of names"):
        Experiment(**SMALL, measure="affine_maps")


def test_an_experiments_name_is_the_same_on_every_machine():
    # Committed records are found by this name: it may never change by accident.
    assert Experiment(**SMALL).name == "0bcc694052255e61"


def test_experiment_survives_json_and_later_changes_of_what_it_was_made_from():
    model = dict(SMALL["model"])
    experiment = Experiment(SMALL["task"], model, SMALL["recipe"], seed=3)
    model["depth"] = 99
    assert experiment.model["depth"] == 2
    assert Experiment.from_json(experiment.to_json()) == experiment
    assert hash(Experiment.from_json(experiment.to_json())) == hash(experiment)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(task=dict(name="imagenet")), "'imagenet'.*digits"),
        (dict(task=dict(name="digits", size=3)), "'size'.*validation"),
        (dict(task=dict(name="cifar10", root="/somewhere")), "RESNORM_DATA"),
        (dict(model=dict(name="perceptron")), "'perceptron'.*mlp_stack"),
        (dict(model=dict(name="mlp_stack", deep=3)), "'deep'.*depth"),
        (dict(model=dict(name="mlp_stack", classes=3)), "'classes'"),
        (dict(model=dict(name="mlp_stack", variant="prepre")), "'prepre'.*pre"),
        (dict(model=dict(name="mlp_stack", variant="pre", order=2)), "'order'"),
        (dict(recipe=dict(learning_rate=0.1)), "'learning_rate'.*lr"),
        (dict(recipe=dict(lr=-1)), "lr"),
        (dict(recipe=dict(lr=math.nan)), "recipe.lr is nan"),
        (dict(seed=-1), "seed is -1"),
        (dict(seed=10**20), "seed is 10{20}; give an integer of 0 or more, below"),
        (dict(seed=True), "seed is True"),
    ],
)
def test_bad_experiments_are_refused_with_what_is_allowed(change, words):
    with pytest.raises(ValueError, match=words):
        Experiment(**(SMALL | change))


def test_what_is_not_json_is_refused():
    with pytest.raises(TypeError, match="model.width is a Tensor"):
        Experiment(SMALL["task"], dict(SMALL["model"], width=torch.ones(1)), SMALL["recipe"])


def test_variant_options_are_accepted_for_their_variant():
    options = dict(name="cifar_resnet", variant="rskip_norm", order=2, merge_norm="layer2d")
    assert Experiment(SMALL["task"], options, {}).model["order"] == 2


@pytest.mark.parametrize("model", models.MODELS)
def test_an_experiment_refuses_the_options_that_build_refuses(model, monkeypatch):
    spec = dict(inputs=1, size=8, classes=10, vocabulary=10, context=8)
    # The signature without the work.
    monkeypatch.setitem(models.MODELS, model, functools.wraps(models.MODELS[model])(lambda **options: None))
    varied = "variant" in inspect.signature(models.MODELS[model]).parameters
    for variant in catalog.VARIANTS.values():
        for option in {*GIVEN_BY_MODEL, *variant.options, "nonsense", "segments"}:
            options = {option: variant.options.get(option, 1)} | ({"variant": variant.name} if varied else {})
            outcomes = []
            for call in (
                lambda options=options: Experiment(SMALL["task"], dict(name=model, **options), {}),
                lambda options=options: models.build(model, spec, **options),
            ):
                try:
                    call()
                    outcomes.append("taken")
                except ValueError as error:
                    outcomes.append(str(error).replace(" option ", " ").partition(";")[0])
            assert outcomes[0] == outcomes[1], (variant.name, option)
            if option in GIVEN_BY_MODEL[1:] or option == "nonsense":
                assert outcomes[0] != "taken"


def test_what_a_model_tells_its_variant_is_not_an_option():
    model = dict(name="transformer_lm", variant="layerscale", dim=1)
    with pytest.raises(ValueError, match="'transformer_lm' has no 'dim'; allowed: .*init"):
        Experiment(dict(name="characters"), model, {})
    with pytest.raises(ValueError, match="no option 'dim' in a model, which gives it; its options are init"):
        transformer_lm(vocabulary=5, context=4, depth=1, width=8, heads=2, variant="layerscale", dim=1)


def test_sweep_is_the_product_with_the_last_setting_fastest():
    grid = {"seed": [0, 1], "model": [dict(variant="pre"), dict(variant="xskip", skip=2)]}
    swept = lab.sweep(Experiment(**SMALL), grid)
    assert [(item.seed, item.model["variant"], item.model.get("skip")) for item in swept] == [
        (0, "pre", None),
        (0, "xskip", 2),
        (1, "pre", None),
        (1, "xskip", 2),
    ]
    for repeated in ({"seed": [0, 1, 0]}, {"model.depth": [2, 2.0]}):
        with pytest.raises(ValueError, match="takes [02] twice; give every value once"):
            lab.sweep(Experiment(**SMALL), repeated)
    with pytest.raises(ValueError, match="'modle.depth' is no setting"):
        lab.sweep(Experiment(**SMALL), {"modle.depth": [1]})


# --- Record and Store


def test_a_record_survives_the_disk(small_record, tmp_path):
    store = Store(tmp_path)
    store.put(small_record)
    found = store.get(small_record.experiment)
    assert found.experiment == small_record.experiment and found.status == "finished"
    assert found.metrics == pytest.approx(small_record.metrics, rel=1e-5)
    assert [row["metric"] for row in found.curves] == [row["metric"] for row in small_record.curves]
    needed = {
        "version",
        "source",
        "commit",
        "torch",
        "python",
        "device",
        "precision",
        "threads",
        "date",
        "wall_seconds",
        "peak_memory_bytes",
        "data_bytes",
    }
    assert set(found.provenance) == needed
    assert str(ROOT) not in store.put(found).read_text()


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    splits = ("train", "test")
    rows = [dict(step=step, split=s, metric="loss", value=step / 3) for step in range(5000) for s in splits]
    store = Store(tmp_path)
    path = store.put(made(Experiment(**SMALL), curves=rows))
    kept = store.get(Experiment(**SMALL)).curves
    for split in splits:
        steps = [row["step"] for row in kept if row["split"] == split]
        assert steps[0] == 0 and steps[-1] == 4999 and len(steps) == 200
        assert max(b - a for a, b in itertools.pairwise(steps)) <= 26
    assert path.stat().st_size < 20_000
    assert kept[-1]["value"] == pytest.approx(4999 / 3, rel=1e-5)


def test_a_diverged_record_is_strict_json_and_comes_back_as_nan(tmp_path):
    store = Store(tmp_path)
    path = store.put(made(Experiment(**SMALL), status="diverged", metrics={"train_loss": math.nan}))
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    found = store.get(Experiment(**SMALL))
    assert found.status == "diverged" and math.isnan(found.metrics["train_loss"])


def test_the_live_store_forgets_records_of_another_source(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNORM_LIVE", str(tmp_path))
    experiment = Experiment(**SMALL)
    old = made(experiment)
    Store.live().put(replace(old, provenance=old.provenance | dict(source="another")))
    assert Store.live().get(experiment) is None and Store.live().records() == []
    assert Store(tmp_path).get(experiment) is not None
    Store.live().put(old)
    assert Store.live().get(experiment) is not None


def test_source_hash_follows_what_trains_and_ignores_what_draws(tmp_path, monkeypatch):
    (tmp_path / "lab" / "plans").mkdir(parents=True)
    (tmp_path / "plots").mkdir()
    for name in ("norms.py", "plots/lines.py", "lab/plans/images.py", "lab/running.py"):
        (tmp_path / name).write_text("pass\n")
    monkeypatch.setattr(record_module, "PACKAGE", tmp_path)
    hashes = []
    for name in ("norms.py", "plots/lines.py", "lab/plans/images.py", "lab/running.py"):
        before = record_module.source_hash.__wrapped__()
        (tmp_path / name).write_text("changed = 1\n")
        hashes.append(record_module.source_hash.__wrapped__() != before)
    assert hashes == [True, False, False, True]


def test_a_file_that_is_no_record_is_named(tmp_path):
    store, experiment = Store(tmp_path), Experiment(**SMALL)
    path = store.put(made(experiment))
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path.name} is no valid record"):
        store.get(experiment)
    path.write_text(whole)
    path.rename(tmp_path / "0123456789abcdef.json")
    with pytest.raises(ValueError, match=f"holds the experiment {experiment.name}"):
        store.records()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(status="done"), "its status is 'done'; a record is 'finished' or 'diverged'"),
        (dict(status=None), "its status is None"),
        (dict(extra=1), "it has 'extra', which no record has"),
        (dict(metrics=None), "its metrics are no dictionary"),
        (dict(metrics={"test_loss": "low"}), "its test_loss is low, which is no number"),
        (dict(metrics={"test_loss": 10**400}), "its test_loss is 1000.*, which is no number"),
        (dict(curves=[1]), "its curves are no dictionary"),
        (dict(curves={"step": 1}), "its curves are no table of columns"),
        (dict(probes="none"), "its probes are no dictionary"),
        (dict(provenance={"device": "cpu"}), "its wall_seconds is None, which is no number"),
        (dict(provenance={"wall_seconds": 1}), "its provenance names no device"),
        (dict(experiment=dict(task=None, model={}, recipe={})), "task is None; give a dictionary of settings"),
        (dict(measurements={"reads": 3}), "its reads are no table of columns"),
    ],
)
def test_what_no_run_can_have_written_is_no_record(tmp_path, change, message):
    store, experiment = Store(tmp_path), Experiment(**SMALL)
    path = store.put(made(experiment))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"{path.name} is no valid record .{message}.*; delete it and run it again"):
        store.records()


def test_a_record_with_two_truths_or_no_end_is_no_record(tmp_path):
    path = Store(tmp_path).put(made(Experiment(**SMALL)))
    whole = path.read_text()
    for text in (whole.replace('"status"', '"status": "diverged", "status"', 1), "[" * 100_000, "[]"):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path.name} is no valid record"):
            Store(tmp_path).records()


PUT_FOREVER = """
import sys
sys.path.insert(0, {tests!r})
from test_lab import SMALL, Experiment, Store, made
rows = [dict(step=step, split="train", metric=str(step), value=step / 7) for step in range(20000)]
store = Store({folder!r})
store.put(made(Experiment(**SMALL), curves=rows))
print("ready", flush=True)
while True:
    store.put(made(Experiment(**SMALL), curves=rows))
"""


def test_a_kill_during_put_leaves_no_half_record(tmp_path):
    script = PUT_FOREVER.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for pause in (0.0, 0.03, 0.11):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        with process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(pause)
            process.send_signal(signal.SIGKILL)
        records = Store(tmp_path).records()
        assert len(records) == 1 and len(records[0].curves) == 20000
    Store(tmp_path).put(records[0])
    assert [path.name for path in tmp_path.iterdir()] == [f"{records[0].experiment.name}.json"]


def test_a_failed_write_leaves_the_old_record_and_no_litter(tmp_path, monkeypatch):
    store, experiment = Store(tmp_path), Experiment(**SMALL)
    store.put(made(experiment))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        store.put(made(experiment, status="diverged"))
    assert store.get(experiment).status == "finished"
    assert [path.name for path in tmp_path.iterdir()] == [f"{experiment.name}.json"]


def test_every_recorded_run_can_be_read_and_has_the_name_of_its_arm():
    runs = lab.committed()
    assert len(runs) > 1200
    for record in runs.records():
        assert record.status in ("finished", "diverged")
        assert record.provenance["wall_seconds"] > 0


def test_a_benchmark_is_read_from_the_checkout_or_from_the_installed_copy(tmp_path, monkeypatch):
    package = tmp_path / "resnorm"
    monkeypatch.setattr(store_module, "PACKAGE", package)
    assert lab.benchmark("placements") is None
    for folder, text in (("results/benchmarks", "checkout"), ("resnorm/benchmarks", "installed")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "placements.json").write_text(json.dumps({"rows": [text]}))
        assert lab.benchmark("placements") == {"rows": [text]}
    (package / "benchmarks/half.json").write_text('{"rows": [')
    with pytest.raises(ValueError, match="half.json is no JSON .*; measure again with `make bench`"):
        lab.benchmark("half")


# --- run


def test_run_uses_the_store(tmp_path, monkeypatch):
    store, experiment = Store(tmp_path), Experiment(**SMALL)
    store.put(made(experiment))
    assert lab.run(experiment, store).metrics == {"test_accuracy": 0.5}
    runs = lab.Runs(tmp_path / "studies")
    runs.add("tiny", "cpu", {"only": store.records()}, [])
    monkeypatch.setenv("RESNORM_STUDIES", str(tmp_path / "studies"))
    assert [record.experiment for record in lab.recorded([experiment.replace("seed", 1), experiment])] == [experiment]


def test_run_is_deterministic_and_leaves_the_random_state_alone(small_record, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again = lab.run(small_record.experiment, Store(tmp_path), progress=False)
    assert torch.rand(1) == expected
    timed = {"images_per_second"}
    assert {k: v for k, v in again.metrics.items() if k not in timed} == {
        k: v for k, v in small_record.metrics.items() if k not in timed
    }
    other = lab.run(small_record.experiment.replace("seed", 1), Store(tmp_path), progress=False)
    assert other.metrics["train_loss"] != again.metrics["train_loss"]
    assert not list((tmp_path / "checkpoints").glob("*.pt"))


def test_a_diverged_run_is_a_record(tmp_path):
    experiment = Experiment(**SMALL).replace("recipe", dict(lr=1e30, epochs=3, batch_size=64))
    record = lab.run(experiment, Store(tmp_path), progress=False)
    assert record.status == "diverged"
    assert lab.run(experiment, Store(tmp_path)).status == "diverged"


def test_a_measurement_is_taken_on_the_trained_model_and_kept(tmp_path):
    experiment = Experiment(**SMALL, measure=["affine_maps"]).replace("model.variant", "post")
    lab.run(experiment, Store(tmp_path), progress=False)
    record = Store(tmp_path).get(experiment)  # as it comes back from the disk
    assert [row["block"] for row in record.measurements["affine_maps"]] == [1, 2]
    # Training has moved the gains, which start at 1 with no deviation.
    assert all(row["gain_deviation"] > 0 for row in record.measurements["affine_maps"])
    table = lab.frame([record], "affine_maps")
    assert list(table["step"]) == [1, 1] and {"variant", "seed", "gain", "bias"} <= set(table)
    diverging = experiment.replace("recipe", dict(lr=1e30, epochs=3, batch_size=64))
    assert lab.run(diverging, Store(tmp_path), progress=False).measurements == {}


def test_an_interrupted_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    from resnorm.training import loop

    experiment = Experiment(**SMALL).replace("recipe.epochs", 3)
    whole = lab.run(experiment, Store(tmp_path / "whole"), progress=False)
    steps, one_step = [], loop._Loop._one_step

    def interrupted(self):
        if len(steps) == 7:
            raise KeyboardInterrupt
        steps.append(self.step)
        one_step(self)

    store = Store(tmp_path / "interrupted")
    monkeypatch.setattr(loop._Loop, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.run(experiment, store, progress=False)
    assert store.get(experiment) is None
    assert store.checkpoint(experiment).exists()
    assert (tmp_path / "interrupted" / "checkpoints" / ".gitignore").read_text() == "*\n"
    resumed = []
    monkeypatch.setattr(loop._Loop, "_one_step", lambda self: (resumed.append(self.step), one_step(self)))
    record = lab.run(experiment, store, progress=False)
    assert resumed[0] == 4  # four steps an epoch: the seventh step was in the second
    assert record.metrics["test_loss"] == whole.metrics["test_loss"]


# --- run_all


def test_run_all_keeps_order_runs_once_and_goes_on_after_a_failure(tmp_path, monkeypatch):
    store, base = Store(tmp_path), Experiment(**SMALL)
    experiments = [base.replace("seed", seed) for seed in (2, 0, 1)]
    ran = []

    def stub(experiment, store, progress):
        ran.append(experiment.seed)
        if experiment.seed == 0:
            raise RuntimeError("broken")
        store.put(made(experiment))
        return made(experiment)

    monkeypatch.setattr(running, "run", stub)
    with pytest.raises(ExceptionGroup, match="1 of 3 runs failed") as caught:
        lab.run_all([*experiments, experiments[0]], store)
    assert ran == [2, 0, 1]
    assert '"seed":0' in caught.value.exceptions[0].__notes__[0]
    monkeypatch.setattr(running, "run", lambda e, s, progress: s.put(made(e)) and made(e))
    assert [record.experiment.seed for record in lab.run_all(experiments, store)] == [2, 0, 1]


def test_run_all_in_processes_gives_the_same_records(tmp_path):
    experiments = lab.sweep(Experiment(**SMALL), {"seed": [0, 1, 2]})
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        here = lab.run_all(experiments, Store(tmp_path / "here"), progress=False)
    finally:
        torch.set_num_threads(threads)
    apart = lab.run_all(experiments, Store(tmp_path / "apart"), processes=2, progress=False)
    assert [record.experiment.seed for record in apart] == [0, 1, 2]
    assert [record.metrics["test_loss"] for record in apart] == [record.metrics["test_loss"] for record in here]
    assert {record.provenance["threads"] for record in apart} == {1}


def test_a_failure_or_a_death_in_a_process_ends_that_run_alone(tmp_path):
    one, bad = Experiment(**SMALL), Experiment(**SMALL).replace("model", dict(variant="rskip_norm", order=0))

    def kill_the_first():
        while not (children := active_children()):
            time.sleep(0.01)
        children[0].kill()

    thread = threading.Thread(target=kill_the_first)
    thread.start()
    with pytest.raises(ExceptionGroup, match="2 of 3 runs failed") as caught:
        lab.run_all([one, one.replace("seed", 1), bad], Store(tmp_path), processes=2, progress=False)
    thread.join()
    death, failure = sorted(map(str, caught.value.exceptions), key=len, reverse=True)
    assert "the process that ran it was ended from outside" in death and "order" in failure
    assert all("in the experiment {" in error.__notes__[0] for error in caught.value.exceptions)
    assert len(Store(tmp_path).records()) == 1 and not active_children()
    assert not list((tmp_path / "checkpoints").glob("*.lock"))


# --- Several processes on one store


def test_what_another_process_is_running_comes_last(tmp_path, monkeypatch):
    store, base = Store(tmp_path), Experiment(**SMALL)
    experiments = [base.replace("seed", seed) for seed in range(3)]
    elsewhere, ran = ExitStack(), []
    assert elsewhere.enter_context(store.lock(experiments[0]))
    monkeypatch.setattr(running, "PAUSE", 0.01)

    def stub(experiment, store, progress):
        ran.append(experiment.seed)
        if experiment.seed == 2:
            threading.Timer(0.1, elsewhere.close).start()
        store.put(made(experiment))
        return made(experiment)

    monkeypatch.setattr(running, "run", stub)
    assert [record.experiment.seed for record in lab.run_all(experiments, store)] == [0, 1, 2]
    assert ran == [1, 2, 0]


def test_a_run_waits_for_the_process_that_is_at_it_and_takes_its_record(tmp_path, monkeypatch):
    store, experiment = Store(tmp_path), Experiment(**SMALL)
    elsewhere = ExitStack()
    elsewhere.enter_context(store.lock(experiment))
    assert store.busy(experiment) and not store.busy(experiment.replace("seed", 1))
    monkeypatch.setattr(running, "_run", lambda *_: pytest.fail("it ran although another process had"))
    threading.Timer(0.2, lambda: (store.put(made(experiment)), elsewhere.close())).start()
    assert lab.run(experiment, store).metrics == {"test_accuracy": 0.5}


def test_an_interrupted_run_gives_its_lock_back(tmp_path, monkeypatch):
    store, experiment = Store(tmp_path), Experiment(**SMALL)

    def interrupted(*_):
        assert store.busy(experiment)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.run(experiment, store)
    assert not store.busy(experiment) and not list(tmp_path.rglob("*.lock"))


def test_two_commands_on_one_store_fail_nowhere_and_give_the_records_of_one(tmp_path):
    words = "--task digits --model mlp_stack --set model.depth=2 --set model.width=16 --set recipe.epochs=3 --set recipe.lr=0.05"
    command = [sys.executable, "-m", "resnorm", "sweep", *words.split(), "--json", "--seeds", "0,1,2,3", "--store", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) for _ in range(2)]
    first, second = (json.loads(process.communicate()[0]) for process in both)
    assert [process.returncode for process in both] == [0, 0] and first == second
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".part", ".pt", ".lock")]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = lab.run(Experiment.from_dict({key: first[2][key] for key in SMALL | {"seed": 2}}), Store(tmp_path / "alone"))
    finally:
        torch.set_num_threads(threads)
    assert first[2]["metrics"]["test_loss"] == pytest.approx(alone.metrics["test_loss"], rel=1e-5)


def test_the_budget_starts_nothing_that_cannot_fit(tmp_path):
    store, base = Store(tmp_path), Experiment(**SMALL)
    here = record_module.device_name()
    provenance = dict(source=lab.source_hash(), wall_seconds=1000.0, device=here)
    store.put(made(base.replace("seed", 9), provenance=provenance))
    started = time.monotonic()
    assert lab.run_all([base], store, budget=60) == []
    assert time.monotonic() - started < 30
    other = replace(store.get(base.replace("seed", 9)), provenance=provenance | dict(device="a slower machine"))
    store.put(other)
    assert len(lab.run_all([base], store, budget=60, progress=False)) == 1


def test_the_budget_stops_what_is_still_running(tmp_path):
    long = Experiment(**SMALL).replace("recipe", dict(epochs=100_000, batch_size=64))
    started = time.monotonic()
    assert lab.run_all([long], Store(tmp_path), budget=4, progress=False) == []
    assert 4 <= time.monotonic() - started < 20
    assert active_children() == []


def test_budget_and_processes_must_be_positive(tmp_path):
    for bad in (dict(budget=0), dict(processes=0)):
        with pytest.raises(ValueError, match="is 0; give a number above 0"):
            lab.run_all([Experiment(**SMALL)], Store(tmp_path), **bad)


def test_estimate_prefers_other_seeds_then_scales_by_work():
    base = Experiment(dict(name="cifar10", subset=1000), dict(name="cifar_resnet", variant="residual"), dict(epochs=4))

    def taking(experiment, seconds):
        return made(experiment, provenance=dict(wall_seconds=seconds))

    assert lab.estimate(base, []) is None
    other = base.replace("model.variant", "plain").replace("recipe.epochs", 2)
    assert lab.estimate(base, [taking(other, 10)]) == pytest.approx(20)
    assert lab.estimate(base, [taking(other.replace("task.subset", 500), 10)]) == pytest.approx(40)
    assert lab.estimate(base, [taking(base.replace("model.depth", 56), 10)]) is None
    assert lab.estimate(base, [taking(other, 10), taking(base.replace("seed", 1), 7)]) == 7


# --- frames


def test_frames_are_tidy(tmp_path):
    base = Experiment(**SMALL)
    experiments = lab.sweep(base, {"model.variant": ["pre", "post"], "seed": [0, 1]})
    records = [made(experiment) for experiment in experiments]
    metrics = lab.frame(records)
    assert len(metrics) == 4
    assert list(metrics.columns) == ["experiment", "label", "task", "model", "variant", "seed", "status", "metric", "value"]
    assert metrics.groupby("variant").seed.count().to_dict() == {"post": 2, "pre": 2}
    curves = lab.frame(records, "curves")
    assert len(curves) == 4 * 3 and {"step", "epoch", "split"} <= set(curves.columns)
    probes = lab.frame(records, "probes")
    assert len(probes) == 4 * 2 * 2 and probes[probes.metric == "skip_share"].value.isna().all()
    with pytest.raises(ValueError, match="kind is 'all'; allowed: metrics"):
        lab.frame(records, "all")
    assert lab.frame([]).empty


def test_a_setting_whose_name_is_taken_keeps_its_path():
    base = Experiment(**SMALL)
    records = [made(base), made(base.replace("model.depth", 3).replace("task.seed", 1).replace("recipe.epochs", 2))]
    columns = lab.frame(records).columns
    assert {"seed", "task.seed", "depth", "epochs"} <= set(columns)


def test_labels_are_the_papers_names():
    assert [lab.label(item) for item in lab.plan("recursive_skip", "smoke", seeds=[0])] == [
        "Residual",
        "xSkip (λ = 2)",
        "xSkip + LN (λ = 2)",
        "xSkip + BN (λ = 2)",
        "rSkip + LN (order 2)",
        "rSkip + BN (order 2)",
    ]


def test_mean_and_deviation_show_two_figures_of_the_deviation():
    assert lab.mean_and_deviation([9.0, 9.1, 11.0]) == "9.7 ± 1.1"
    assert lab.mean_and_deviation([0.91, 0.92, math.nan]) == "0.9150 ± 0.0071"
    assert lab.mean_and_deviation([100.0, 300.0]) == "200 ± 141"
    assert lab.mean_and_deviation([100.0, 100.0]) == "100 ± 0"
    assert lab.mean_and_deviation([0.91234]) == "0.9123"
    assert lab.mean_and_deviation([math.nan]) == "-"


def test_summary_says_how_many_seeds():
    base = Experiment(**SMALL)
    values = zip([base, base.replace("seed", 1), base.replace("model.depth", 5)], (0.5, 0.7, 0.9), strict=True)
    text = lab.summary([made(experiment, metrics={"test_accuracy": value}) for experiment, value in values])
    assert "2 seeds" in text and "0.60 ± 0.14" in text
    assert "one seed" in text and "0.9 ±" not in text
    assert "one seed" in lab.summary([made(base)] * 2)
    decays = [made(base.replace("recipe.milestones", milestones)) for milestones in ([0.5, 0.75], [0.9])]
    assert lab.summary(decays).count("one seed") == 2
    with pytest.raises(ValueError, match="'bleu'; allowed: test_accuracy"):
        lab.summary([made(base)], "bleu")


# --- plans


@pytest.mark.parametrize("preset", lab.PRESETS)
@pytest.mark.parametrize("name", lab.studies())
def test_every_plan_has_every_preset_and_distinct_experiments(name, preset):
    experiments = lab.plan(name, preset)
    assert len(set(experiments)) == len(experiments) >= 1
    seeds = {item.seed for item in experiments}
    one_seed = ("preact_resnet20", "thousand_layers", "placement_rates", "translation_peaks")
    five_seeds = ("order_stability", "warm_up_repairs", "weight_norm")
    assert seeds == ({0} if name in one_seed else {0, 1, 2, 3, 4} if name in five_seeds else {0, 1, 2})
    # a thousand blocks, or rates to their end, are much, and an example of every step is one of few: their data are little
    little = ("thousand_blocks", "degradation_rates", "mlp_rates", "stream_sizes")
    bundled = preset == "smoke" or name in little or (name in five_seeds and preset != "paper")
    small = {"digits", "characters", "masked_characters", "number_pairs"}
    real = {"cifar10", "tiny_shakespeare", "masked_shakespeare", "multi30k", "en_vi", "iwslt15_en_vi", "wmt14_en_de"}
    assert {item.task["name"] for item in experiments} <= (small if bundled else real) | {"number_words"}


def test_a_preset_sizes_a_plan_and_keeps_its_meaning():
    for name in lab.studies():
        variants = {
            preset: sorted(
                {
                    json.dumps({k: item.model.get(k) for k in ("variant", "merge_norm", "skip", "order")})
                    for item in lab.plan(name, preset)
                }
            )
            for preset in lab.PRESETS
        }
        assert all(found == variants["smoke"] for found in variants.values())


def test_the_paper_preset_is_the_published_setting():
    experiment = lab.plan("recursive_skip", "paper", seeds=[0])[0]
    steps_an_epoch = 45000 // 128
    total = experiment.recipe["epochs"] * steps_an_epoch
    assert total == pytest.approx(64000, rel=0.01)
    assert [share * total for share in experiment.recipe["milestones"]] == pytest.approx([32000, 48000], rel=0.01)
    wanted = dict(optimizer="sgd", momentum=0.9, nesterov=False, weight_decay=1e-4, lr=0.1, batch_size=128, decay=0.1)
    assert wanted.items() <= experiment.recipe.items()
    assert experiment.model["depth"] == 110


def test_plans_can_be_narrowed():
    narrowed = lab.plan("recursive_skip", "smoke", seeds="[4]", orders="[1, 3]", lambdas=[0.5])
    assert {item.seed for item in narrowed} == {4}
    assert [item.model["order"] for item in narrowed if "order" in item.model] == [1, 3, 1, 3]
    assert {item.model["skip"] for item in narrowed if "skip" in item.model} == {0.5}
    assert {item.model["depth"] for item in lab.plan("degradation", "cpu", depths=[20])} == {20}
    tried = {(item.model["variant"], item.recipe["lr"]) for item in lab.plan("masked_text", "cpu", seeds=[0], lrs=[0.001, 0.01])}
    assert tried == {(word, lr) for word in ("pre", "post") for lr in (0.001, 0.01)}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lab.plan("skip"), "there is no study 'skip'; allowed: batch_sizes"),
        (lambda: lab.plan("degradation", "huge"), "preset is 'huge'; allowed: smoke, cpu, colab, paper"),
        (lambda: lab.plan("degradation", "smoke", orders=[1]), "no parameter 'orders'; allowed: arms, seeds, depths"),
        (lambda: lab.check_preset(3), "preset is 3"),
        (lambda: lab.check_orders("[0]"), "orders has 0; allowed: integers of 1 or more"),
        (lambda: lab.check_orders([1, 1]), "without repeats"),
        (lambda: lab.check_seeds("0, 1"), r"seeds is '0, 1'; give a list of .*\[0, 1\]"),
        (lambda: lab.check_seeds([]), r"seeds is \[\]"),
        (lambda: lab.check_seeds([1.5]), "seeds has 1.5"),
        (lambda: lab.check_seeds([True]), "seeds has True"),
        (lambda: lab.check_lambdas([0]), "lambdas has 0; allowed: numbers above 0"),
    ],
)
def test_bad_parameters_are_refused_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_parameters_are_taken_as_papermill_passes_them():
    assert lab.check_seeds("[0,1,2]") == [0, 1, 2]
    assert lab.check_orders(2) == [2]
    assert lab.check_lambdas("[0.5, 2]") == [0.5, 2]


# --- where records come from


def test_origin_names_the_machine_the_seeds_and_what_is_missing():
    planned = lab.sweep(Experiment(**SMALL), {"seed": [0, 1, 2]})
    where = dict(device="a CPU", precision="fp32", date="2026-01-02T03:04:05Z", commit="abcdef0123456789", wall_seconds=1.0)
    later = where | dict(date="2026-01-05T00:00:00Z")
    text = lab.origin([made(planned[0], provenance=where), made(planned[2], provenance=later)], planned)
    for part in (
        "2 runs of mlp_stack on digits",
        "seeds 0, 2",
        "a CPU, fp32",
        "2026-01-02 to 2026-01-05",
        "commit abcdef0;",
        "1 of 3 runs are not recorded yet",
        "python -m resnorm missing",
    ):
        assert part in text, part
    assert "0.5" not in text  # a result stands in a table or a claim, with its spread
    complete = lab.origin([made(item, provenance=where) for item in planned], planned)
    assert "not recorded" not in complete and complete.endswith("commit abcdef0.")
    assert "batches of 512 tokens" in lab.origin([made(planned[0].replace("recipe.batch_tokens", 512), provenance=where)])
    assert (
        lab.origin([], planned) == "No runs are recorded; 3 of 3 runs are not recorded yet: `python -m resnorm missing` lists them."
    )
