"""Cost of making batches of 64 from frames at hand: text, normalisation, collation, without decoding.

    OMP_NUM_THREADS=1 python benchmarks/batches.py

CPU milliseconds per batch (median of 40) for robot samples, grounding samples and a mixture of both; the last line is
JSON. The data is synthetic: 60 episodes, two 96 px cameras, annotations as a simulator writes them.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.data.fakes import CORPUS, FakeDataset
from visuomotor.contract import Mixture, Source
from visuomotor.data.loader import Loader
from visuomotor.data.processor import Processor, ProcessorConfig

SIZE, BATCH, REPEATS = 96, 64, 40


def milliseconds(loader: Loader) -> float:
    """Median CPU time of a batch, after ten to fill the caches."""
    times = []
    for _ in range(10 + REPEATS):
        start = time.thread_time()
        next(loader)
        times.append(1000 * (time.thread_time() - start))
    return float(np.median(times[10:]))


def main() -> None:
    dataset = FakeDataset(60, size=SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, (dataset.num_frames, SIZE, SIZE, 3), dtype=np.uint8)
    dataset.frames = lambda camera, rows: pixels[rows]  # type: ignore[method-assign]
    processor = Processor.build(ProcessorConfig(horizon=16), [dataset], CORPUS)
    robot, grounding = Source(name="robot"), Source(name="grounding", options={"objective": "grounding"})
    result: dict[str, float | str | int] = {"benchmark": "batches", "batch": BATCH, "horizon": 16, "unit": "ms"}
    for name, sources in (("robot", (robot,)), ("grounding", (grounding,)), ("mixed", (robot, grounding))):
        datasets = {"robot": dataset, "grounding": dataset}
        loader = Loader(
            Mixture(sources=sources), processor, batch_size=BATCH, seed=0, datasets=datasets, workers=0, cache=None
        )
        result[name] = round(milliseconds(loader), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
