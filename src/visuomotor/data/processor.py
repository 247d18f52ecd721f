"""Processor: everything between data or robot on one side and the model's tensors on the other, in both directions.

It owns the embodiments, their statistics, the normalisation, the tokenizer and the text layout; `processor.json` and
`tokenizer.json` keep them beside the weights, `fast.json` the FAST tokens where there are any.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codec import decode, encode
from visuomotor.contract import Batch, Embodiment, Observation
from visuomotor.data import sample_text
from visuomotor.data.augment import Shift, augment, centre_crop, draw_shift
from visuomotor.data.config import Objective, ProcessorConfig
from visuomotor.data.conversations import Conversations
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.images import fit
from visuomotor.data.phases import require_signal
from visuomotor.data.prepared import Prepared, spread_chunks, spread_rows
from visuomotor.data.robot_units import reference_of, robot_units, robot_views
from visuomotor.data.sample import Sample, collate
from visuomotor.data.statistics import Statistics, compute_statistics, is_scenes
from visuomotor.text import grounding, scaffold, tags, templates
from visuomotor.text.action_line import ActionLine, load_fast
from visuomotor.text.automaton import Grammar
from visuomotor.text.fast import FastTokenizer
from visuomotor.text.sentences import Sentences
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["Objective", "Processor", "ProcessorConfig"]

PROCESSOR_FILE, TOKENIZER_FILE, FAST_FILE = "processor.json", "tokenizer.json", "fast.json"
FORMAT = 1
SENTENCE_ROWS = 2000


class Processor:
    """Transforms, statistics and tokenizer of one or several embodiments, both ways."""

    def __init__(
        self,
        config: ProcessorConfig,
        embodiments: Sequence[Embodiment],
        statistics: Sequence[Statistics],
        tokenizer: TextTokenizer,
        fast: FastTokenizer | None = None,
    ) -> None:
        if len(embodiments) != len(statistics) or not embodiments:
            raise ValueError(f"{len(embodiments)} embodiments need as many statistics, not {len(statistics)}.")
        self.config = config
        self.embodiments = tuple(embodiments)
        self.statistics = tuple(statistics)
        self.tokenizer = tokenizer
        self.layout = config.layout(tokenizer)
        self.action_line = _action_line(config, tokenizer, fast)
        self.sentences = Sentences(config.sentence) if config.sentence else None
        if config.tags:
            for embodiment in embodiments:
                tags.tags_of(embodiment)  # refuses those whose control cannot be told
        if config.weighs:
            for embodiment in embodiments:
                require_signal(embodiment, config.weighting.signal)
        self.units = tuple(robot_units(config, e, s) for e, s in zip(embodiments, statistics, strict=True))
        self.views = tuple(robot_views(config, e) for e in embodiments)
        self._prepared: dict[tuple[int, int], Prepared] = {}

    @classmethod
    def build(
        cls,
        config: ProcessorConfig,
        datasets: Sequence[EpisodeSource | Conversations],
        corpus: Iterable[str] = (),
        *,
        tokenizer: TextTokenizer | None = None,
        fast: FastTokenizer | None = None,
        skip_bad: bool = False,
    ) -> "Processor":
        """Statistics from `datasets` (those with demonstrations, pooled by embodiment), tokenizer from `corpus`.

        Instructions, sub-tasks and object names of the data join the corpus. `tokenizer` (and `fast`) are taken as
        they are, e.g. those of the checkpoint that training starts from. `skip_bad` leaves NaN and infinity out of the
        statistics instead of raising ValueError.
        """
        groups: list[tuple[Embodiment, list[EpisodeSource]]] = []
        robots = (d for d in datasets if not isinstance(d, Conversations))
        for dataset in (d for d in robots if "action" in d.columns and not is_scenes(d)):
            for embodiment, members in groups:
                if not embodiment.differences(dataset.require_embodiment()):
                    members.append(dataset)
                    break
            else:
                groups.append((dataset.require_embodiment(), [dataset]))
        if not groups:
            raise ValueError("No data set holds demonstrations (an 'action' column), so actions have no statistics.")
        statistics = []
        for embodiment, members in groups:
            change = reference_of(config, embodiment)
            statistics.append(
                compute_statistics(
                    members, horizon=config.horizon, transform=change.apply if change else None, skip_bad=skip_bad
                )
            )
        if tokenizer is None:
            words = [*corpus, *scaffold.FIXED_TEXT, *grounding.PHRASES, *(t for d in datasets for t in _sentences(d))]
            words += config.layout.fixed_text
            words += templates.corpus() if config.templates != "none" else []
            words += [f"{tag} " for e, _ in groups for tag in tags.tags_of(e)] if config.tags else []
            special = config.layout.special_tokens
            digits = 2 if config.coordinates <= 100 else 1
            tokenizer = TextTokenizer.train(words, config.vocab_size - len(special), digits=digits)
            tokenizer = tokenizer.with_special_tokens(special) if special else tokenizer
        if config.action_tokens == "fast" and fast is None:
            units = (robot_units(config, e, s) for (e, _), s in zip(groups, statistics, strict=True))
            members = ((d, u) for (_, found), u in zip(groups, units, strict=True) for d in found)
            chunks = spread_chunks(Prepared(d, u, config.horizon) for d, u in members)
            fast = FastTokenizer.train(chunks, config.fast_vocab, config.fast_scale)
            tokenizer = tokenizer.with_fast_tokens(fast.size)
        return cls(config, [e for e, _ in groups], statistics, tokenizer, fast)

    def embodiment_index(self, embodiment: Embodiment, *, name: str = "The data") -> int:
        """Index of the embodiment that means the same numbers; ValueError naming both sides otherwise."""
        for i, known in enumerate(self.embodiments):
            if not known.differences(embodiment):
                return i
        embodiment.require_compatible(self.embodiments[0], this=name, that="this processor")
        raise AssertionError("unreachable: differences without a sentence")

    def prepared(self, dataset: EpisodeSource, embodiment: int = 0) -> Prepared:
        """The data set's normalised arrays, made on first use and kept."""
        key = (id(dataset), embodiment)
        if key not in self._prepared:
            self._prepared[key] = Prepared(dataset, self.units[embodiment], self.config.horizon, self.config.weighting)
        return self._prepared[key]

    def sample(
        self,
        dataset_index: int,
        dataset: EpisodeSource,
        row: int,
        images: dict[str, np.ndarray],
        rng: np.random.Generator,
        objective: Objective = "robot",
        *,
        source: int = 0,
        kinds: Mapping[str, float] | None = None,
        goal: dict[str, np.ndarray] | None = None,
    ) -> Sample:
        """One training sample.

        Args:
            dataset_index: index of the data set's embodiment in `embodiments`.
            row: global row of `dataset`; images: {camera name: uint8[h, w, 3]} of that row.
            objective: "robot" (actions and scaffold text), "grounding" (questions on the boxes, no actions), "boxes"
                (the first view alone, and where things are in it: what a model learns to look with) or "questions"
                (the first view alone, `kinds` of questions by weight).
            goal: images of a later row, of the cameras of `goal_roles`.

        Raises:
            ValueError: missing camera, NaN in state or action, missing annotation, text longer than max_text.
        """
        prepared = self.prepared(dataset, dataset_index)
        views = self.sample_views(dataset_index, objective)
        shifts, pictures = self._pictures(dataset_index, images, rng, views, place=lambda: prepared.place(row))
        config = self.config
        valid = np.zeros((config.horizon, config.action_width), dtype=bool)
        weights, labels = {}, {}
        if objective == "robot":
            actions, steps, bins = prepared.actions_at(row)
            if config.weights:
                made = prepared.weights_at(row)
                weights = {name: made[name] for name in config.weights}
            if config.router:
                labels["router"] = prepared.router_at(row)
            if config.progress:
                labels["progress"] = prepared.progress_at(row, steps)
            labels |= self._sentence(self._told(prepared, row))
            valid[:steps, : bins.shape[1]] = True
            tokens = partial(self.action_line.encode, actions, bins)
            robot = self.embodiments[dataset_index]
            pieces = sample_text.robot_text(config, self.layout, robot, prepared, row, tokens, shifts, rng)
        else:
            actions = np.zeros((config.horizon, config.action_width), dtype=np.float32)
            pieces = sample_text.grounding_text(config, self.layout, prepared, row, shifts, rng, objective, kinds)
        ids, text_kind, targets, turns = scaffold.text_of(pieces)
        if len(ids) > config.max_text:
            raise ValueError(
                f"The text of {prepared.place(row)} has {len(ids)} tokens but max_text is {config.max_text}; "
                f"raise max_text, or drop a level."
            )
        return Sample(
            images=pictures,
            views=views,
            text_ids=ids,
            text_kind=text_kind,
            text_loss=targets,
            state=prepared.state_at(row),
            actions=actions,
            action_valid=valid,
            embodiment=dataset_index,
            source=source,
            weights=weights,
            labels=labels,
            text_turn=turns,
            goal=self._goal(dataset_index, goal or {}, lambda: prepared.place(row)),
            control_hz=self.embodiments[dataset_index].control_hz,
        )

    def sample_views(self, embodiment: int, objective: Objective) -> tuple[bool, ...]:
        """Which views a training sample has."""
        views = self.views[embodiment]
        if objective not in ("boxes", "questions"):
            return views
        first = views.index(True)
        return tuple(i == first for i in range(len(views)))

    def collate(
        self, samples: Sequence[Sample], *, rows: tuple[int, int] | None = None, mix_views: bool = False
    ) -> Batch:
        """Batch of samples; see `data.sample.collate`."""
        return collate(samples, self.config.image_roles, self.tokenizer.pad_id, rows=rows, mix_views=mix_views)

    def observations(
        self,
        observations: Sequence[Observation],
        embodiment: int = 0,
        levels: Sequence[str] = (),
        text: Sequence[dict[str, str]] | None = None,
    ) -> Batch:
        """Batch for inference, without actions.

        levels: those to be written. The header of the first ends the text, and the model goes on from there; where
            levels do not see each other, each begins from the prompt, and no header is in the text.
        text: per observation, levels that are known already; they stand between prompt and header.
        """
        samples = []
        for i, observation in enumerate(observations):
            state = self._state(observation, embodiment)
            views = self.views[embodiment]
            _, pictures = self._pictures(embodiment, observation.images, None, views, place=lambda: "the observation")
            known = text[i] if text else {}
            robot = self.embodiments[embodiment]
            pieces = sample_text.observation_text(
                self.config, self.layout, robot, observation.instruction, state, levels, known
            )
            ids, kinds, targets, turns = scaffold.text_of(pieces)
            samples.append(
                Sample(
                    images=pictures,
                    views=views,
                    text_ids=ids,
                    text_kind=kinds,
                    text_loss=np.zeros_like(targets),
                    state=state,
                    embodiment=embodiment,
                    labels=self._sentence(known.get("subtask") or observation.instruction),
                    text_turn=turns,
                    goal=self._goal(embodiment, observation.goal, lambda: "the observation's goal"),
                    control_hz=robot.control_hz,
                )
            )
        return self.collate(samples)

    def robot_actions(self, normalised: np.ndarray, state: np.ndarray, embodiment: int = 0) -> np.ndarray:
        """Model output float[T, A] -> float32[T, a] in robot units; `state` float[s] is the observation's."""
        return self.units[embodiment].robot_actions(np.asarray(normalised), np.asarray(state))

    def header(self, level: str) -> scaffold.Pieces:
        """What begins the line of a level that is to be written; nothing in a chat layout.

        Raises:
            ValueError: the layout has no such level.
        """
        return self.layout.header(level)

    def model_actions(self, actions: np.ndarray, state: np.ndarray, embodiment: int = 0) -> np.ndarray:
        """The inverse of `robot_actions`: float[T, a] in robot units -> float32[T, A]."""
        return self.units[embodiment].model_actions(np.asarray(actions), np.asarray(state))

    def parse_text(self, ids: Sequence[int] | np.ndarray, level: str | None = None) -> dict[str, str]:
        """{level: text} of generated ids. `level`: the one whose header was forced, so that the ids go on from it."""
        return self.layout.parse(self.tokenizer.decode(ids), level)

    def marks(self, text: Mapping[str, str], embodiment: int = 0) -> dict[str, Any]:
        """What a text points at, to be drawn: {"camera": name, "boxes": {name: [x1, y1, x2, y2]}, "trace": [[x, y]]}.

        Coordinates are 0-1000 of that camera's image. Empty when it points at nothing.
        """
        stored = self.config.stored
        boxes = {n: [stored(v) for v in box] for n, box in scaffold.parse_boxes(text.get("box", "")).items()}
        trace = [[stored(x), stored(y)] for x, y in scaffold.parse_points(text.get("trajectory", ""))]
        if not boxes and not trace:
            return {}
        role = self.config.image_roles[self.views[embodiment].index(True)]
        camera = next(c.name for c in self.embodiments[embodiment].cameras if c.role == role)
        return {"camera": camera, "boxes": boxes, "trace": trace}

    def grammar(self, level: str, embodiment: int = 0, names: Sequence[str] = ()) -> Grammar | None:
        """What the line of a level may say (see text/grammar.py). `names`: what boxes may be called, else any words.

        None in a chat layout: an answer ends with the turn, not with the line, and says anything.
        """
        line = partial(self.action_line.grammar, self.embodiments[embodiment].action_dim)
        return self.layout.grammar(level, self.config.coordinate(1000), names, line)

    def decode_actions(self, ids: np.ndarray, embodiment: int = 0) -> np.ndarray | None:
        """Normalised float32[T, A] of a written action line (ids [G]); None if it is malformed."""
        return self.action_line.decode(ids, self.embodiments[embodiment].action_dim)

    @property
    def fast(self) -> FastTokenizer | None:
        """The FAST tokens, None where action lines are made of bins."""
        return self.action_line.fast

    def to_json(self) -> dict[str, Any]:
        def said(own: str, method: str) -> str:
            return own if method == "embodiment" else method

        def meaning(embodiment: Embodiment) -> dict[str, Any]:
            return {
                "embodiment": embodiment.name,
                "state": {c.name: said(c.normalization, self.config.state_normalization) for c in embodiment.state},
                "action": {c.name: said(c.normalization, self.config.action_normalization) for c in embodiment.action},
                "action_reference": {
                    c.name: "chunk_start" if self.config.action_reference == "chunk_start" else c.reference
                    for c in embodiment.action
                },
            }

        return {
            "format": FORMAT,
            "normalization": [meaning(e) for e in self.embodiments],
            "config": encode(self.config),
            "embodiments": encode(self.embodiments),
            "statistics": encode(self.statistics),
        }

    def save(self, folder: Path) -> None:
        """Write processor.json, tokenizer.json and, with FAST tokens, fast.json into an existing folder."""
        (folder / PROCESSOR_FILE).write_text(json.dumps(self.to_json(), indent=2) + "\n")
        self.tokenizer.save(folder / TOKENIZER_FILE)
        if self.fast is not None:
            (folder / FAST_FILE).write_text(json.dumps(self.fast.to_json()) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Processor":
        path = Path(folder) / PROCESSOR_FILE
        try:
            data = json.loads(path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"{path} has format {data['format']}, this version reads {FORMAT}; update visuomotor.")
            config = decode(ProcessorConfig, data["config"], "config")
            embodiments = decode(list[Embodiment], data["embodiments"], "embodiments")
            statistics = decode(list[Statistics], data["statistics"], "statistics")
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing; a checkpoint needs it to turn actions into robot units. Copy the whole folder."
            ) from None
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is damaged or not a processor file: {error!r}. Copy the folder again.") from error
        fast = load_fast(Path(folder) / FAST_FILE) if config.action_tokens == "fast" else None
        return cls(config, embodiments, statistics, TextTokenizer.load(Path(folder) / TOKENIZER_FILE), fast)

    def _told(self, prepared: Prepared, row: int) -> str:
        """What a training sample is told in one sentence (see ProcessorConfig.sentence_of)."""
        if self.sentences is None:
            return ""
        subtask = prepared.annotation(row).subtask if self.config.sentence_of == "subtask" else ""
        return subtask or prepared.instruction(row)

    def _sentence(self, text: str) -> dict[str, np.ndarray]:
        return {} if self.sentences is None else {"sentence": self.sentences(text)}

    def goal_views(self, embodiment: int) -> tuple[bool, ...]:
        """Views of an embodiment of which a sample carries a goal image."""
        pairs = zip(self.config.image_roles, self.views[embodiment], strict=True)
        return tuple(there and role in self.config.goal_roles for role, there in pairs)

    def _goal(self, embodiment: int, images: dict[str, np.ndarray], place: Any) -> dict[str, np.ndarray]:
        """Goal images by role, prepared as images are at inference; empty where there is no goal."""
        return self._pictures(embodiment, images, None, self.goal_views(embodiment), place=place)[1] if images else {}

    def _pictures(
        self,
        embodiment: int,
        images: dict[str, np.ndarray],
        rng: np.random.Generator | None,
        views: tuple[bool, ...],
        *,
        place: Any,
    ) -> tuple[dict[str, Shift], dict[str, np.ndarray]]:
        """Shift per camera name (none at inference) and {role: uint8[h, w, 3]} of the present views."""
        shifts, pictures = {}, {}
        cameras = {c.role: c.name for c in self.embodiments[embodiment].cameras}
        shared = int(rng.integers(2**63)) if rng is not None and self.config.augment.shared else None
        for role, present in zip(self.config.image_roles, views, strict=True):
            if not present:
                continue
            image = images.get(cameras[role])
            if image is None:
                raise ValueError(
                    f"Camera {cameras[role]!r} (role {role!r}) is missing from {place()}, which has {sorted(images)}; "
                    f"send it, or train with {role!r} in optional_roles."
                )
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"Camera {cameras[role]!r} of {place()} is {image.dtype}{list(image.shape)}; give uint8[h, w, 3]."
                )
            if self.config.image_size is not None:
                image = fit(image, self.config.image_size)
            shift = Shift()
            if rng is not None:
                own = np.random.default_rng(shared) if shared is not None else rng
                shift = draw_shift(self.config.augment, own)
                image = augment(image, shift, self.config.augment, own)
            else:
                image = centre_crop(image, self.config.augment.crop)
            shifts[cameras[role]], pictures[role] = shift, image
        return shifts, pictures

    def _state(self, observation: Observation, embodiment: int) -> np.ndarray:
        """float32[S] normalised, after checking width and finiteness."""
        robot = self.embodiments[embodiment]
        state = np.asarray(observation.state, dtype=np.float32)
        names = [f"{c.name}.{d}" for c in robot.state for d in c.dims]
        if state.shape != (len(names),):
            raise ValueError(
                f"The observation's state has shape {list(state.shape)} but embodiment {robot.name!r} has "
                f"{len(names)} dimensions: {names}. Send them in this order."
            )
        if not np.isfinite(state).all():
            dim = int(np.argmax(~np.isfinite(state)))
            raise ValueError(
                f"The observation's state dimension {dim} ({names[dim]}) is {state[dim]}; check that sensor, "
                f"no action is computed from it."
            )
        return self.units[embodiment].state.apply(state)


def _sentences(dataset: EpisodeSource | Conversations) -> set[str]:
    """Instructions, and the sub-tasks and object names (or conversations) of up to SENTENCE_ROWS evenly spread rows."""
    rows = spread_rows(dataset.num_frames, SENTENCE_ROWS)
    if isinstance(dataset, Conversations):
        return set(dataset.texts(rows.tolist()))
    found = {dataset.instruction(e) for e in range(dataset.num_episodes)}
    for annotation in dataset.annotations(rows) or ():
        found |= {annotation.subtask, *(name for boxes in annotation.boxes.values() for name in boxes)}
    return found


def _action_line(config: ProcessorConfig, tokenizer: TextTokenizer, fast: FastTokenizer | None) -> ActionLine:
    return ActionLine(
        tokenizer=tokenizer,
        horizon=config.horizon,
        width=config.action_width,
        kind=config.action_tokens,
        fast=fast,
        stride=config.action_token_stride,
        required=bool(config.levels.get("action")),
    )
