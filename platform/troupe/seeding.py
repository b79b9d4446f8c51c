"""Random streams keyed by what they are for, never by the process that draws from them."""

import numpy as np
import xxhash


def key(seed: int, *names: int | str) -> int:
    """A 64-bit key for (seed, names): the same everywhere, unrelated for different names."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return xxhash.xxh3_64_intdigest(text.encode())


def stream(seed: int, *names: int | str) -> np.random.Generator:
    """The random stream of (seed, names), such as `stream(seed, "actor", slot, incarnation)`."""
    return np.random.default_rng(key(seed, *names))
