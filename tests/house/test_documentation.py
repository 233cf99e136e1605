"""The documentation says what the code does: errors, public names, files that it names; and no page is lost."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from neurodial import control
from tests.documentation.errors_table import START, errors_table
from tests.house.test_tree import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAMED_FILE = re.compile(r"`((?:control|interpret|service|deploy|tests|docs)/[\w./-]+)`")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))


def test_the_errors_are_those_of_the_code() -> None:
    assert f"{START}\n{errors_table()}\n" in (DOCS / "reference/errors.md").read_text(encoding="utf-8")


def documented_names() -> list[str]:
    return re.findall(r"^::: (\S+)$", (DOCS / "reference/python-api.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_public_name_is_documented_once() -> None:
    names = [name.removeprefix("neurodial.control.") for name in documented_names() if ".control." in name]
    assert sorted(names) == sorted(control.__all__)


@pytest.mark.parametrize("name", documented_names())
def test_a_documented_name_exists(name: str) -> None:
    module, _, last = name.rpartition(".")
    assert (getattr(import_module(module), last).__doc__ or "").strip()


@each_page
def test_files_that_a_page_names_exist(page: Path) -> None:
    named = {name.rstrip(".") for name in NAMED_FILE.findall(page.read_text(encoding="utf-8"))}
    made = {"docs/" + name for name in ("index.html",)}
    assert sorted(name for name in named - made if not (ROOT / name).exists()) == []


@each_page
def test_anchors_of_links_are_headings(page: Path) -> None:
    dead = []
    for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", page.read_text(encoding="utf-8")):
        there = page if not target else page.parent / target
        if there.suffix == ".md" and anchor not in anchors(there.read_text(encoding="utf-8")):
            dead.append(f"{target}#{anchor}")
    assert dead == []


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Git hosts and the site make them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_the_site_has_every_page() -> None:
    class Loader(yaml.SafeLoader):
        """Reads the site's settings without the packages that they name."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / ".mkdocs.yml").read_text(encoding="utf-8"), Loader)
    listed = re.findall(r"[\w/-]+\.md", str(site["nav"]))
    assert sorted(listed) == [str(page.relative_to(DOCS)) for page in PAGES]
