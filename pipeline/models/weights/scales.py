"""Finds weights that are quantised without a word in their configuration: they would be read without their scales."""

import re
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

# Names of what numbers of 8 and 4 bits are to be multiplied with -> what writes such names.
SCALES = {
    r"(\.|^)(scaled_fp8|scale_weight|scale_input|weight_scale(_inv)?|input_scale)$": "fp8 with scales",
    r"\.(SCB|weight\.(absmax|quant_map|nested_absmax|quant_state\..*))$": "bitsandbytes",
    r"\.weight\._(data|scale|shift)$": "quanto",
    r"\.(qweight|qzeros|scales)$": "GPTQ or AWQ",
}


def refuse_unstated_scales(files: Iterable[Path]) -> None:
    """files: .safetensors of a part that states no quantisation. Raises ValueError."""
    for file in files:
        try:
            with safe_open(file, "np") as opened:
                names = list(opened.keys())
        except (OSError, SafetensorError):
            continue  # a broken file is told where it is loaded
        for name in names:
            if kind := next((kind for pattern, kind in SCALES.items() if re.search(pattern, name)), None):
                raise ValueError(
                    f"{file} has {name[:100]!r}: its weights are quantised ({kind}), and their scales would be lost; take a "
                    "variant in float16 or bfloat16"
                )
