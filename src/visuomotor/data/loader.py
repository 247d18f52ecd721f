"""Loader: an endless, resumable stream of batches from a mixture of data sets.

The k-th batch depends only on (seed, k): which thread makes it, and what was drawn before, do not matter. So the
whole state is k, and a resumed run sees the batches that an uninterrupted one would have seen.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from visuomotor.contract import Batch, Mixture, Source
from visuomotor.data.conversations import Conversations
from visuomotor.data.dialogue import conversation_sample, conversation_views
from visuomotor.data.images import fit
from visuomotor.data.phases import NEEDS
from visuomotor.data.prepared import Prepared
from visuomotor.data.processor import Objective, Processor
from visuomotor.data.sample import Sample
from visuomotor.data.statistics import describe, is_scenes
from visuomotor.text.scaffold import LEVEL_NEEDS
from visuomotor.text.scene_questions import check_kinds

__all__ = ["Loader", "held_out"]

log = logging.getLogger(__name__)
Split = Literal["train", "validation"]
AHEAD = 4  # batches prefetched per worker
MAX_REDRAWS = 100
WARNINGS = 3  # bad samples that are logged
CACHE_BYTES = 2 << 30
CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visuomotor" / "frames"
BAD_SAMPLE = (ValueError, OSError, EOFError, IndexError, KeyError)


def held_out(num_episodes: int, share: float) -> np.ndarray:
    """bool[num_episodes]: validation episodes, chosen by a hash of the episode's index.

    Appending episodes never moves an old one across, except that a set of two or more episodes holds out at least
    one (that of the lowest hash) and keeps at least one.
    """
    index = np.arange(num_episodes, dtype=np.uint64)
    with np.errstate(over="ignore"):  # splitmix64
        z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    fraction = ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / float(1 << 53)
    chosen = fraction < share
    if share > 0 and num_episodes > 1:
        chosen[np.argmin(fraction)] = True
        chosen[np.argmax(fraction)] = False
    return chosen


@dataclass(frozen=True)
class _Stream:
    """One source, or its conversations on equally many images, ready to draw from."""

    index: int
    source: Source
    weight: float
    dataset: Any
    objective: Objective
    views: tuple[bool, ...]
    rows: np.ndarray
    prepared: Prepared | Conversations  # names places
    embodiment: int = 0
    cameras: tuple[str, ...] = ()
    annotated: bool = False  # its text needs annotations
    images: Any = None  # the data set, or its copy that reads decoded frames


class Loader(Iterator[Batch]):
    """Batches of `batch_size` samples; each row draws its source by weight, then a frame uniformly.

    Sources of other views or another objective never share a batch: the group is drawn first, by its total weight.

    Args:
        datasets: {source name: data set}, one for each source of the mixture.
        workers: prefetch threads; 0 makes each batch when it is asked for.
        split: "train" or "validation" (episodes held out by `held_out`, share `mixture.validation`); a source with
            a single episode has no validation episodes and is left out there.
        bad_samples: "stop" raises ValueError naming source, row and cause; "quarantine" counts the sample in
            `bad_count`, appends it to the JSON-lines file `quarantine`, and draws another row deterministically.
        cache: folder for decoded frames, used for data sets of at most 2 GiB decoded; None decodes as it draws.

    `Source.options["objective"]` is "robot" (default), "grounding", "boxes", "questions" (with "kinds", {kind: weight})
    or "conversation" (whose data set is a `Conversations`).
    `wait_seconds` adds up the time that the caller waited for data.
    """

    def __init__(
        self,
        mixture: Mixture,
        processor: Processor,
        *,
        batch_size: int,
        seed: int,
        datasets: Mapping[str, Any],
        workers: int = 1,
        split: Split = "train",
        bad_samples: Literal["stop", "quarantine"] = "stop",
        quarantine: Path | None = None,
        cache: Path | None = CACHE_FOLDER,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        self.processor, self.batch_size, self.seed, self.workers = processor, batch_size, seed, workers
        self.bad_samples, self.quarantine = bad_samples, quarantine
        self.wait_seconds, self.bad_count = 0.0, 0
        self._reported: set[tuple[int, int]] = set()
        self._report_lock = threading.Lock()
        opened = [
            _open(i, source, mixture, processor, datasets, split, cache) for i, source in enumerate(mixture.sources)
        ]
        streams = [s for parts in opened for s in parts if len(s.rows)]
        filled = {s.index for s in streams}
        if not streams or (split == "train" and len(filled) < len(opened)):
            sizes = {s.name: datasets[s.name].num_episodes for s in mixture.sources}
            raise ValueError(
                f"The mixture has a source without {split} episodes: episodes {sizes}, validation share "
                f"{mixture.validation}. Add episodes or change the share."
            )
        self._groups = _groups(streams)
        self._next = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers else None
        self._ahead: deque[Future[Batch]] = deque()

    def __next__(self) -> Batch:
        started = time.perf_counter()
        if self._pool is None:
            batch = self.batch(self._next)
        else:
            while len(self._ahead) < AHEAD * self.workers:
                self._ahead.append(self._pool.submit(self.batch, self._next + len(self._ahead)))
            try:
                batch = self._ahead[0].result()
            except BaseException:
                self._drop_ahead()
                raise
            self._ahead.popleft()
            self._ahead.append(self._pool.submit(self.batch, self._next + 1 + len(self._ahead)))
        self._next += 1
        self.wait_seconds += time.perf_counter() - started
        return batch

    def batch(self, k: int) -> Batch:
        """The k-th batch."""
        rng = np.random.default_rng((self.seed, k))
        streams, weights = self._groups[self._choose_group(rng)]
        chosen = rng.choice(len(streams), size=self.batch_size, p=weights)
        draws = rng.random(self.batch_size)
        rows = [int(draws[i] * len(streams[s].rows)) for i, s in enumerate(chosen)]
        picks = [(streams[s], int(streams[s].rows[r])) for s, r in zip(chosen, rows, strict=True)]
        images = self._images(picks)
        samples = []
        for i, (stream, row) in enumerate(picks):
            samples.append(self._sample(stream, row, images[i], rng, (self.seed, k, i)))
        return self.processor.collate(samples)

    def state_dict(self) -> dict[str, int]:
        """What resume needs: the number of batches handed out (and what they depend on)."""
        return {"batch": self._next, "seed": self.seed, "batch_size": self.batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the batches that `state` counts; ValueError when seed or batch size differ."""
        for name in ("seed", "batch_size"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"The saved loader has {name} {state[name]} but this one {getattr(self, name)}, so its batches "
                    f"would differ; resume with the same value or start a new run."
                )
        self._drop_ahead()
        self._next = state["batch"]

    def close(self) -> None:
        """Stop the prefetch threads."""
        self._drop_ahead()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _drop_ahead(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()

    def _choose_group(self, rng: np.random.Generator) -> int:
        if len(self._groups) == 1:
            return 0
        totals = np.array([sum(s.weight for s in streams) for streams, _ in self._groups])
        return int(rng.choice(len(totals), p=totals / totals.sum()))

    def _images(self, picks: list[tuple[_Stream, int]]) -> list[dict[str, np.ndarray] | None]:
        """Per pick {camera: image}, read in one call per source and camera; None where that call failed."""
        images: list[dict[str, np.ndarray] | None] = [None] * len(picks)
        for stream in {id(s): s for s, _ in picks if s.cameras}.values():
            slots = [i for i, (s, _) in enumerate(picks) if s is stream]
            rows = np.array([picks[i][1] for i in slots])
            try:
                read = _read(stream, rows, self.processor.config.image_size)
                if stream.annotated and isinstance(stream.prepared, Prepared):
                    stream.prepared.load_annotations(rows)
            except BAD_SAMPLE:
                continue  # each row is tried alone, so that the error names the one that is bad
            for j, i in enumerate(slots):
                images[i] = {camera: frames[j] for camera, frames in read.items()}
        return images

    def _sample(
        self,
        stream: _Stream,
        row: int,
        images: dict[str, np.ndarray] | None,
        rng: np.random.Generator,
        key: tuple[int, int, int],
    ) -> Sample:
        for attempt in range(MAX_REDRAWS):
            try:
                if isinstance(stream.dataset, Conversations):
                    return self._conversation(stream, row, rng)
                if images is None:
                    images = {
                        camera: frames[0]
                        for camera, frames in _read(stream, np.array([row]), self.processor.config.image_size).items()
                    }
                kinds = stream.source.options.get("kinds")
                return self.processor.sample(
                    stream.embodiment,
                    stream.dataset,
                    row,
                    images,
                    rng,
                    stream.objective,
                    source=stream.index,
                    kinds=kinds,
                )
            except BAD_SAMPLE as error:
                self._bad(stream, row, error)
            row = int(stream.rows[np.random.default_rng((*key, attempt)).integers(len(stream.rows))])
            images = None
        raise ValueError(f"Source {stream.source.name!r} gave {MAX_REDRAWS} bad samples in a row; repair the data set.")

    def _conversation(self, stream: _Stream, row: int, rng: np.random.Generator) -> Sample:
        config, words = self.processor.config, self.processor.tokenizer
        return conversation_sample(config, words, stream.dataset.record(row), rng, source=stream.index)

    def _bad(self, stream: _Stream, row: int, error: Exception) -> None:
        where = f"source {stream.source.name!r}, {stream.prepared.place(row)}"
        if self.bad_samples == "stop":
            raise ValueError(
                f"Bad sample in {where}: {error} (--bad-samples quarantine lists such samples and goes on.)"
            ) from error
        with self._report_lock:
            if (stream.index, row) in self._reported:
                return
            self._reported.add((stream.index, row))
            self.bad_count += 1
            if self.bad_count <= WARNINGS:
                rest = f" Further ones are only listed in {self.quarantine}." if self.bad_count == WARNINGS else ""
                log.warning("Bad sample left out: %s: %s%s", where, error, rest)
            if self.quarantine is not None:
                entry = {"source": stream.source.name, "row": row, "where": where, "error": str(error)}
                with self.quarantine.open("a") as file:
                    file.write(json.dumps(entry) + "\n")


def _open(
    index: int,
    source: Source,
    mixture: Mixture,
    processor: Processor,
    datasets: Mapping[str, Any],
    split: Split,
    cache: Path | None,
) -> list[_Stream]:
    dataset = datasets.get(source.name)
    if dataset is None:
        raise ValueError(f"The mixture has source {source.name!r} but data sets are given for {sorted(datasets)}.")
    objective = source.options.get("objective", "robot")
    if objective not in get_args(Objective):
        raise ValueError(
            f"Source {source.name!r} has objective {objective!r}; choose from {list(get_args(Objective))}."
        )
    if not source.weight > 0:
        raise ValueError(f"Source {source.name!r} has weight {source.weight}; give a positive one or remove it.")
    chosen = held_out(dataset.num_episodes, mixture.validation) == (split == "validation")
    slices = [dataset.episode_slice(int(e)) for e in np.flatnonzero(chosen)]
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *[np.arange(s.start, s.stop) for s in slices]])
    if isinstance(dataset, Conversations) != (objective == "conversation"):
        raise ValueError(
            f"Source {source.name!r} has objective {objective!r} but is {describe(dataset)}; objective 'conversation' "
            f"goes with a LLaVA .json or .jsonl, the others with a LeRobot folder."
        )
    if isinstance(dataset, Conversations):
        return _by_views(index, source, dataset, processor, rows)
    if objective == "robot" and is_scenes(dataset):
        raise ValueError(
            f"Source {source.name!r} holds unrelated scenes without demonstrations; "
            f"set its options to {{'objective': 'grounding'}}."
        )
    embodiment = processor.embodiment_index(dataset.require_embodiment(), name=f"Source {source.name!r}")
    needed = _needed_annotations(processor, objective)
    _require_annotations(source, dataset, needed | _weighed_annotations(processor, objective))
    if "kinds" in source.options:
        check_kinds(source.options["kinds"])
    cameras = {c.role: c.name for c in dataset.require_embodiment().cameras}
    views = processor.sample_views(embodiment, objective)
    present = [role for role, there in zip(processor.config.image_roles, views, strict=True) if there]
    stream = _Stream(
        index=index,
        source=source,
        weight=source.weight,
        dataset=dataset,
        objective=objective,
        views=views,
        rows=rows,
        prepared=processor.prepared(dataset, embodiment),
        embodiment=embodiment,
        cameras=tuple(cameras[role] for role in present),
        annotated=bool(needed),
        images=_with_cache(dataset, cache, processor.config.image_size),
    )
    return [stream]


