"""Where runs go by default: manifests of other names go to other folders."""

import pytest

from cluster.destination import default_output


@pytest.mark.parametrize("scheme", ["s3", "gs", "memory", "file"])
@pytest.mark.parametrize(
    ("manifest", "output"),
    [
        ("b/shoes#1.csv", "b/shoes#1"), ("b/shoes#2.csv", "b/shoes#2"), ("b/set#1/a.csv", "b/set#1/a"),
        ("b/what?1.csv", "b/what?1"), ("b/w?x/a+b.csv", "b/w?x/a+b"), ("b/50%.csv", "b/50%"), ("b/a.b.parquet", "b/a.b"),
    ],
)  # fmt: skip
def test_special_signs_in_a_store_tell_folders_apart(scheme: str, manifest: str, output: str) -> None:
    """Catches the runs of two manifests in one folder, each undoing the other's tables."""
    assert default_output(f"{scheme}://{manifest}", {}) == f"{scheme}://{output}"
    stem = output.rsplit("/", 1)[1]
    assert default_output(f"{scheme}://{manifest}", {"WORDMINT_OUTPUT": "s3://out/"}) == f"s3://out/{stem}"


def test_a_web_address_goes_without_its_query() -> None:
    assert default_output("https://host/lists/a.csv?sig=x/y#z", {"WORDMINT_OUTPUT": "/runs"}) == "/runs/a"
    assert default_output("https://host/lists/a.csv?sig=x/y", {}) == "https://host/lists/a"


def test_special_signs_in_a_path_stay() -> None:
    assert [default_output(f"lists/shoes#{each}.csv", {}) for each in (1, 2)] == ["runs/shoes#1", "runs/shoes#2"]
