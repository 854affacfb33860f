"""Memory: what a process has had, and what sampling on a CPU frees and takes again, kept instead of
given back."""

import contextlib
import ctypes
import functools
import platform
import sys
from collections.abc import Callable, Iterator

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = 2**31 - 1
_USUAL_MMAP, _USUAL_TRIM = 32 * 2**20, 64 * 2**20  # where glibc's own adaptation ends


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """A block in which the C library keeps freed memory, and after which it gives it back.

    glibc maps every tensor above 32 MiB anew, and the kernel clears it page by page: an activation
    of the published upsampler takes up to five times as long to write that way. On GPUs, where
    torch keeps memory itself, and with other C libraries nothing is done. Of the main thread only:
    glibc maps what others allocate from 64 MiB on.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    mallopt: Callable[[int, int], int] = library.mallopt
    mallopt(_MMAP_THRESHOLD, _NEVER)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _USUAL_MMAP)
        mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        give_back()


def give_back() -> None:
    """Have the C library give back what is free."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: of the GPU, or of main memory; 0 where the system
    does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    known = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
    return ctypes.CDLL(None) if known else None
