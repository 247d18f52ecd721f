"""Loader: an endless, resumable stream of batches from a mixture of data sets.

Row i of the k-th batch depends only on (seed, k, i): which thread or rank makes it, and what was drawn before, do not
matter. So the whole state is k, and a resumed run sees the batches that an uninterrupted one would have seen.
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
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from visuomotor.contract import Batch, Mixture, Source
from visuomotor.data.conversations import Conversations
from visuomotor.data.dialogue import conversation_sample, conversation_views
from visuomotor.data.images import fit
from visuomotor.data.phases import NEEDS
from visuomotor.data.prepared import Prepared
from visuomotor.data.processor import Objective, Processor
from visuomotor.data.sample import Sample
from visuomotor.data.shares import RowDraws, Shares
from visuomotor.data.statistics import describe, is_scenes
from visuomotor.text.scaffold import LEVEL_NEEDS
from visuomotor.text.scene_questions import check_kinds

__all__ = ["Loader", "held_out"]

log = logging.getLogger(__name__)
Split = Literal["train", "validation"]
DRAWS = 2  # version of the rules by which rows are drawn; a run that began with others cannot go on
AHEAD = 4  # batches prefetched per worker
MAX_REDRAWS = 100
WARNINGS = 3  # bad samples that are logged
CACHE_BYTES = 2 << 30
CACHE_FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "visuomotor" / "frames"
_Pictures = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]  # {camera: image} of a frame, and of its goal
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
    goals: tuple[str, ...] = ()  # cameras of goal images


class _Draw(NamedTuple):
    """A frame that was drawn, and the later one that is its goal."""

    stream: _Stream
    row: int
    goal: int


def _draw(stream: _Stream, frame: float, later: float) -> _Draw:
    """A frame and its goal, both uniform; `frame` and `later` are in [0, 1)."""
    row = goal = int(stream.rows[int(frame * len(stream.rows))])
    if stream.goals and isinstance(stream.prepared, Prepared):
        goal += int(later * (stream.prepared.end[row] - row))
    return _Draw(stream, row, goal)


class Loader(Iterator[Batch]):
    """Batches of `batch_size` samples. Each source has its share of any run of rows; a row draws a frame uniformly.

    Sources with different views share a batch where `rows_may_mix_views`; else batches, instead of rows, are divided
    among the sets of views.

    Args:
        batch_size: samples of the global batch, of which rank `rank` of `ranks` makes its slice.
        datasets: {source name: data set}, one for each source of the mixture.
        workers: prefetch threads; 0 makes each batch when it is asked for.
        split: "train" or "validation" (episodes held out by `held_out`, share `mixture.validation`); a source with
            a single episode has no validation episodes and is left out there.
        bad_samples: "stop" raises ValueError naming source, row and cause; "quarantine" counts the sample in
            `bad_count`, appends it to the JSON-lines file `quarantine`, and draws another row deterministically.
        cache: folder for decoded frames, used for data sets of at most 2 GiB decoded; None decodes as it draws.
        rows_may_mix_views: for models that read `Batch.image_valid` row by row.

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
        rows_may_mix_views: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
        if not 0 <= rank < ranks <= batch_size:
            raise ValueError(f"rank is {rank} of {ranks} with batch_size {batch_size}; each rank needs a row.")
        self.processor, self.batch_size, self.seed, self.workers = processor, batch_size, seed, workers
        self.rows_may_mix_views = rows_may_mix_views
        self._slice = (batch_size * rank // ranks, batch_size * (rank + 1) // ranks)
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
        self._groups = _groups(streams, mix_views=rows_may_mix_views)
        self._group_shares = Shares([sum(s.weight for s in members) for members, _ in self._groups])
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
        """The k-th batch, or this rank's rows of it."""
        first, last = self._slice
        group, before = (int(found[0]) for found in self._group_shares.at(np.array([k])))
        streams, shares = self._groups[group]
        chosen, _ = shares.at(before * self.batch_size + np.arange(first, last))
        rows = RowDraws(self.seed, k, first, last)
        draws = [_draw(streams[s], *place) for s, *place in zip(chosen, rows.frame, rows.goal, strict=True)]
        pictures = self._pictures(draws)
        # Source by source: the interpreter is up to a tenth slower where kinds of samples alternate.
        order = np.argsort(chosen, kind="stable").tolist()
        made = {i: self._sample(draws[i], pictures[i], rows.generator(i)) for i in order}
        samples = [made[i] for i in range(len(draws))]
        return self.processor.collate(samples, rows=(first, self.batch_size), mix_views=self.rows_may_mix_views)

    def state_dict(self) -> dict[str, int]:
        """What resume needs: the number of batches handed out (and what they depend on)."""
        return {"batch": self._next, "seed": self.seed, "batch_size": self.batch_size, "draws": DRAWS}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on after the batches that `state` counts; ValueError when seed, batch size or rules of drawing differ."""
        for name, value in self.state_dict().items():
            saved = state.get(name, 1)  # states of the first rules do not name them
            if name != "batch" and saved != value:
                raise ValueError(
                    f"The saved loader has {name} {saved} but this one {value}, so its batches would differ; resume "
                    f"with the same value or start a new run."
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

    def _pictures(self, draws: list[_Draw]) -> list[_Pictures | None]:
        """Images of each draw, read in one call per source and camera; None where that call failed."""
        pictures: list[_Pictures | None] = [None] * len(draws)
        for stream in {id(d.stream): d.stream for d in draws if d.stream.cameras}.values():
            slots = [i for i, draw in enumerate(draws) if draw.stream is stream]
            try:
                read = _read([draws[i] for i in slots], self.processor.config.image_size)
                if isinstance(stream.prepared, Prepared):
                    rows = np.array([draws[i].row for i in slots])
                    if stream.objective == "robot":
                        stream.prepared.load_instructions(rows)
                    if stream.annotated:
                        stream.prepared.load_annotations(rows)
            except BAD_SAMPLE:
                continue  # each row is tried alone, so that the error names the one that is bad
            for i, found in zip(slots, read, strict=True):
                pictures[i] = found
        return pictures

    def _sample(self, draw: _Draw, pictures: _Pictures | None, rng: np.random.Generator) -> Sample:
        """The sample of a draw; a bad one is replaced by the next draw of the same row, if it does not stop the run."""
        stream = draw.stream
        for _ in range(MAX_REDRAWS):
            try:
                if isinstance(stream.dataset, Conversations):
                    return self._conversation(stream, draw.row, rng)
                images, goal = pictures or _read([draw], self.processor.config.image_size)[0]
                return self.processor.sample(
                    stream.embodiment,
                    stream.dataset,
                    draw.row,
                    images,
                    rng,
                    stream.objective,
                    source=stream.index,
                    kinds=stream.source.options.get("kinds"),
                    goal=goal,
                )
            except BAD_SAMPLE as error:
                self._bad(stream, draw.row, error)
            draw, pictures = _draw(stream, rng.random(), rng.random()), None
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
    names = {c.role: c.name for c in dataset.require_embodiment().cameras}
    views = processor.sample_views(embodiment, objective)

    def cameras(views: tuple[bool, ...]) -> tuple[str, ...]:
        return tuple(names[role] for role, there in zip(processor.config.image_roles, views, strict=True) if there)

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
        cameras=cameras(views),
        annotated=bool(needed),
        images=_with_cache(dataset, cache, processor.config.image_size),
        goals=cameras(processor.goal_views(embodiment)) if objective == "robot" else (),
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
    if folder is None or dataset.is_cached:
        return dataset
    pixels = sum(side * side if side else int(np.prod(dataset.image_size(c))) for c in dataset.cameras)
    if 3 * pixels * dataset.num_frames > CACHE_BYTES:
        return dataset
    try:
        return dataset.cached((side, side) if side else None, folder)
    except OSError as error:
        log.warning("Frames are decoded as they are drawn, because %s cannot hold them: %s", folder, error)
        return dataset


def _read(draws: list[_Draw], side: int | None) -> list[_Pictures]:
    """Images of draws of the same stream, at the model's size where the processor sets one."""
    stream, rows = draws[0].stream, np.array([draw.row for draw in draws])
    goals = np.array([draw.goal for draw in draws])
    sets = []
    for cameras, wanted in ((stream.cameras, rows), (stream.goals, goals)):
        images = {camera: stream.images.frames(camera, wanted) for camera in cameras}
        sets.append(images if side is None else {camera: fit(pixels, side) for camera, pixels in images.items()})
    now, later = sets
    return [({c: now[c][i] for c in now}, {c: later[c][i] for c in later}) for i in range(len(draws))]


def _groups(streams: list[_Stream], *, mix_views: bool) -> list[tuple[list[_Stream], Shares]]:
    """Streams whose samples may share a batch, and the division of its rows among them."""
    groups: dict[tuple[bool, ...], list[_Stream]] = {}
    for stream in streams:
        groups.setdefault(() if mix_views else stream.views, []).append(stream)
    return [(members, Shares([s.weight for s in members])) for members in groups.values()]
