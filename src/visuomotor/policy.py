"""Policy: a model with its processor and embodiment; observations in, action chunks in robot units out.

A checkpoint is a folder: config.json (model name and configuration), model.safetensors, processor.json and
tokenizer.json (fast.json with FAST tokens), embodiment.json, provenance.json. Never a pickle.
"""

import itertools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_model
from visuomotor_client.chunking import ChunkRequest
from visuomotor_client.selection import medoid

import visuomotor
from visuomotor.atomic import whole_folder
from visuomotor.codec import update
from visuomotor.contract import ActionChunk, Embodiment, Observation, Sampled
from visuomotor.data.conversations import Conversation
from visuomotor.data.dialogue import conversation_sample
from visuomotor.data.processor import Processor
from visuomotor.locks import FolderLock
from visuomotor.models.files import read_json
from visuomotor.models.fit import require_fit, take_types
from visuomotor.nn.guidance import Guidance, prefix_weights
from visuomotor.session import Session
from visuomotor.spelling import did_you_mean
from visuomotor.text.grammar import Line
from visuomotor.text.scaffold import LEVELS

__all__ = ["Policy", "Session", "load_policy"]

logger = logging.getLogger(__name__)

FILES = ("config.json", "model.safetensors", "processor.json", "tokenizer.json", "embodiment.json", "provenance.json")
THINKABLE = tuple(level for level in LEVELS if level != "action")
MAX_NEW_TOKENS = 32
SETTINGS = (
    "think", "think_every", "max_new_tokens", "think_seconds", "constrain", "box_names", "actions_from", "steps",
    "num_samples",
)  # fmt: skip


