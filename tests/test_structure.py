"""The shape of the project: who may import whom, what is public, what is pinned."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import resnorm
from book.pages import MODULES

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "resnorm").rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def pins(name: str) -> list[tuple[Requirement, str]]:
    """The requirements of a file, each with the one version that it allows."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return [(requirement, re.fullmatch(r"==([\w.]+)", str(requirement.specifier))[1]) for requirement in found]


def bounds(*extras: str) -> list[Requirement]:
    """What the package and these of its extras require, without our own extras among them."""
    lines = [*PYPROJECT["project"]["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return [requirement for requirement in map(Requirement, lines) if requirement.name != "resnorm"]


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


def test_the_core_needs_torch_alone():
    assert [requirement.name for requirement in bounds()] == ["torch"]
    for extra in ("translation", "book", "bench"):
        assert "resnorm[lab]" in EXTRAS[extra]
    assert "resnorm[book,translation]" in EXTRAS["test"]


def test_colab_keeps_its_torch():
    """What a notebook installs has lower bounds only, and Colab's list, the lowest versions and the pins satisfy them."""
    for requirement in bounds("lab", "translation"):
        assert re.fullmatch(r">=[\d.]+", str(requirement.specifier)), requirement
    for name in ("requirements.txt", "requirements/colab.txt", "requirements/floor.txt"):
        versions = {(pinned.name.lower(), version) for pinned, version in pins(name)}
        refused = [
            (bound, version)
            for bound in bounds(*EXTRAS)
            for pinned, version in versions
            if pinned == bound.name.lower() and not bound.specifier.contains(version)
        ]
        assert not refused, f"{name}: {refused}"


def test_everything_is_pinned():
    names = [requirement.name.lower() for requirement, _ in pins("requirements.txt")]
    assert len(set(names)) == len(names)
    assert {requirement.name.lower() for requirement in bounds("lab", "translation", "book", "test")} <= set(names)


def test_the_floor_is_what_pyproject_allows():
    """Every lower bound is what the floor installs on the oldest Python; a later one may have no wheel of it."""
    oldest = {"python_version": "3.11"}
    floor = {
        pinned.name: version
        for pinned, version in pins("requirements/floor.txt")
        if pinned.marker is None or pinned.marker.evaluate(oldest)
    }
    for bound in bounds("lab", "translation"):
        assert Version(floor[bound.name]) == Version(str(bound.specifier).removeprefix(">=")), bound


def test_the_newest_are_all_of_them_without_pins():
    lines = (ROOT / "requirements/newest.txt").read_text(encoding="utf-8").splitlines()
    names = {line for line in lines if not line.startswith("#")}
    tools = {requirement.name for requirement in map(Requirement, EXTRAS["test"])} - {"resnorm"}
    assert names == {requirement.name for requirement in bounds("lab", "translation")} | tools | {"hatchling"}


def test_colabs_list_says_its_date():
    head = (ROOT / "requirements/colab.txt").read_text(encoding="utf-8").partition("\n\n")[0]
    assert re.search(r"20\d\d-\d\d-\d\d", head) and "backend-info" in head


def test_type_checkers_see_every_public_name():
    """To a type checker a lazy attribute is Any; the stub beside it imports each name from the module that has it."""
    stub = (ROOT / "resnorm/__init__.pyi").read_text(encoding="utf-8")
    expected = [f"from resnorm.{module} import {name} as {name}" for module, names in resnorm.PUBLIC.items() for name in names]
    assert sorted(line for line in stub.splitlines() if line.startswith("from ")) == sorted(expected), (
        "write these lines into resnorm/__init__.pyi"
    )


def test_what_has_no_types_yet_exists():
    """The list of modules that mypy leaves out shrinks with them, and new names of old modules do not slip in."""
    (left_out,) = PYPROJECT["tool"]["mypy"]["overrides"]
    modules = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for path in SOURCES}
    gone = [name for name in left_out["module"] if not any(re.fullmatch(name.replace(".*", r"(\..+)?"), one) for one in modules)]
    assert not gone, f"pyproject.toml: take these out of [[tool.mypy.overrides]]: {gone}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", ".github/pull_request_template.md"])
def test_the_pages_beside_the_book_name_what_exists(page):
    """Links to files and to headings, and the files and make targets that are named as code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link.startswith("#") and link[1:] not in headings] == []
    files = [link for link in links if not link.startswith("#")] + re.findall(
        r"`((?:resnorm|tests|book|benchmarks|notebooks|results)/[\w/.]*)`", text
    )
    assert [file for file in files if not (ROOT / file).exists()] == []
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [
        word
        for call in re.findall(r"\bmake ((?:[a-z]+\b ?)+)", "\n".join(re.findall(r"`[^`]*`|```.*?```", text, re.DOTALL)))
        for word in call.split()
    ]
    assert set(named) <= set(targets)


def test_one_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == resnorm.__version__


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.name)
def test_workflows_are_pinned_and_call_make_only(path):
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]) if "uses" in step else step["run"].startswith("make ")


def test_ci_runs_the_commands_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [line for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines() if line.startswith("make")]
    assert commands == ["make book", "make lint", "make test"] and all(
        re.search(rf"^{command} ", readme, re.MULTILINE) for command in commands
    )
