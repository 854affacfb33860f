"""`make docs`: the documents as a site that needs no network, in out/docs/site.

    .venv/bin/python docs/build.py
    .venv/bin/python -m http.server -d out/docs/site    # the search needs a server, pages do not

The documents and what they link to are copied with the repository's tree, so that their links lead
to the same things on GitHub and on the site. A warning (a link or an anchor that leads nowhere)
ends the build, and so does a page that would fetch something from another host.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "out" / "docs"
SITE = BUILD / "site"
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
# What a browser fetches by itself. A link that is only followed when clicked may lead anywhere.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?![^>]*\brel=["']?(?:canonical|prev|next))[^>]*?\bhref=["']?(?:https?:)?//"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//|\burl\(["']?(?:https?:)?//"""
)


def documents() -> list[Path]:
    """The Markdown files of the site."""
    folders = (ROOT, ROOT / "docs", ROOT / "docs" / "reference", ROOT / "examples")
    found = [file for folder in folders for file in sorted(folder.glob("*.md"))]
    return [*found, ROOT / "src" / "unclip" / "assets" / "model" / "README.md"]


def copy_documents() -> None:
    """The documents, and the files that they link to, under BUILD/source."""
    shutil.rmtree(BUILD, ignore_errors=True)
    files = documents()
    for file in list(files):
        for target in LINK.findall(file.read_text(encoding="utf-8")):
            linked = (file.parent / target).resolve()
            if linked.is_file() and linked.is_relative_to(ROOT):
                files.append(linked)
    for file in dict.fromkeys(files):
        copy = BUILD / "source" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    shutil.copyfile(ROOT / "docs" / "zensical.toml", BUILD / "zensical.toml")


def fetched() -> list[str]:
    """Pages and style sheets of the site that would reach for another host."""
    files = [file for kind in ("*.html", "*.css") for file in SITE.rglob(kind)]
    return [
        f"{file.relative_to(SITE)}: {match[0][:100]}"
        for file in sorted(files)
        for match in FETCHED.finditer(file.read_text(encoding="utf-8"))
    ]


def main() -> int:
    """Build the site; 0 if nothing is wrong with it."""
    copy_documents()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    if code := subprocess.run([*command, "-f", str(BUILD / "zensical.toml")]).returncode:
        return code
    if wrong := fetched():
        print("these would be fetched from another host:", *wrong, sep="\n", file=sys.stderr)
        return 1
    print(f"{len(list(SITE.rglob('*.html')))} pages: {SITE / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
