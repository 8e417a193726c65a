"""The table of families leads to classes that are there, and needs no torch itself."""

import subprocess
import sys
from importlib import import_module

import pytest

from pipeline.models.base import Backbone
from pipeline.models.families import FAMILIES


@pytest.mark.parametrize("pipeline", FAMILIES)
def test_a_familys_line_leads_to_its_class(pipeline: str) -> None:
    family = FAMILIES[pipeline]
    assert issubclass(getattr(import_module(family.module), family.backbone), Backbone)


def test_finding_a_model_imports_no_torch() -> None:
    code = (
        "import sys; from pipeline.models.find import find_model; find_model('mini'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
