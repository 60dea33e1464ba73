"""The shape of the project: who may import whom, what is public, what is pinned."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import resnorm
from book.pages import MODULES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "resnorm").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))


def top(path: Path) -> str:
    return path.relative_to(ROOT / "resnorm").with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("resnorm.")}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full, from resnorm..."
            if node.module == "resnorm":
                found |= {alias.name for alias in node.names}
            elif (node.module or "").startswith("resnorm."):
                found.add(node.module.split(".")[1])
    return found


def test_every_module_has_its_place():
    assert {top(path) for path in SOURCES} - {"__init__", "__main__"} == set(MODULES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_go_upward(path):
    if top(path) in ("__init__", "__main__"):
        return
    order = MODULES.index(top(path))
    below = {name for name in imported(path) & set(MODULES) if MODULES.index(name) > order}
    assert not below, f"{top(path)} stands before {below} in book/pages.py and may not import it"


def test_public_names_exist():
    for name in resnorm.__all__:
        assert getattr(resnorm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Blok'.*Block"):
        getattr(resnorm, "Blok")  # noqa: B009


def test_import_is_light():
    code = "import resnorm, sys; print(sorted({'torch', 'pandas', 'matplotlib', 'torchvision'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_colab_keeps_its_torch():
    """The package states lower bounds only, and the pinned versions satisfy them."""
    for requirement in PYPROJECT["project"]["dependencies"]:
        name, bound = re.fullmatch(r"([\w-]+)>=([\d.]+)", requirement).groups()
        numbers = [[int(part) for part in version.split(".")] for version in (bound, PINS[name])]
        assert numbers[0] <= numbers[1], requirement


def test_everything_is_pinned():
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert len({line.split("==")[0] for line in lines}) == len(lines)


def test_one_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == resnorm.__version__


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_pinned_and_call_make_only(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert (
                re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"])
                if "uses" in step
                else step["run"].startswith("make ")
            )


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if line.startswith("make")]
    assert commands == ["make book", "make test"] and all(
        re.search(rf"^{command} ", readme, re.MULTILINE) for command in commands
    )
