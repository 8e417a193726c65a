"""What is done when the device's memory is full."""

import gc

import torch


def give_memory_back() -> None:
    """After an out-of-memory error: frees what its frames held and what the allocator keeps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