def _by_views(
    index: int, source: Source, dataset: Conversations, processor: Processor, rows: np.ndarray
) -> list[_Stream]:
    """A stream for each number of images, with its share of the source's weight."""
    counts = np.array([dataset.image_count(int(row)) for row in rows], dtype=np.int64)
    bad = (counts < 0) | (counts > len(processor.config.image_roles))
    if bad.any():  # reported when they are drawn: they join the most frequent kind, where others can replace them
        values, often = np.unique(counts[~bad], return_counts=True)
        counts[bad] = values[often.argmax()] if len(values) else 0
    return [
        _Stream(
            index=index,
            source=source,
            weight=source.weight * float((counts == count).mean()),
            dataset=dataset,
            objective="conversation",
            views=conversation_views(processor.config, int(count)),
            rows=rows[counts == count],
            prepared=dataset,
        )
        for count in np.unique(counts)
    ]


def _needed_annotations(processor: Processor, objective: Objective) -> dict[str, str]:
    """{annotation: the text that is made of it} of a source's samples."""
    if objective != "robot":
        return {"boxes": "grounding questions"}
    levels = processor.config.levels
    needed = {LEVEL_NEEDS[level]: f"level {level!r}" for level, p in levels.items() if p > 0 and level in LEVEL_NEEDS}
    if processor.config.sentence and processor.config.sentence_of == "subtask":
        needed["subtask"] = "processor.sentence_of 'subtask'"
    return needed | ({"progress": "processor.progress"} if processor.config.progress else {})


