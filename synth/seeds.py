"""Seeds that follow from another seed, for a new try or another candidate. Free of torch."""

import hashlib

_LIMIT = 2**31  # what every place that takes a seed accepts


def derived_seed(seed: int, *address: int) -> int:
    """A seed in [0, 2**31) for what `address` numbers; the same for the same numbers, always.

    Zeros at the end of an address count for nothing; an empty one is the seed itself.
    """
    while address and not address[-1]:
        address = address[:-1]
    if not address:
        return seed
    words = ",".join(map(str, (seed, *address)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) % _LIMIT
