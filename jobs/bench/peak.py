"""Measures a call's peak memory in its own process: a script for python -c prints the growth after the imports."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The imports' own peak would hide smaller growth; Linux resets the peak on request.
MEASURED = """
import re
from pathlib import Path
{imports}
Path("/proc/self/clear_refs").write_text("5")
said = lambda name: int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = said("VmRSS")
try:
    {call}
except Exception as error:
    print(type(error).__name__, str(error)[:300].replace(chr(10), " "))
print(said("VmHWM") - before)
"""


def peak_of(imports: str, call: str, *arguments: object) -> tuple[float, str]:
    """(megabytes, what was raised). call: one expression; sys.argv[1:] are the arguments."""
    code = MEASURED.format(imports="import sys\n" + imports, call=call)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    *raised, grown = ended.stdout.splitlines()
    return float(grown), " ".join(raised)