class Policy:
    """Model, processor and embodiment.

    Args:
        embodiment: which of the processor's embodiments is driven; the first one by default.
        think: levels that the model writes before it acts, e.g. ("subtask",); () acts at once.
        think_every: calls of a session for which its text is reused before it is written anew.
        max_new_tokens: limit of one level's text, or {level: limit} (32 for those not named).
        think_seconds: time after which a call stops writing. A level that is unfinished then is dropped, the chunk is
            made without it, and `extras["unfinished"]` names it. What is written then depends on the machine's speed.
        constrain: let a level say only what is well-formed (text/grammar.py); box_names: what boxes may be called, any
            words when empty.
        actions_from: "flow", or "tokens": the policy writes its action tokens, and they are the chunk. A line of them
            that is malformed (`malformed` counts them, `extras["malformed"]` says so) is replaced by the flow's chunk.
        steps: denoising steps, None for the model's default.
        num_samples: chunks that are sampled from one prefix for each observation; the medoid of them is the answer.

    Raises:
        ValueError: contradictory options, or a model whose sizes or ids are not the processor's.
    """

    def __init__(
        self,
        model: Any,
        processor: Processor,
        embodiment: Embodiment | None = None,
        provenance: dict[str, Any] | None = None,
        *,
        think: Sequence[str] = (),
        think_every: int = 1,
        max_new_tokens: int | Mapping[str, int] = MAX_NEW_TOKENS,
        think_seconds: float | None = None,
        constrain: bool = True,
        box_names: Sequence[str] = (),
        actions_from: Literal["flow", "tokens"] = "flow",
        steps: int | None = None,
        num_samples: int = 1,
    ) -> None:
        unknown = [level for level in think if level not in THINKABLE]
        if unknown:
            raise ValueError(f"A policy cannot think {unknown[0]!r}; choose from {list(THINKABLE)}.")
        require_fit(model, processor)
        self.model = model.eval()
        self.processor = processor
        self.embodiment = embodiment or processor.embodiments[0]
        self._index = processor.embodiment_index(self.embodiment, name="The policy")
        self.provenance = dict(provenance or {})
        self.path: Path | None = None  # the checkpoint folder it was loaded from
        self.think = tuple(level for level in processor.config.level_order if level in think)
        self.think_every, self.max_new_tokens, self.steps = think_every, max_new_tokens, steps
        self.think_seconds, self.constrain, self.box_names = think_seconds, constrain, tuple(box_names)
        if actions_from not in ("flow", "tokens"):
            raise ValueError(f"actions_from is {actions_from!r}; choose 'flow' or 'tokens'.")
        counts = {"think_every": think_every, "num_samples": num_samples, "steps": 1 if steps is None else steps}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; give a whole number, at least 1.")
        if think_seconds is not None and not (isinstance(think_seconds, int | float) and think_seconds >= 0):
            raise ValueError(f"think_seconds is {think_seconds!r}; give at least 0, or None for no limit.")
        if num_samples > 1 and actions_from == "tokens":
            raise ValueError(f"num_samples is {num_samples}, but actions that a policy writes know no noise; give 1.")
        self.actions_from, self.num_samples = actions_from, num_samples
        self.malformed = 0
        self._warned = False
        order, written = processor.config.level_order, self.think
        if actions_from == "tokens":
            after = [level for level in self.think if order.index(level) > order.index("action")]
            if after:
                raise ValueError(f"level_order puts {after[0]!r} behind the action tokens; leave it out of think.")
            written = (*self.think, "action")
        self._lines = {level: self._line(level).to(self.device) for level in written}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def guidance(self) -> tuple[str, ...]:
        """The kinds of guidance that a request may ask for; none where actions are written as tokens."""
        return () if self.actions_from == "tokens" else getattr(self.model, "chunk_guidance", ())

    def to(self, device: torch.device | str) -> "Policy":
        self.model.to(device)
        self._lines = {level: line.to(device) for level, line in self._lines.items()}
        return self

    @torch.no_grad()
    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
        requests: Sequence[ChunkRequest | None] | None = None,
    ) -> list[ActionChunk]:
        """One chunk per observation; `requests` say how it has to go on from the one that runs (real-time chunking).

        Noise is drawn for each request from its own seed: the given one, else the session's, else a fresh one. So a
        chunk never depends on who shared its batch (up to rounding). `extras` holds "latency" (seconds of the whole
        batch) and "seed"; "marks" (see Processor.marks) where the text points at something; "unfinished" and
        "malformed" where it applies (see Policy); "progress", predicted for the chunk's end, where the model has a
        progress token and sessions say how far the task is; "router" and "head", the gripper head's probability and
        the head that acted (0 arm, 1 gripper), of a DAM-VLA.

        Raises:
            ValueError: an observation lacks a camera or has a wrong or NaN state; the model produced a NaN; a request
                asks for guidance that the model does not have.
        """
        if not observations:
            return []
        started = time.perf_counter()
        remembered = list(sessions) if sessions is not None else [None] * len(observations)
        asked = list(requests) if requests is not None else [None] * len(observations)
        for what, given in (("sessions", remembered), ("seeds", seeds), ("requests", asked)):
            if given is not None and len(given) != len(observations):
                raise ValueError(f"{len(observations)} observations came with {len(given)} {what}; give one for each.")
        drawn = ((session or Session()).call_seed() for session in remembered)
        chosen = [int(seed) for seed in (drawn if seeds is None else seeds)]
        told = {} if sessions is None else self._told(remembered)
        noise = self._noise(chosen)
        fresh = [not self._reusable(s) for s in remembered]
        texts = [dict(s.text) if s is not None and not new else {} for s, new in zip(remembered, fresh, strict=True)]
        actions = np.empty((len(observations), *noise.shape[-2:]), dtype=np.float32)
        notes: list[dict[str, Any]] = [{} for _ in observations]
        deadline = None if self.think_seconds is None else started + self.think_seconds
        kinds = [None if request is None else request.guidance for request in asked]
        for think, kind in itertools.product((True, False), dict.fromkeys(kinds)):
            slots = [i for i, new in enumerate(fresh) if new == think and kinds[i] == kind]
            if slots:
                group = [observations[i] for i in slots]
                known = [texts[i] for i in slots]
                levels = self._levels if think else self._levels[len(self.think) :]
                begin = {name: values[slots] for name, values in told.items()}
                guidance = self._guidance([asked[i] for i in slots], group)
                actions[slots], known, noted = self._sample(
                    group, known, noise[slots], levels, deadline, begin, guidance
                )  # fmt: skip
                for i, text, note in zip(slots, known, noted, strict=True):
                    texts[i], notes[i] = text, note
        latency = time.perf_counter() - started
        chunks = []
        for i, observation in enumerate(observations):
            chunk = ActionChunk(
                actions=self.processor.robot_actions(actions[i], observation.state, self._index),
                embodiment=self.embodiment,
                time=observation.time,
                text=texts[i],
                extras={"latency": latency, "seed": chosen[i], **self._marks(texts[i]), **notes[i]},
            )
            if (session := remembered[i]) is not None:
                session.remember(chunk, fresh=fresh[i])
            chunks.append(chunk)
        return chunks

    @torch.no_grad()
    def answer(self, conversations: Sequence[Conversation], max_new_tokens: int = 64, *, begin: str = "") -> list[str]:
        """What the model says, greedily, to the last question of each; the earlier turns are taken as they are.

        `begin`: words with which every answer has to begin, e.g. "Box:"; they are part of what is returned.

        Raises:
            ValueError: conversations with different numbers of images, or more of them than the model has views.
        """
        processor = self.processor
        words = processor.tokenizer
        samples = [conversation_sample(processor.config, words, c, begin=begin) for c in conversations]
        batch = processor.collate(samples).to(self.device)
        noise = self._noise([0] * len(samples))
        end = processor.layout.answer_end
        sampled = self.model.sample(batch, noise=noise, generate=max_new_tokens, stop_id=end, flow=False)
        if sampled.text_ids is None:
            raise ValueError("The model wrote no text although it was asked a question.")
        rows = sampled.text_ids.cpu().numpy()
        whole = [row[: int((row == end).argmax()) if (row == end).any() else len(row)] for row in rows]
        written = (words.decode(ids).partition("\n")[0] for ids in whole)
        return [(begin + text).strip() for text in written]

    def save(
        self,
        path: Path | str,
        provenance: dict[str, Any] | None = None,
        *,
        overwrite: bool = False,
        break_lock: bool = False,
    ) -> Path:
        """Write the checkpoint folder: first under a temporary name beside it, then renamed, so it is whole or absent.

        Raises:
            FileExistsError: the folder exists and `overwrite` is false. FolderInUse: somebody writes it (`FolderLock`).
            OSError: the disk is full or not writable; nothing half-written stays.
        """
        path = Path(path)
        with FolderLock(path, beside=True, nested=True, break_lock=break_lock):
            if path.exists() and not overwrite:
                raise FileExistsError(f"{path} exists already; choose another folder or pass overwrite=True.")
            try:
                with whole_folder(path) as temporary:
                    self.write(temporary, provenance)
            except (OSError, SafetensorError) as error:
                raise OSError(
                    f"The checkpoint {path} could not be written: {error}. Free some space or choose another folder; "
                    f"earlier checkpoints are untouched."
                ) from error
        return path

    def write(self, folder: Path, provenance: dict[str, Any] | None = None) -> None:
        """Write a checkpoint's files into a folder that only the caller uses, and that it makes whole; see `save`."""
        from visuomotor.models import config_to_json, spec_of

        spec = spec_of(self.model.config)
        if spec is None:
            raise ValueError(
                f"No model is known for a {type(self.model.config).__name__}, so a checkpoint could not be read again; "
                f"describe it by a ModelSpec in a file of yours, and call find_spec('FILE.py:NAME')."
            )
        folder.mkdir(parents=True, exist_ok=True)

        config = {**config_to_json(spec.name, self.model.config), "policy": {n: getattr(self, n) for n in SETTINGS}}
        origin = {**self.provenance, **(provenance or {})}
        origin |= {"visuomotor": visuomotor.__version__, "torch": torch.__version__}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        (folder / "provenance.json").write_text(json.dumps(origin, indent=2) + "\n")
        self.processor.save(folder)
        self.embodiment.save(folder / "embodiment.json")
        save_model(self.model, str(folder / "model.safetensors"))

    @property
    def _levels(self) -> tuple[str, ...]:
        """All that is written in a call that thinks, in this order."""
        return tuple(self._lines)

    def _line(self, level: str) -> Line:
        """How the model is asked for a level."""
        processor = self.processor
        if level == "action":
            length = processor.action_line.longest * self.embodiment.action_dim + 1
        elif isinstance(self.max_new_tokens, Mapping):
            length = self.max_new_tokens.get(level, MAX_NEW_TOKENS)
        else:
            length = self.max_new_tokens
        return Line(
            header=torch.tensor([i for piece in processor.header(level) for i in piece.ids], dtype=torch.int64),
            length=length,
            turn=processor.config.turn(level),
            grammar=processor.grammar(level, self._index, self.box_names) if self.constrain else None,
        )

    def _sample(
        self,
        observations: list[Observation],
        known: list[dict[str, str]],
        noise: torch.Tensor,
        levels: Sequence[str],
        deadline: float | None,
        told: dict[str, torch.Tensor],
        guidance: Guidance | None = None,
    ) -> tuple[np.ndarray, list[dict[str, str]], list[dict[str, Any]]]:
        """Normalised actions [B, T, A], the text of each, and what is to be said of it in extras.

        `noise` is [B, N, T, A]; of N chunks the medoid is taken. `told`: labels from the sessions (see `_told`).
        """
        batch = self.processor.observations(observations, self._index, levels, known)
        if told:
            batch = replace(batch, labels=told)
        batch = batch.to(self.device)
        first = self.processor.config.scaffold == "sequential"  # its header ends the batch's text
        lines = tuple(replace(self._lines[level], given=first and i == 0) for i, level in enumerate(levels))
        flow = "action" not in levels
        options = {} if guidance is None else {"chunk_guidance": guidance}
        sampled = self.model.sample(
            batch, noise=noise, steps=self.steps, lines=lines, deadline=deadline, flow=flow, **options
        )
        known, notes = self._read(sampled, [level for level in levels if level != "action"], known)
        samples = sampled.actions.float().cpu().numpy()
        width = self.embodiment.action_dim
        chosen = [medoid(row[..., :width]) if len(row) > 1 else 0 for row in samples]
        for name, values in sampled.extras.items():  # [B], or [B, N], of which the chosen sample's counts
            for note, row, n in zip(notes, values.reshape(len(notes), -1).tolist(), chosen, strict=True):
                note[name] = row[min(n, len(row) - 1)]
        actions = samples[np.arange(len(samples)), chosen]
        if not flow:
            ids = sampled.lines[-1].cpu().numpy()
            self._actions_from_tokens(actions, ids, observations, known, noise, notes, told)
        if not np.isfinite(actions).all():
            raise ValueError("The model produced NaN or infinite actions, so none is sent; its weights are damaged.")
        return actions, known, notes

    def _read(
        self, sampled: Sampled, levels: Sequence[str], known: list[dict[str, str]]
    ) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:  # fmt: skip
        """The text of each row with what was written, and the levels that were not finished in time."""
        texts, notes = [dict(text) for text in known], [{} for _ in known]
        if levels and sampled.finished is None:
            raise ValueError(f"The model wrote no text although it was asked for {levels[0]!r}; set think=().")
        finished = None if sampled.finished is None else sampled.finished.cpu().numpy()
        for n, level in enumerate(levels):
            for row, ids in enumerate(sampled.lines[n].cpu().numpy()):
                if finished is not None and not finished[row, n]:
                    notes[row].setdefault("unfinished", []).append(level)
                else:
                    texts[row][level] = self.processor.parse_text(ids, level).get(level, "")
        return texts, notes

    def _marks(self, text: dict[str, str]) -> dict[str, Any]:
        marks = self.processor.marks(text, self._index)
        return {"marks": marks} if marks else {}

    def _actions_from_tokens(
        self,
        actions: np.ndarray,
        ids: np.ndarray,
        observations: list[Observation],
        known: list[dict[str, str]],
        noise: torch.Tensor,
        notes: list[dict[str, Any]],
        told: dict[str, torch.Tensor],
    ) -> None:
        """Fill `actions` [B, T, A] with what the action lines say; where they say nothing, with the flow's."""
        bad = []
        for row, line in enumerate(ids):
            decoded = self.processor.decode_actions(line, self._index)
            if decoded is None:
                bad.append(row)
                notes[row]["malformed"] = True
            else:
                actions[row] = decoded
        if bad:
            self.malformed += len(bad)
            group, texts = [observations[i] for i in bad], [known[i] for i in bad]
            begin = {name: values[bad] for name, values in told.items()}
            actions[bad], _, _ = self._sample(group, texts, noise[bad], (), None, begin)

    def _told(self, sessions: Sequence[Session | None]) -> dict[str, torch.Tensor]:
        """What the model is told of each robot's past: progress, where it has a token for it, and the head that acted
        last, where its routing has hysteresis."""
        told = {}
        if getattr(self.model.config, "progress_token", False):
            now = [s.progress_now() if s is not None else 0.0 for s in sessions]
            told["progress"] = torch.tensor(now, dtype=torch.float32)[:, None]
        if getattr(self.model.config, "hysteresis", 0):
            before = [s.history[-1].extras.get("head", -1) if s is not None and s.history else -1 for s in sessions]
            told["head"] = torch.tensor(before)
        return told

    def _noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """[B, N, T, A], each row from its own generator, drawn on the CPU so that devices agree."""
        shape = (1, self.processor.config.horizon, self.processor.config.action_width)
        rows = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            rows.append(torch.cat([torch.randn(shape, generator=generator) for _ in range(self.num_samples)]))
        return torch.stack(rows).to(self.device)

    def _guidance(
        self, requests: Sequence[ChunkRequest | None], observations: Sequence[Observation]
    ) -> Guidance | None:
        """What ties the chunks to those that run, in the model's units; all of `requests` are None, or none is."""
        asked = [request for request in requests if request is not None]
        if not asked:
            return None
        kind, horizon, index = asked[0].guidance, self.processor.config.horizon, self._index
        if kind not in self.guidance:
            raise ValueError(
                f"The policy was asked for {kind!r} guidance, but it has {', '.join(self.guidance) or 'none'}; choose "
                f"an executor without it."
            )
        if kind == "prefix" and not getattr(self.model.config, "prefix_delay", 0) and not self._warned:
            self._warned = True
            logger.warning("The model was not trained with given actions (prefix_delay is 0); they may confuse it.")
        width = self.embodiment.action_dim
        target = torch.zeros(len(asked), horizon, self.processor.config.action_width)
        weights = torch.zeros_like(target)
        for row, (request, observation) in enumerate(zip(asked, observations, strict=True)):
            planned = min(len(request.previous), horizon)
            normalised = self.processor.model_actions(request.previous[:planned], observation.state, index)
            target[row, :planned] = torch.from_numpy(normalised)
            delay = min(request.delay, planned)
            overlap = delay if kind == "prefix" else planned
            weights[row, :, :width] = prefix_weights(delay, overlap, horizon)[:, None]
        return Guidance(target=target.to(self.device), weights=weights.to(self.device), kind=kind)

    def _reusable(self, session: Session | None) -> bool:
        """Whether the session's text is fresh enough to act on once more."""
        if not self.think or session is None or not session.text:
            return False
        return session.calls - session.text_call < self.think_every


