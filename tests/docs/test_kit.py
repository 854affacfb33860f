"""What contributors and registries read: it parses, and says the same thing everywhere."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import unclip

ROOT = Path(__file__).parents[2]
YAML = [
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / ".pre-commit-config.yaml",
    ROOT / "CITATION.cff",
]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", YAML, ids=lambda file: file.name)
def test_yaml_parses(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize("file", [ROOT / "docs/zensical.toml", *ROOT.glob("recipes/*.toml")])
def test_toml_parses(file: Path) -> None:
    assert tomllib.loads(file.read_text(encoding="utf-8"))


def test_the_workflow_runs_what_is_run_here() -> None:
    jobs = parsed(".github/workflows/ci.yml")["jobs"]
    assert {"run": ".ci/run"} in jobs["checks"]["steps"]
    assert {"run": "make docs"} in jobs["docs"]["steps"]
    versions = jobs["checks"]["strategy"]["matrix"]["python"]
    assert len(versions) > 1
    named = {line.split(" :: ")[-1] for line in PROJECT["classifiers"] if " :: 3." in line}
    assert set(versions) == named, "the classifiers are the versions that are tested"
    assert PROJECT["requires-python"] == f">={min(versions)}"


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_issue_forms_have_what_github_asks_for(form: str) -> None:
    parts = parsed(f".github/ISSUE_TEMPLATE/{form}.yml")
    assert {"name", "description", "body"} <= set(parts)
    asked = [part for part in parts["body"] if part["type"] != "markdown"]
    assert all(part["id"] and part["attributes"]["label"] for part in asked)
    assert len({part["id"] for part in asked}) == len(asked)


def test_hooks_are_the_environments_own() -> None:
    """Versions stand in constraints.txt alone."""
    (repo,) = parsed(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert {hook["entry"].split()[0] for hook in repo["hooks"]} == {
        ".venv/bin/ruff",
        ".venv/bin/mypy",
        ".venv/bin/lint-imports",
    }


def test_one_version_licence_and_address() -> None:
    citation = parsed("CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == unclip.__version__
    assert citation["license"] == PROJECT["license"]
    assert {"message", "title", "authors"} <= set(citation)
    source = PROJECT["urls"]["Source"]
    assert citation["repository-code"] == source
    (paper,) = citation["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]


def test_the_changelog_begins_with_what_is_not_released() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert heads[0] == "Unreleased"
    assert unclip.__version__ in heads[1:]


def test_the_extra_of_the_site_is_pinned_alike() -> None:
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert set(PROJECT["optional-dependencies"]["docs"]) <= set(pinned)
