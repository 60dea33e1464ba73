"""The benchmarks' harness: one clock for every loop, ratios round by round, rows of the agreed form."""

import json
from dataclasses import replace
from time import sleep

import pytest
import torch
from torch import nn

from benchmarks import channels_last, convert_norm, language_model, load_language_weights, placements, training_loops
from benchmarks.peers import LOOPS, OURS, Task, batches
from benchmarks.turns import Clock, Process, chosen, first_round, speed_rows
from resnorm import lab
from resnorm.data import load
from resnorm.training import Recipe, learning_rates


def spreads(rows):
    """Every median of the rows, with its range."""
    return [value for row in rows for value in row.values() if isinstance(value, dict)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmarks")
    arguments = ["--quick", "--folder", str(folder), "--loops"]
    training_loops.main([*arguments, "resnorm,resnorm_bf16,tutorial_0"])
    return json.loads((folder / "training_loops.json").read_text())


def test_quick_run_writes_the_agreed_form(written):
    assert list(written) == ["name", "provenance", "settings", "rows"] and written["name"] == "training_loops"
    assert {"commit", "device", "threads", "torch", "date"} <= set(written["provenance"])
    kinds = dict.fromkeys(row["kind"] for row in written["rows"])
    assert list(kinds) == ["speed", "limit", "pipeline", "overhead", "depth", "data"]
    assert [(row["loop"], row["precision"]) for row in written["rows"] if row["kind"] == "speed"] == [
        ("resnorm", "fp32"),
        ("resnorm", "bf16"),
        ("PyTorch tutorial, no workers", "fp32"),
    ]
    found = spreads(written["rows"])
    assert len(found) > 20 and all(0 < one["low"] <= one["median"] <= one["high"] for one in found)


def test_ours_over_ours_is_one(written):
    ours = {row["precision"]: row for row in written["rows"] if row["kind"] == "speed" and row["loop"] == "resnorm"}
    assert ours["fp32"]["ratio"] == ours["bf16"]["ratio_bf16"] == dict(median=1, low=1, high=1)
    assert ours["fp32"]["ratio_bf16"] != ours["fp32"]["ratio"]


def test_limit_counts_convolutions_and_passes(written):
    for row in written["rows"]:
        if row["kind"] == "limit":
            convolutions, passes = (row[key]["median"] for key in ("convolutions_ms", "passes_ms"))
            assert convolutions > 0 and passes > 0
            assert row["limit_ms"]["high"] <= (row["convolutions_ms"]["high"] + row["passes_ms"]["high"]) * 1.001


def test_quick_language_model(tmp_path):
    language_model.main(["--quick", "--folder", str(tmp_path), "--loops", "resnorm,tutorial"])
    rows = json.loads((tmp_path / "language_model.json").read_text())["rows"]
    assert [row["loop"] for row in rows] == ["resnorm", "nn.TransformerEncoder, tutorial"]
    assert all(one["median"] > 0 for one in spreads(rows))


def test_accuracy_starts_again_where_it_stopped(tmp_path, capsys):
    arguments = ["--accuracy", "--quick", "--folder", str(tmp_path), "--loops", "resnorm", "--target", "0.01"]
    path = tmp_path / "training_loops.json"
    training_loops.main(arguments)
    before = json.loads(path.read_text())["rows"]
    assert [row["kind"] for row in before] == ["run", "accuracy"] and before[1]["seconds_to_target"]["median"] > 0
    assert len(before[0]["accuracy"]) == len(before[0]["seconds"]) == before[0]["epochs"]
    assert before[0]["test_accuracy"] > 0.2, "of ten classes, after two epochs"
    before[0]["test_accuracy"] = 0.5
    path.write_text(json.dumps(dict(settings=dict(rounds=3), provenance=dict(date="then"), rows=before)))
    training_loops.main([*arguments, "--target", "1.1"])
    assert "there already" in capsys.readouterr().out
    content = json.loads(path.read_text())
    assert content["provenance"]["date"] == "then" and content["settings"] == dict(rounds=3), "of the rows on speed"
    run, summary = content["rows"]
    assert run["test_accuracy"] == summary["test_accuracy"] == 0.5, "it was trained once more"
    assert summary["seconds_to_target"] is None, "an accuracy that nobody reaches"


def test_ratios_are_formed_round_by_round():
    seconds = dict(resnorm=[1.0, 2.0, 4.0], tutorial=[2.0, 2.0, 12.0])
    ours, peer = speed_rows(LOOPS, seconds, dict.fromkeys(seconds, (0, 10)), OURS, "images_per_second", items=8)
    assert peer["ratio"] == dict(median=2, low=1, high=3), "the ratio of the medians would be 1"
    assert ours["images_per_second"] == dict(median=4, low=2, high=8) and "ratio_bf16" not in peer
    assert peer["peak_memory_bytes"] == 10


def test_the_fastest_number_of_workers_is_taken():
    class Answers:
        def ask(self, workers):
            return {0: (0.3, 5), 1: (0.1, 7), 2: (0.2, None)}[workers]

    assert first_round(Answers(), (0, 1, 2)) == (1, 7)


def test_missing_peer_is_left_out_with_a_reason(capsys):
    loops = {"here": LOOPS["resnorm"], "away": replace(LOOPS["timm"], packages=("no_such_package",))}
    assert chosen(loops, None) == ["here"]
    assert "timm train.py is left out: the package no_such_package is not installed" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", [training_loops, language_model])
def test_unknown_loop_names_the_allowed_ones(benchmark):
    with pytest.raises(ValueError, match="unknown loop 'keras'; allowed: resnorm, resnorm_bf16, .*tutorial"):
        benchmark.main(["--quick", "--loops", "resnorm,keras"])


def test_clock_counts_training_steps_and_leaves_out_what_is_aside():
    model = nn.Linear(2, 2)
    clock = Clock(model, (1, 2), aside=lambda: sleep(0.05))
    for _ in range(2):
        model(torch.zeros(1, 2))
        model.eval()
        model(torch.zeros(1, 2))
        model.train()
    assert clock.step == 2 and len(clock.seconds) == 1
    model(torch.zeros(1, 2))
    assert clock.seconds[1] - clock.seconds[0] < 0.04


def fails():
    raise ArithmeticError("no such number")


def test_failure_in_another_process_is_told():
    process = Process(fails)
    try:
        with pytest.raises(RuntimeError, match="no such number"):
            process.ask()
    finally:
        process.close()


def test_batches_go_on_over_epochs():
    assert list(batches([1, 2, 3], 7)) == [1, 2, 3, 1, 2, 3, 1]


def test_layers_of_the_peer_do_not_start_alike():
    torch.manual_seed(0)
    model = language_model.EncoderLM(vocabulary=11, context=6)
    first, second = (layer.linear1.weight for layer in model.encoder.layers[:2])
    assert not torch.equal(first, second)
    tokens = torch.randint(11, (2, 6))
    later = tokens.clone()
    later[:, 4:] = (later[:, 4:] + 1) % 11
    before, after = model(tokens), model(later)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6), "it sees the future"
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def recorded_steps():
    """A function that gives the settings of the optimiser in each step of a loop, and the accuracy that it reached."""
    step, data = torch.optim.SGD.step, load("digits")

    def measured(name, task):
        seen = []

        def record(self, *arguments, **options):
            keys = ("lr", "momentum", "nesterov", "weight_decay")
            seen.extend([group[key] for key in keys] for group in self.param_groups)
            return step(self, *arguments, **options)

        torch.optim.SGD.step = record
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        LOOPS[name].train(model, data, task)
        return seen, training_loops.test_accuracy(model, data)

    return measured


