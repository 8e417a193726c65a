"""CITATION.cff says what the package and the README say."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version_this_licence_and_the_readmes_paper() -> None:
    """Catches a release that is cited by the version before it."""
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found["cff-version"] == "1.2.0"
    assert (str(found["version"]), found["license"]) == (project["version"], project["license"])
    assert found["authors"] == project["authors"]
    (paper,) = found["references"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(re.escape(paper["title"]), readme)
    assert all(f"{each['family-names']}, {each['given-names'].split()[0]}" in readme for each in paper["authors"])
    assert paper["journal"] in readme
