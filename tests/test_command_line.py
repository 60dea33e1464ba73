import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnorm import __main__ as command_line
from resnorm import lab
from resnorm.catalog import VARIANTS

ROOT = Path(__file__).resolve().parent.parent
SMALL = "--task digits --model mlp_stack --set model.depth=2 --set recipe.epochs=1 --set recipe.lr=0.02".split()


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Call the command line in this process; return exit code, stdout and stderr."""
    monkeypatch.setenv("RESNORM_LIVE", str(tmp_path / "live"))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["resnorm", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            command_line.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


def in_a_process(*words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("command_name", ["", "run", "sweep", "missing", "fill", "show", "variants"])
def test_help_says_what_a_command_does(command, command_name):
    code, out, _ = command(*filter(None, [command_name]), "--help")
    assert code == 0 and "Usage: python -m resnorm" in out
    if command_name:
        assert "python -m resnorm " + command_name in out
    else:
        assert all(word in out for word in ("run", "sweep", "missing", "fill", "show", "variants"))


def test_help_does_not_import_torch():
    code = "import sys, resnorm.__main__; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    done = in_a_process("-c", code)
    assert done.returncode == 0, done.stderr
    done = in_a_process("-X", "importtime", "-m", "resnorm", "run", "--help")
    assert "preact_resnet20" in done.stdout
    assert " torch\n" not in done.stderr


def test_run_shows_and_stores_its_record(command, tmp_path):
    code, out, err = command("run", *SMALL, "--seed", 3, "--json")
    (record,) = json.loads(out)
    assert code == 0 and err == ""
    assert record["seed"] == 3 and record["status"] == "finished"
    assert record["model"] == {"name": "mlp_stack", "depth": 2} and record["recipe"] == {"epochs": 1, "lr": 0.02}
    assert (tmp_path / "live" / f"{record['name']}.json").exists()
    code, out, _ = command("run", *SMALL, "--seed", 3)
    assert f"{record['metrics']['test_accuracy']:.4f}" in out and "one seed" in out


def test_sweep_varies_settings_and_seeds(command, tmp_path):
    store = tmp_path / "chosen"
    code, out, _ = command("sweep", *SMALL, "--grid", "model.variant=pre,post", "--seeds", "0,1", "--store", store, "--json")
    found = [(item["model"]["variant"], item["seed"]) for item in json.loads(out)]
    assert code == 0 and sorted(found) == [("post", 0), ("post", 1), ("pre", 0), ("pre", 1)]
    code, out, _ = command("show", "--store", store, "--metric", "test_accuracy")
    assert code == 0 and out.count("2 seeds") == 2 and "±" in out
    assert len(json.loads(command("show", "--store", store, "--json")[1])) == 4


TINY = '''"""A study of two arms."""
from resnorm.lab import Experiment, sweep

ARMS = {"Pre-Norm": dict(variant="pre"), "Post-Norm": dict(variant="post")}


def experiments(preset, arm, seeds=(0, 1)):
    base = Experiment(dict(name="digits"), dict(name="mlp_stack", depth=1, **arm), dict(epochs=1, lr=0.02))
    return sweep(base, {"seed": list(seeds)})
'''


def test_missing_and_fill_follow_the_notebooks(command, tmp_path, monkeypatch):
    source = 'records = lab.run_all(lab.plan("tiny", preset))\nlab.recorded(plan(\n    \'tiny\', "cpu"))'
    markdown = {"cell_type": "markdown", "source": ['`plan("degradation")` is only text']}
    notebook = {"cells": [markdown, {"cell_type": "code", "source": source.splitlines(keepends=True)}]}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "chapter.ipynb").write_text(json.dumps(notebook))

    (tmp_path / "studies/tiny").mkdir(parents=True)
    (tmp_path / "studies/tiny/plan.py").write_text(TINY)
    monkeypatch.setenv("RESNORM_STUDIES", str(tmp_path / "studies"))
    notebooks, store = ["--notebooks", tmp_path / "notebooks"], ["--store", tmp_path / "runs"]
    lacking = json.loads(command("missing", *notebooks, "--json")[1])
    assert [(item["study"], item["arm"]) for item in lacking] == [("tiny", arm) for arm in ("Pre-Norm", "Post-Norm") for _ in "01"]
    code, out, _ = command("fill", "tiny", "--arm", "Post-Norm", *store)
    assert code == 0 and out.startswith("2 of 2 missing experiments were run; 0 are left.\n")
    code, out, _ = command("fill", *notebooks, *store)
    assert "4 of 4 missing" in out and f"python -m resnorm pack --store {tmp_path / 'runs'}" in out
    runs = lab.Store(tmp_path / "runs").records()
    assert sorted(record.experiment.seed for record in runs) == [0, 0, 1, 1]
    code, out, err = command("pack", *store)
    assert (code, err) == (0, "") and out.startswith("studies/tiny/runs/cpu.jsonl: 4 runs\n4 runs were packed.\n")
    assert not list((tmp_path / "runs").glob("*.json"))
    study = lab.study("tiny")
    assert (
        not study.missing()
        and [study.arm_of[record.experiment.name] for record in study.records] == ["Pre-Norm"] * 2 + ["Post-Norm"] * 2
    )
    assert {record.to_json() for record in study.records} == {run.to_json() for run in runs}
    code, out, err = command("missing", *notebooks)
    assert (code, out) == (0, "") and "0 experiments are missing" in err


def test_fill_takes_seed_by_seed(command, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(lab, "run_all", lambda experiments, *_: taken.extend(experiments) or [])
    command("fill", "recursive_skip", "--preset", "smoke", "--store", tmp_path)
    assert [item.seed for item in taken] == [0] * 6 + [1] * 6 + [2] * 6


def test_a_failed_run_is_one_line_and_exit_code_1(command, tmp_path):
    bad = ["--grid", "model.depth=0,1", "--store", tmp_path]
    code, _, err = command("sweep", *SMALL, *bad)
    assert code == 1
    assert err.startswith("error: ") and err.count("\n") == 1 and '"depth":0' in err
    assert len(lab.Store(tmp_path).records()) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run", "give either a study (batch_sizes"),
        ("run nope", "there is no study 'nope'; allowed: batch_sizes"),
        ("run preact_resnet20 --preset huge", "preset is 'huge'; allowed: smoke, cpu, colab, paper"),
        ("run recursive_skip", "has 18 experiments: use `sweep`"),
        ("run --task digits", "give both"),
        ("run --task digits --model mlp_stack --set depth=3", "write task.KEY, model.KEY or recipe.KEY"),
        ("run --task digits --model mlp_stack --set model.depth", "'model.depth' is no setting"),
        ("run --task digits --model mlp_stack --set model.depht=3", "has no 'depht'; allowed:"),
        ("run preact_resnet20 --set recipe.optimizer=lion", "lion"),
        ("run preact_resnet20 --data /nowhere/at/all", "there is no such folder"),
        ("sweep preact_resnet20 --grid seed=0,0", "seed takes 0 twice; give every value once"),
        ("sweep preact_resnet20 --grid model.depth=20,,56", "has an empty value"),
        ("sweep preact_resnet20 --grid model.depth=[]", "model.depth has no value to take; give at least one"),
        ("sweep preact_resnet20 --grid model.norm=group(groups=4,layer", "does not close a bracket"),
        ("sweep preact_resnet20 --grid model.norm=group)groups=4(", "closes a bracket with ')' that was not opened so"),
        ("run --task digits --model mlp_stack --set model.depth=abc", "has depth='abc'; give a whole number, such as"),
        ("run --task digits --model mlp_stack --set model.depth=2.5", "has depth=2.5; give a whole number"),
        ("run --task digits --model mlp_stack --set model.depth=null", "has depth=None; give a whole number"),
        ("run --task digits --model cifar_resnet --set model.weight=1", "has weight=1; give a name"),
        ("run --task digits --model transformer_lm --set model.norm=true", "has norm=True; give a name, or a list"),
        ("run --task digits --model mlp_stack --set model.initialisation=[1]", "has initialisation=[1]; give a name"),
        ("run --task digits --model mlp_stack --set model.hidden=0.5", "has hidden=0.5; give a whole number above 0"),
        ("run --task digits --model vit --set model.patch=0", "has patch=0; give a whole number above 0, such as 16"),
        ("run --task digits --model cifar_densenet --set model.width=-1", "has width=-1; give a whole number above 0"),
        ("run --task digits --model mlp_stack --set task.validation=abc", "has validation='abc'; give a number"),
        ("run --task digits --model mlp_stack --set model.norm=3", "has norm=3; give a text, such as"),
        ("run --task digits --model mlp_stack --set model.variant=[1]", "there is no variant [1]"),
        ("sweep recursive_skip --seeds 0,x", "seeds has 'x'; allowed: integers of 0 or more"),
        ("missing --preset huge", "preset is 'huge'"),
        ("missing --notebooks nowhere", "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, words, expected):
    code, out, err = command(*words.split())
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and expected in err


@pytest.mark.parametrize(
    ("grid", "values"),
    [
        ("model.depth=2,4", [2, 4]),
        ("model.depth=[2,4]", [2, 4]),
        ("model.norm=group(groups=4),group(groups=8)", ["group(groups=4)", "group(groups=8)"]),
        ("model.norm=layer, rms(eps=1e-5,affine=False)", ["layer", "rms(eps=1e-5,affine=False)"]),
        ('model.norm=["layer","rms(eps=1e-5,affine=False)"]', ["layer", "rms(eps=1e-5,affine=False)"]),
        ('model.norm="layer","rms(eps=1e-5,affine=False)"', ["layer", "rms(eps=1e-5,affine=False)"]),
        ("model.norm='layer','rms(eps=1e-5,affine=False)'", ["layer", "rms(eps=1e-5,affine=False)"]),
        ("recipe.clip=None,1", [None, 1]),
        ("recipe.decay_norms=True,false", [True, False]),
        ("recipe.milestones=[0.5,0.75],[0.9]", [[0.5, 0.75], [0.9]]),
        ("recipe.milestones=[[0.5,0.75],[0.9]]", [[0.5, 0.75], [0.9]]),
        ("recipe.milestones=[0.5,0.75]", [[0.5, 0.75]]),
        ('measure=["reads"],[]', [["reads"], []]),
        ('model={"depth":2,"width":8},{"depth":4}', [{"depth": 2, "width": 8}, {"depth": 4}]),
    ],
)
def test_a_grid_is_cut_at_commas_outside_of_brackets(command, monkeypatch, grid, values):
    monkeypatch.setattr(lab, "run_all", lambda experiments, *_, **options: planned.extend(experiments) or [])
    planned = []
    assert command("sweep", *SMALL, "--grid", grid)[0] == 0
    base, path = lab.Experiment.from_dict(planned[0].to_dict()), grid.partition("=")[0]
    assert planned == [base.replace(path, value) for value in values] or (path == "model" and len(planned) == 2)


def test_a_grid_varies_settings_that_are_lists(command, tmp_path):
    words = [*SMALL, "--set", "recipe.schedule=step", "--grid", "recipe.milestones=[0.5,0.75],[0.9]", "--store", tmp_path]
    code, out, _ = command("sweep", *words)
    assert code == 0 and out.count("one seed") == 2


def test_only_what_a_command_prints_reaches_standard_output():
    # As gloo does: past Python, in front of the answer.
    code = (
        "import os, sys; from resnorm import __main__ as m; sys.argv = ['resnorm', 'variants', '--json'];"
        "app = m.app; m.app = lambda **options: (os.write(1, b'[Gloo] Rank 0 is connected'), app(**options)); m.main()"
    )
    done = in_a_process("-c", code)
    assert len(json.loads(done.stdout)) == len(VARIANTS) and "[Gloo]" in done.stderr


def test_what_nobody_foresaw_is_one_line_too(command, monkeypatch):
    monkeypatch.setattr(lab, "run", lambda *_, **options: {}["no such key"])
    code, out, err = command("run", *SMALL)
    assert (code, out, err) == (1, "", "error: KeyError: 'no such key' (RESNORM_TRACEBACK=1 shows where)\n")
    monkeypatch.setenv("RESNORM_TRACEBACK", "1")
    with pytest.raises(KeyError):
        command("run", *SMALL)


def test_variants_lists_the_whole_catalog(command):
    rows = json.loads(command("variants", "--json")[1])
    assert [row["name"] for row in rows] == list(VARIANTS)
    assert next(row["equation"] for row in rows if row["name"] == "post") == "n(x + F(x))"
    out = command("variants")[1]
    assert len(out.splitlines()) == len(VARIANTS)