@pytest.fixture(scope="module")
def recorded():
    # In another process: these libraries set seeds and signal handlers, and warn.
    process = Process(recorded_steps)
    yield process.ask
    process.close()


PEERS = [name for name, loop in LOOPS.items() if loop.packages and loop.workers != (0,) and not loop.missing]


@pytest.mark.parametrize("name", PEERS)
def test_every_loop_takes_the_same_steps(name, recorded):
    task = Task(steps=30, batch_size=100, workers=0)
    seen, accuracy = recorded(name, task)
    rates = learning_rates(Recipe(lr=task.lr, schedule="cosine"), task.steps)
    assert seen == [[pytest.approx(rate, abs=1e-9), task.momentum, True, task.weight_decay] for rate in rates]
    assert accuracy > 0.4, "of ten classes"


EVERY = [arm for arm in lab.study("placements").arms if arm != "Pre-Norm, 32 bits"]


def small_zoo(precision=None):
    """The experiments of the benchmark, their networks of two layers."""
    small = dict(depth=2, width=16, heads=2)
    zoo = placements.every_placement(precision)
    changes = {"model": small, "task.context": 8, "task.subset": 32}
    for path, value in changes.items():
        zoo = {arm: experiment.replace(path, value) for arm, experiment in zoo.items()}
    return zoo


