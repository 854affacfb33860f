"""Every link and anchor of the documents leads somewhere, on GitHub and on the site."""

import re
from functools import cache
from pathlib import Path

import pytest

from unclip.storage.folder import bundled

ROOT = Path(__file__).parents[2]
FOLDERS = (ROOT, ROOT / "docs", ROOT / "docs/reference", ROOT / "examples", ROOT / ".github")
DOCUMENTS = [file for folder in FOLDERS for file in sorted(folder.glob("*.md"))]
if (card := ROOT / "src/unclip/assets/model/README.md").is_file():
    DOCUMENTS.append(card)


def prose(file: Path) -> str:
    """The text without code, in which brackets mean other things."""
    text = re.sub(r"^```.*?^```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()#]", "", code[0]), text)


@cache
def anchors(file: Path) -> set[str]:
    """Those of a document's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for head in re.findall(r"^#{1,6} (.+?)\s*$", prose(file), re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# A `b`: [c d](x.md), é\n## Twice\n## Twice\n```\n# no heading\n```\n")
    assert anchors(file) == {"a-b-c-d-é", "twice", "twice-1"}


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links(file: Path) -> None:
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(file)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (file.parent / name).resolve() if name else file
        there = linked.exists() and linked.is_relative_to(ROOT)
        if there and anchor and linked.suffix == ".md":
            there = anchor in anchors(linked)
        if not there:
            dead.append(target)
    if not bundled("model").is_dir():  # while another model is trained, its card and pictures go
        dead = [one for one in dead if not re.search(r"assets/model/|images/", one)]
    assert dead == []


def test_every_document_is_on_the_site() -> None:
    """In the navigation of docs/zensical.toml: what is not there cannot be found."""
    named = re.findall(r'= "([^"]+\.md)"', (ROOT / "docs/zensical.toml").read_text())
    shown = {ROOT / name for name in named}
    assert len(named) == len(shown)
    assert set(DOCUMENTS) - shown == {ROOT / ".github/pull_request_template.md"}
    assert all(file in DOCUMENTS for file in shown) or not card.is_file()
