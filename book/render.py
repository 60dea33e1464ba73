"""From sources and executed notebooks to the site: staging, Jupyter Book, MathJax, checks of the HTML."""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import yaml

from book.chapters import BADGE, COLOUR, BuildError, Project, alt_text

MATHJAX = "tex-svg-full.js"
# The same file as in the package mathjax 3.2.2 on npm.
MATHJAX_SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"
# How Colab marks a folded cell: its title, which becomes the title of the folded cell on the page.
TITLE = "# @title "
PAGES = (
    "gallery",
    "claims",
    "bibliography",
    "how_to_run",
    "symbols",
    "how_this_book_decides",
    "load_weights",
    "convert_norm",
    "fast_training",
    "index",
)


def stage(project: Project, folders: dict[str, Path]) -> Path:
    """Copy everything that Jupyter Book reads into one folder, executed notebooks in place of the stored ones."""
    source = project.build / "source"
    shutil.rmtree(source, ignore_errors=True)
    (source / "notebooks").mkdir(parents=True)
    for path in [*(project.root / "book").glob("*.md"), project.root / "book/references.bib", project.root / "_toc.yml"]:
        shutil.copy(path, source)
    shutil.copytree(project.root / "book/_static", source / "_static")
    config = project.config
    config["repository"]["url"] = f"https://github.com/{project.repository}"
    (source / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    links = bibliography_links(project)
    for chapter in project.chapters:
        executed = folders[chapter] / "notebook.ipynb" if chapter in folders else project.notebook(chapter)
        notebook = for_the_page(nbformat.read(executed, 4), links)
        nbformat.write(notebook, source / "notebooks" / f"{chapter}.ipynb")
    for page in source.glob("*.md"):
        page.write_text(page.read_text(encoding="utf-8").replace("OWNER/NAME", project.repository), encoding="utf-8")
    return source


def bibliography_links(project: Project) -> dict[str, str]:
    """The key of each source, by the address that notebooks link to."""
    text = (project.root / "book/references.bib").read_text(encoding="utf-8")
    return {url: key for key, url in re.findall(r"^@\w+\{(\w+),.*?^\s*url = \{(.*?)\}", text, re.MULTILINE | re.DOTALL)}


def for_the_page(notebook: nbformat.NotebookNode, links: dict[str, str]) -> nbformat.NotebookNode:
    """Adapt an executed notebook: no badge (the page has a button), local links, each figure's alt text in its cell."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(rf"\]\(\.\./book/({'|'.join(PAGES)})\.md", r"](../\1.md", BADGE.sub("", cell.source))
            for url, key in links.items():
                cell.source = re.sub(
                    rf"\[([^\[\]]+)\]\({re.escape(url)}\)", rf'<a href="../bibliography.html#{key}">\1</a>', cell.source
                )
        elif cell.source.startswith(TITLE):
            title, _, cell.source = cell.source.removeprefix(TITLE).partition("\n")
            cell.metadata.setdefault("mystnb", {}).update(code_prompt_show=title, code_prompt_hide=title)
        for output in cell.get("outputs", []):
            if alt := alt_text(output):
                cell.metadata.setdefault("mystnb", {})["image"] = {"alt": alt}
    return notebook


def render(project: Project, source: Path) -> Path:
    """Run Jupyter Book with every warning an error, vendor MathJax, check the pages; return the site's folder."""
    site = project.build / "site"
    shutil.rmtree(site, ignore_errors=True)
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        source,
        "--path-output",
        site,
        "-W",
        "-n",
        "--keep-going",
        "-q",
    ]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    html = site / "_build/html"
    if done.returncode or not (html / "index.html").exists():
        raise BuildError(f"Jupyter Book failed:\n{_relevant(done.stdout)}")
    vendor_mathjax(html)
    if problems := check_site(html):
        raise BuildError("the pages are not in order:\n  " + "\n  ".join(problems))
    final = project.build / "html"
    shutil.rmtree(final, ignore_errors=True)
    html.rename(final)
    return final


def _relevant(log: str) -> str:
    log = COLOUR.sub("", log)
    lines = [line for line in log.splitlines() if re.search(r"WARNING|ERROR|Error|Exception", line)]
    return "\n".join(lines) or log[-3000:]


def vendor_mathjax(html: Path) -> None:
    """Copy MathJax, one file that draws with its own glyphs, next to the pages: they read without a network."""
    files = importlib.metadata.files("sphinx-mathjax-offline") or []
    found = next((Path(file.locate()) for file in files if file.name == MATHJAX), None)
    if found is None or hashlib.sha256(found.read_bytes()).hexdigest() != MATHJAX_SHA256:
        raise BuildError(f"{MATHJAX} of sphinx-mathjax-offline is missing or not MathJax 3.2.2; install requirements.txt again")
    (html / "_static/mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copy(found, html / "_static/mathjax" / MATHJAX)


# -------------------------------------------------------------------------------- checks of the site


class _Page(HTMLParser):
    """What a page loads, links to and can be linked at, and the heads of tables that were not rendered."""

    LOADS = {
        "script": "src",
        "img": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "audio": "src",
        "embed": "src",
        "object": "data",
    }

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads, self.links, self.anchors, self.images = [], [], set(), []
        # The typography of a page has made dashes of the line under a table's head.
        self.raw_tables = re.findall(r"<p>(\|[^\n]*)\n\|[-–—:| ]+\|", text)
        self.feed(text)

    def handle_starttag(self, tag, pairs):
        attributes = dict(pairs)
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if address := attributes.get(self.LOADS.get(tag, "")):
            self.loads.append(address)
        if (
            tag == "link"
            and attributes.get("href")
            and attributes.get("rel") not in ("canonical", "next", "prev", "index", "search")
        ):
            self.loads.append(attributes["href"])
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if re.search(r"url\(['\"]?https?:", attributes.get("style") or ""):
            self.loads.append(attributes["style"])


def check_site(html: Path) -> list[str]:
    """List what is wrong: anything loaded from elsewhere, a broken internal link, a figure without alt text, a raw table."""
    paths = sorted(html.rglob("*.html"))
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in paths if "_static" not in path.relative_to(html).parts}
    problems = []
    for path, page in pages.items():
        name = path.relative_to(html)
        problems += [
            f"{name} loads {one} from the network" for one in page.loads if re.match(r"(https?:)?//", one) or "url(" in one
        ]
        problems += [f"{name} shows {image.get('src')} without alt text" for image in page.images if _nameless(image)]
        problems += [f"{name} shows the text of a table that was not rendered: {head}" for head in page.raw_tables]
        for link in {*page.links, *page.loads}:
            split = urlsplit(link)
            if split.scheme or split.netloc or link.startswith("data:"):
                continue
            target = (path.parent / unquote(split.path)).resolve() if split.path else path
            if not target.exists():
                problems.append(f"{name} links to {link}, which does not exist")
            elif split.fragment and target in pages and unquote(split.fragment) not in pages[target].anchors | {"top"}:
                problems.append(f"{name} links to {link}, and that page has no such place")
    for path in html.rglob("*.css"):
        remote = re.findall(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^)\"'\s]+", path.read_text(encoding="utf-8"))
        problems += [f"{path.relative_to(html)} loads {one} from the network" for one in remote]
    return sorted(set(problems))


def _nameless(image: dict) -> bool:
    """Whether a picture has no alt text, or only the hash that stands in for one."""
    alt = image.get("alt")
    return not alt or bool(re.search(r"[0-9a-f]{32}", alt))
