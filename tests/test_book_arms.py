"""A new arm is one line of a plan: the chapters that read its study build, and say what is missing."""

import shutil
from pathlib import Path

import nbformat
import pytest

from book import chapters
from book.chapters import Project

ROOT = Path(__file__).resolve().parent.parent
# One line each: an arm that nobody has run.
ARMS = {
    "placements": 'ARMS["Newcomer"] = dict(variant="layerscale", lr=2e-2)',
    "conv_orders": 'ARMS["Newcomer"] = dict(variant="resnet_v2", norm="group")',
    "shortcuts": 'ARMS["Newcomer"] = dict(variant="residual", norm="group")',
}


@pytest.mark.parametrize("chapter", ["placement_zoo", "orders", "stream_growth"])
def test_an_arm_without_runs_stops_no_chapter(chapter, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "studies", tmp_path / "studies")
    for study, line in ARMS.items():
        plan = tmp_path / f"studies/{study}/plan.py"
        before, definition, after = plan.read_text().partition("\n\n\ndef ")
        plan.write_text(f"{before}\n{line}{definition}{after}")
    monkeypatch.setenv("RESNORM_STUDIES", str(tmp_path / "studies"))
    folder = chapters.execute_all(Project(ROOT, tmp_path / "build"), [chapter], "smoke", False, 1, strict=True)[chapter]
    page = "\n".join(str(cell.get("outputs")) for cell in nbformat.read(folder / "notebook.ipynb", 4).cells)
    study = "conv_orders" if chapter == "orders" else "placements"
    assert f"3 runs are missing: `python -m resnorm fill {study} --preset cpu --arm 'Newcomer'`" in page.replace("\\'", "'")
