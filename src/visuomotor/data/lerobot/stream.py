"""The order of a shuffled stream: contiguous runs, so that videos are decoded in sequence."""

from collections.abc import Iterator

import numpy as np


def stream_blocks(
    rows: np.ndarray, episodes: np.ndarray, rng: np.random.Generator, *, chunk: int, buffer: int
) -> Iterator[np.ndarray]:
    """Partition the ascending rows into shuffled blocks of about `buffer` rows, made of shuffled runs of `chunk` rows.

    Runs end with their episode (`episodes`: each row's). The order depends on the arguments and `rng` only.
    """
    if chunk < 1 or buffer < chunk:
        raise ValueError(f"A stream needs 1 <= chunk <= buffer, not chunk {chunk} and buffer {buffer}.")
    if not len(rows):
        return
    ends = np.flatnonzero(np.diff(episodes)) + 1
    runs = [run for part in np.split(rows, ends) for run in np.split(part, range(chunk, len(part), chunk))]
    order = rng.permutation(len(runs))
    seeds = rng.integers(2**63, size=len(runs))
    block: list[np.ndarray] = []
    for number, index in enumerate(order):
        block.append(runs[index])
        if sum(map(len, block)) >= buffer or number == len(order) - 1:
            yield np.random.default_rng(seeds[number]).permutation(np.concatenate(block))
            block = []