def _weighed_annotations(processor: Processor, objective: Objective) -> dict[str, str]:
    """{annotation: what is made of it} of a source's loss weights and router labels."""
    if objective != "robot" or not processor.config.weighs:
        return {}
    signal = processor.config.weighting.signal
    return {name: f"processor.weighting.signal {signal!r}" for name in NEEDS.get(signal, ())}


def _require_annotations(source: Source, dataset: Any, needed: dict[str, str]) -> None:
    """ValueError naming the annotation that a text needs and the data set lacks: no loss is dropped in silence."""
    for annotation, text in needed.items():
        if not dataset.has(annotation):
            raise ValueError(
                f"Source {source.name!r} ({describe(dataset)}) has no annotation {annotation!r}, which {text} needs. "
                f"Set processor.levels.LEVEL to 0 (processor.progress to false, another processor.weighting.signal, "
                f"processor.sentence_of to instruction), remove the source, or annotate the data (`visuomotor data "
                f"annotate` writes sub-tasks)."
            )


def _with_cache(dataset: Any, folder: Path | None, side: int | None) -> Any:
    """The data set, reading frames from a memory map below `folder` if they fit into CACHE_BYTES decoded."""
    if folder is None or not hasattr(dataset, "cached") or dataset.is_cached:
        return dataset
    pixels = sum(side * side if side else int(np.prod(dataset.image_size(c))) for c in dataset.cameras)
    if 3 * pixels * dataset.num_frames > CACHE_BYTES:
        return dataset
    try:
        return dataset.cached((side, side) if side else None, folder)
    except OSError as error:
        log.warning("Frames are decoded as they are drawn, because %s cannot hold them: %s", folder, error)
        return dataset


def _read(stream: _Stream, rows: np.ndarray, side: int | None) -> dict[str, np.ndarray]:
    """{camera: uint8[n, h, w, 3]} of `rows`, at the model's size where the processor sets one."""
    images = {camera: stream.images.frames(camera, rows) for camera in stream.cameras}
    return images if side is None else {camera: fit(pixels, side) for camera, pixels in images.items()}


def _groups(streams: list[_Stream]) -> list[tuple[list[_Stream], np.ndarray]]:
    """Streams by present views and objective, each with its share inside the group.

    A batch comes from one group: views are constant within it, and texts are of similar length, so little is padding.
    """
    found: dict[tuple[tuple[bool, ...], Objective], list[_Stream]] = {}
    for stream in streams:
        found.setdefault((stream.views, stream.objective), []).append(stream)
    groups = []
    for members in found.values():
        weights = np.array([s.weight for s in members], dtype=np.float64)
        groups.append((members, weights / weights.sum()))
    return groups
