"""What works with torch alone, and what the errors say where a package of an extra is missing."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
import torchvision
from packaging.requirements import Requirement

from resnorm.extras import MissingExtra, needed_for

ROOT = Path(__file__).parent.parent
# Once through the core: words, norms, streams, models, theory, the conversion of norms, foreign weights, a training loop.
CORE = """
import sys
import torch
from torch import nn

import resnorm
from resnorm import (
    VARIANTS, Block, DataSet, Hyper, Recipe, Stack, attention, bert, convert_norm, densenet, draw, equation, fit, generate,
    load_weights, measure, mlp, norm, predict, resnet, seq2seq, transformer_lm, translate, variant, vit,
)

assert resnorm.Block is Block and "torch" in resnorm.describe_environment()
torch.manual_seed(0)
tokens = torch.randint(17, (2, 6))
blocks = [Block("nAa nMa", 16, n="rms", A=attention(heads=2), M=mlp(2)), Block("Manan", 16, n="layer", M=mlp(2))]
stack = Stack(blocks, last="layer")
y = stack(torch.randn(2, 6, 16))
branches = [Block("nA", 16, n="layer", A=attention(heads=2)), Block("nM", 16, n="layer", M=mlp(2))]
Stack(branches, Hyper(16, count=2, rows=4), last="layer")(y).sum().backward()
assert equation("nFa", latex=True) and predict("nFa", 4) and measure(stack, torch.randn(2, 6, 16), torch.sum)
assert draw("nFa").startswith("<svg") and blocks[0].draw().startswith("<svg")
assert norm("group(groups=2)", 8)(torch.randn(2, 8, 4)).shape == (2, 8, 4)
assert variant("pre").word == VARIANTS["pre"].word

network = load_weights(resnet(depth=18, classes=3), torch.load(sys.argv[1]))
assert convert_norm(network, "group(groups=8)").eval()(torch.randn(1, 3, 64, 64)).shape == (1, 3)
assert densenet(depth=121, classes=3).eval()(torch.randn(1, 3, 32, 32)).shape == (1, 3)
small = dict(width=16, depth=2, heads=2)
model = transformer_lm(vocabulary=17, context=16, **small)
assert model(tokens).shape == (2, 6, 17) and generate(model, tokens, 3).shape[0] == 2
assert bert(vocabulary=17, context=16, **small)(tokens).shape == (2, 6, 17)
assert vit(size=32, patch=8, classes=3, **small)(torch.randn(2, 3, 32, 32)).shape == (2, 3)
pairs = seq2seq(vocabulary=17, context=16, **small)
assert translate(pairs, tokens).shape[0] == 2

split = (torch.randint(17, (8, 6)), torch.randint(17, (8, 6)))
data = DataSet("random", "sequences", split, split, split, spec=dict(vocabulary=17, context=6))
assert fit(model, data, Recipe(epochs=1, batch_size=4)).status == "finished"

foreign = {"numpy", "pandas", "matplotlib", "sklearn", "num2words", "pooch", "tqdm", "typer", "yaml", "torchvision", "safetensors"}
foreign |= {"scipy", "statsmodels", "seaborn"}
assert not foreign & set(sys.modules), foreign & set(sys.modules)
print("works")
"""


def test_the_error_says_what_needs_which_package_and_how_to_install_it():
    with pytest.raises(MissingExtra, match=r'^figures need the package nowhere, .*pip install "resnorm\[lab\]"\.$'):
        with needed_for("figures"):
            import nowhere.colours
    with pytest.raises(MissingExtra, match=r'"resnorm\[translation\]"\. Take digits\.$'):
        with needed_for("scores", "translation", instead="Take digits."):
            import nowhere  # noqa: F401
    # A module of our own that is not there is a mistake of ours, and no package to install.
    with pytest.raises(ModuleNotFoundError, match="resnorm.nowhere") as raised:
        with needed_for("figures"):
            import resnorm.nowhere  # noqa: F401
    assert not isinstance(raised.value, MissingExtra)


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory):
    """Run code in an interpreter that finds the package, torch and what torch itself requires, and nothing else."""
    folder = tmp_path_factory.mktemp("torch_alone")
    (folder / "resnorm").symlink_to(ROOT / "resnorm")
    for path in {path for name in required("torch") for path in top_level(name)}:
        (folder / path.name).symlink_to(path)

    def run(*arguments):
        # -S: without site-packages; -I: without the current folder and PYTHONPATH. Torch warns that it misses NumPy.
        start = f"import runpy, sys; sys.path.append({str(folder)!r}); sys.argv = sys.argv[1:]; "
        start += "module, name = sys.argv.pop(0), sys.argv[0]; "
        start += "exec(name) if module == '-c' else runpy.run_module(name, run_name='__main__', alter_sys=True)"
        flags = ["-I", "-S", "-W", "error", "-W", "ignore:Failed to initialize NumPy"]
        command = [sys.executable, *flags, "-c", start, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder)

    return run


def required(name: str) -> set[str]:
    """A distribution and all that it requires, as far as it is installed."""
    found, waiting = set(), [name]
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def top_level(name: str) -> set[Path]:
    """The folders and files that a distribution puts into site-packages."""
    distribution = metadata.distribution(name)
    names = {path.parts[0] for path in distribution.files if path.parts[0] not in ("..", "__pycache__")}
    return {Path(distribution.locate_file(name)) for name in names}


def test_torch_alone_is_enough_for_the_core(torch_alone, tmp_path):
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "weights.pt")
    done = torch_alone("-c", CORE, tmp_path / "weights.pt")
    assert done.stdout == "works\n", done.stderr


def test_with_torch_alone_the_rest_names_its_extra(torch_alone):
    repair = 'pip install "resnorm[lab]"'
    tries = {
        "from resnorm import plots": "figures need the package matplotlib",
        "resnorm.load('digits')": "the handwritten digits need the package sklearn",
        "resnorm.load('characters')": "number names need the package num2words",
        "resnorm.lab.frame([])": "tables of records need the package pandas",
        "lab.detectable(1.0, 4)": "comparisons of runs need the package scipy",
        "claims.claims()": "claims of the book need the package yaml",
        "resnorm.load_weights(resnorm.resnet(), open('w.safetensors', 'w').name)": ".safetensors need the package safetensors",
        "own.image_folder('.')": "folders of images need the package numpy",
    }
    code = f"""
import resnorm
from resnorm import claims, lab
from resnorm.data import own
for line in {list(tries)}:
    try:
        exec(line)
    except ImportError as error:
        print(type(error).__name__, error)
"""
    done = torch_alone("-c", code)
    assert len(done.stdout.splitlines()) == len(tries), done.stderr
    for line, purpose in zip(done.stdout.splitlines(), tries.values(), strict=True):
        assert line.startswith("MissingExtra ") and f"{purpose}, which is not installed: {repair}" in line
    done = torch_alone("-m", "resnorm", "plans")
    assert done.returncode == 2 and done.stderr.startswith("error: the commands of resnorm need the package typer")
    assert repair in done.stderr and len(done.stderr.splitlines()) == 1