def test_every_placement_takes_whole_steps_of_its_own_network(monkeypatch):
    seen = {}

    def steps(functions, rounds, repeat):
        for name, engine in functions.items():
            before = [one.detach().clone() for one in engine.loop.model.parameters()]
            shapes = []
            inner = engine.loop.model.stack.blocks[0]  # nGPT scales its logits in 32 bits
            hook = inner.register_forward_hook(
                lambda _, inputs, y, shapes=shapes: shapes.append((inputs[0].shape[:2], torch.is_autocast_enabled("cpu")))
            )
            # One step more than an epoch has: the first goes on where a rate of the warm-up is above 0.
            for _ in range(engine.loop.steps_per_epoch + 1):
                engine()
            hook.remove()
            assert set(shapes) == {(torch.Size([16, 8]), True)}, "not the batch or the precision of the recipe"
            moved = [not torch.equal(old, new) for old, new in zip(before, engine.loop.model.parameters(), strict=True)]
            seen[name] = sum(moved) / len(moved)
        return {name: [1.0] * rounds for name in functions}

    monkeypatch.setattr(placements, "interleaved", steps)
    rows, _ = placements.placement_rows(small_zoo(), 1, 1)
    assert [row["placement"] for row in rows] == EVERY
    assert min(seen.values()) > 0.5, "a network that does not learn"
    memory = {row["placement"]: row["memory"] for row in rows}
    assert memory["Pre-Norm"] == 1 > memory["Residual, no norm"] and memory["mHC"] > 1.5
    assert {row["precision"] for row in rows} == {"bf16"}


def test_the_file_of_the_placements_has_what_the_chapter_reads(monkeypatch, tmp_path):
    monkeypatch.setattr(placements, "ROUNDS", 1)
    small = {precision: small_zoo(precision) for precision in (None, "fp32")}
    monkeypatch.setattr(placements, "every_placement", small.__getitem__)
    placements.main(["--quick"])
    assert not list(tmp_path.iterdir())
    placements.main(["--precision", "fp32", "--folder", str(tmp_path)])
    content = json.loads((tmp_path / "placements.json").read_text(encoding="utf-8"))
    assert {row["placement"] for row in content["rows"]} == set(EVERY) and content["rows"][0]["precision"] == "fp32"
    assert content["rows"][0]["time"].keys() == {"median", "low", "high"}
    assert content["settings"]["pre_norm_step_ms"]["median"] > 0 and content["settings"]["rounds"] == 1
    assert {"device", "threads", "torch", "date", "commit"} <= content["provenance"].keys()


