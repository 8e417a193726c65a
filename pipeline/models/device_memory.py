"""What is said and done when the device's memory is full."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Of cuBLAS and cuDNN, the driver, and torch's allocator of the CPU's memory.
FULL = ("ALLOC_FAILED", "out of memory", "can't allocate memory")


@contextmanager
def full_memory() -> Iterator[None]:
    """Raises torch.OutOfMemoryError for every error that says so: torch's own allocator is not the only one on a GPU."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or not any(said in str(error) for said in FULL):
            raise
        raise torch.OutOfMemoryError(str(error)) from error


def give_memory_back() -> None:
    """After an out-of-memory error: frees what its frames held and what the allocator keeps."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