def load_policy(
    path: Path | str,
    *,
    embodiment: Embodiment | None = None,
    think: Sequence[str] | None = None,
    device: str = "cpu",
    precision: Literal["float32", "file"] = "float32",
    **settings: Any,
) -> Policy:
    """The policy in a checkpoint folder.

    Args:
        think: levels that it writes before it acts; None keeps what the checkpoint says.
        precision: of the weights; "file" keeps the types they were saved with, e.g. those of a converted DM0.
        settings: other options of Policy, in place of the checkpoint's, e.g. actions_from="tokens", and the model's own
            (`ModelSpec.sampling_fields`), e.g. routing="soft".
        embodiment: the robot that will be driven, one of the checkpoint's; refused when it means other numbers.

    Raises:
        FileNotFoundError: the folder or a file of it is missing. ValueError: a file is damaged, the weights do not
        fit the configuration, the embodiment differs, or a setting is unknown.
    """
    from visuomotor.models import config_from_json, find_spec, make_model, read_checkpoint

    path = Path(path)
    missing = [name for name in FILES if not (path / name).exists()]
    if missing:
        raise FileNotFoundError(
            f"{path} is not a whole checkpoint: {', '.join(missing)} missing. Copy the folder again, or name the "
            f"folder that holds config.json."
        )
    config = read_json(path / "config.json")
    provenance = read_json(path / "provenance.json")
    processor = Processor.load(path)
    robot = Embodiment.load(path / "embodiment.json")
    if embodiment is not None:
        meant = [known for known in processor.embodiments if not known.differences(embodiment)]
        if not meant:
            embodiment.require_compatible(robot, this="The robot", that=f"checkpoint {path}")
        robot = meant[0]
    try:
        kind, dimensions = config_from_json(config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path / 'config.json'} does not describe a model of this version: {error}") from error
    known = (*SETTINGS, *find_spec(kind).sampling_fields)
    for name in settings:
        if name not in known:
            raise ValueError(f"A policy has no setting {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    own = {name: value for name, value in settings.items() if name not in SETTINGS}
    model = make_model(kind, update(dimensions, own))
    tensors = read_checkpoint(path)
    if precision == "file":
        take_types(model, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"The weights in {path} do not fit its config.json: {error}") from error
    chosen = {**config.get("policy", {}), **{name: value for name, value in settings.items() if name not in own}}
    chosen |= {} if think is None else {"think": tuple(think)}
    policy = Policy(model.to(device), processor, robot, provenance, **chosen)
    policy.path = path
    return policy