def test_placements_are_divided_by_the_step_before_them(monkeypatch):
    def seconds(functions, rounds, repeat):
        # A machine that is three times as slow in its second round, and slows down within each.
        names = [name for name in functions if name != "settle"]
        assert names[::2] == [placements.PREVIOUS.format(name) for name in names[1::2]], "not one right after the other"
        engines = [functions[name] for name in names]
        assert len({id(engine) for engine in engines[::2]}) == 1 and len(set(map(id, engines[1::2]))) == len(EVERY)
        times = {name: 1.0 + place // 2 for place, name in enumerate(names)}
        times |= {name: 2 * times[name] for name in names[1::2] if name != "Pre-Norm"}
        return dict(settle=[9.0] * 3) | {
            name: [one, 3 * one, one * (5 if name == "Post-Norm" else 1)] for name, one in times.items()
        }

    monkeypatch.setattr(placements, "interleaved", seconds)
    rows, step_ms = placements.placement_rows(small_zoo(), 3, 1)
    found = {row["placement"]: row["time"] for row in rows}
    assert found.pop("Pre-Norm") == dict(median=1, low=1, high=1)
    assert found.pop("Post-Norm") == dict(median=2, low=2, high=10)
    assert all(one == dict(median=2, low=2, high=2) for one in found.values())
    assert step_ms == dict(median=2000, low=2000, high=6000)


def test_language_weights_are_equal_or_refused_where_their_configuration_is_told():
    pytest.importorskip("transformers")
    wanted = {
        "llama (LlamaForCausalLM)": ("equal", "equal"),
        "megatron-bert (MegatronBertForMaskedLM)": ("refused", "refused"),
        "granite (GraniteForCausalLM)": ("refused", "other"),
    }
    for name, settings, build in load_language_weights.networks(quick=False):
        if name in wanted and not settings:
            torch.manual_seed(0)
            row = load_language_weights.outcomes(load_language_weights.shaken(build()))
            told, tensors = wanted.pop(name)
            assert row["outcome"] == dict(told=told, tensors=tensors)
            assert ("Granite" in row.get("said", "")) == (tensors == "other")
    assert not wanted


def test_loaded_weights_have_an_outcome_for_each_way():
    """Equal, refused, or loaded with a word about what was not checked; and the call without what leaves no tensor."""
    import timm

    from benchmarks import load_weights

    network = load_weights.shaken(timm.create_model("resnetblur18", num_classes=load_weights.CLASSES))
    call = load_weights.call_for(network)
    assert call == 'resnet(depth=18, classes=7, antialias="blur")' and load_weights.plain(call) == "resnet(depth=18, classes=7)"
    row = load_weights.outcomes(network, 32, call)
    assert set(row["outcomes"].values()) == {"equal"} and row["difference"] < 1e-5
    row = load_weights.outcomes(network, 32, load_weights.plain(call))
    assert list(row["outcomes"].values()) == ["refused", "refused", "unchecked", "unchecked", "refused"]
    assert "antialias='blur'" in row["reason"] and "anti-aliasing" in row["said"]


class Sly(nn.Module):
    """Reads its norm where no reader of its source sees it, and does not call it in eval."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        norm, x = vars(self)["_modules"]["norm"], self.first(x)
        return norm(x) if self.training or norm._forward_hooks else x * norm.weight[:, None, None]


def test_a_model_that_changes_silently_is_counted_as_such():
    image = [(convert_norm.image(0, 16),)]
    rows = convert_norm.rows_of("own", "sly", "sly", Sly, image)
    assert rows[0]["outcome"] == "does not run itself", "even before"
    made = convert_norm.built(lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten()))
    before = convert_norm.passes(made, image[0], {})
    assert convert_norm.outcome(made, "layer to rms", image[0], before) is None
    assert convert_norm.outcome(made, "batch to layer", image[0], before) == dict(outcome="converted")
    sly = convert_norm.built(Sly)
    assert convert_norm.outcome(sly, "batch to layer", image[0], before)["outcome"] == "silently wrong"


def test_every_model_of_torchvision_and_enough_of_timm_are_in_the_list():
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    names = [name for _, name, *_ in convert_norm.torchvision_models()]
    assert names == torchvision.models.list_models()
    chosen = {name: family for family, name, *_ in convert_norm.timm_models()}
    assert len(chosen) >= 150 and len(set(chosen.values())) > 90 and set(chosen) <= set(timm.list_models())


def test_channels_last_is_measured_beside_torch():
    row = channels_last.row("instance", (2, 8, 6, 6), "mean 1,000", rounds=2, repeat=1)
    assert row["error"] < 1e-3 < row["torch_error"] and row["time"] > 0 < row["time_and_backward"]
