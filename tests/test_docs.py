"""Pages include only what is there, and every method has one."""

import re
from pathlib import Path

import pytest

import glasshouse.attribute
import glasshouse.dissect
import glasshouse.visualize  # noqa: F401 - fills the registry
from glasshouse.core import list_methods

REPO = Path(__file__).parents[1]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
METHODS = [name for folder in ("attribute", "visualize", "dissect") for name in list_methods(f"{folder}.*")]
NAMES = [page.relative_to(REPO).as_posix() for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_what_a_page_includes_is_there(page: Path):
    text = page.read_text()
    included = re.findall(r'--8<-- "([^":]+)(?::([^"]+))?"', text)
    assert len(included) == len(re.findall(r"--8", text)), "an include is misspelt"
    for name, section in included:
        source = (REPO / name).read_text()
        assert not section or f"[start:{section}]" in source, f"{name} has no section {section}"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_pictures_and_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize(
    "method", [*list_methods("attribute.*"), *list_methods("visualize.*"), *list_methods("dissect.*")]
)
def test_every_method_has_a_page_in_the_contents_and_an_example(method: str):
    place = method.replace(".", "/")
    assert f"- {place}.md" in (REPO / "mkdocs.yml").read_text()
    assert f"::: glasshouse.{method.partition('.')[0]}." in (REPO / "docs" / f"{place}.md").read_text()
    assert (REPO / "examples" / f"{place}.py").exists()
