"""Keeping large buffers from going back to the kernel after each use."""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
_KEPT = 64 << 20


def keep_large_buffers() -> None:
    """Let glibc reuse the megabyte buffers of messages; without effect under another C library.

    By default each one is mapped and unmapped again, and its pages are cleared and faulted in one
    by one: more than half of the time a message takes on one machine.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
