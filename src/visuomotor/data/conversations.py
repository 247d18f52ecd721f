"""Conversations on images in LLaVA's JSON: vision-language data as the field exchanges it.

    [{"id": "7", "image": "7.png", "conversations": [{"from": "human", "value": "<image>\nWhat colour is the cup?"},
                                                     {"from": "gpt", "value": "red"}]}, ...]

The same records may stand one per line (.jsonl). `image` is a path, a list of paths (the views, in the model's order),
or absent. A `kind` beside it names the question in evaluations.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from visuomotor.atomic import whole_folder
from visuomotor.locks import FolderLock

__all__ = ["Conversation", "Conversations", "write_conversations"]

MARKER = re.compile(r"\s*<image>\s*")
ROLES = ("human", "gpt")


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """images uint8[h, w, 3], one per view; turns (question, answer) on them, each one line without `<image>`."""

    turns: tuple[tuple[str, str], ...]
    images: tuple[np.ndarray, ...] = ()
    kind: str = ""


class Conversations:
    """A conversation file, read-only, with the attributes that loaders draw from.

    A row is a record. Records on the same images are one episode, so that no image is in training and held out.
    Opening parses the file; a record that is wrong raises ValueError when it is asked for, and `place` says where.
    """

    embodiment = None  # belongs to no robot
    columns: ClassVar[dict[str, np.ndarray]] = {}

    def __init__(self, path: Path | str, images: Path | str | None = None) -> None:
        """`images`: the folder that image paths are relative to, by default the file's own."""
        self.root = Path(path)
        self._folder = Path(images) if images is not None else self.root.parent
        records = list(_records(self.root))
        if not records:
            raise ValueError(f"{self.root} holds no conversations; give a JSON list of records, or remove the source.")
        episodes = _by_image(records)
        self._records = [entry for episode in episodes for entry in episode]
        self._starts = np.cumsum([0, *(len(episode) for episode in episodes)])

    @property
    def num_episodes(self) -> int:
        return len(self._starts) - 1

    @property
    def num_frames(self) -> int:
        return len(self._records)

    def episode_slice(self, episode: int) -> slice:
        """Rows of the records on the same images."""
        return slice(int(self._starts[episode]), int(self._starts[episode + 1]))

    def image_count(self, row: int) -> int:
        """How many images a record names, -1 where something is wrong with it."""
        try:
            self.turns(row)
            return len(self._paths(row))
        except ValueError:
            return -1

    def place(self, row: int) -> str:
        """How errors name a row."""
        number, record = self._records[row]
        name = f" (id {record['id']!r})" if isinstance(record, dict) and "id" in record else ""
        return f"record {number}{name} of {self.root}"

    def record(self, row: int) -> Conversation:
        """The conversation with its images; ValueError when something is wrong with it."""
        turns = self.turns(row)
        images = tuple(_image(self._folder / path) for path in self._paths(row))
        return Conversation(turns=turns, images=images, kind=str(self._records[row][1].get("kind", "")))

    def turns(self, row: int) -> tuple[tuple[str, str], ...]:
        """(question, answer) of a record, in order; ValueError when something is wrong with them."""
        record = self._records[row][1]
        if isinstance(record, ValueError):
            raise ValueError(f"it is not JSON (cut off?): {record}. Repair or remove it.")
        said = record.get("conversations") if isinstance(record, dict) else None
        if not isinstance(said, list) or not said or not all(isinstance(s, dict) for s in said):
            raise ValueError("it has no list 'conversations' of {'from', 'value'}.")
        roles = [s.get("from") for s in said]
        if roles != [ROLES[i % 2] for i in range(len(said))] or len(said) % 2:
            raise ValueError(f"its turns are from {roles}; human and gpt must alternate, human first and gpt last.")
        values = [s.get("value") for s in said]
        if not all(isinstance(v, str) for v in values):
            raise ValueError("a 'value' in it is no text.")
        markers, images = sum(v.count("<image>") for v in values), len(self._paths(row))
        if markers > images:
            raise ValueError(f"its text has {markers} <image> but it names {images} images.")
        lines = [" ".join(MARKER.sub(" ", v).split()) for v in values]
        if not all(lines):
            empty = lines.index("")
            raise ValueError(f"turn {empty + 1} (from {roles[empty]}) is empty.")
        return tuple(zip(lines[::2], lines[1::2], strict=True))

    def texts(self, rows: Sequence[int]) -> Iterator[str]:
        """What is said in the rows, for training a tokenizer; records that are wrong are passed over."""
        for row in rows:
            try:
                turns = self.turns(row)
            except ValueError:  # reported when it is drawn
                continue
            yield from (line for turn in turns for line in turn)

    def hash(self) -> str:
        """sha256 over the file's contents and the images' names and sizes."""
        digest = hashlib.sha256(self.root.read_bytes())
        for name in sorted({p for _, record in self._records for p in _images_of(record)}):
            path = self._folder / name
            digest.update(f"{name}\0{path.stat().st_size if path.exists() else -1}\0".encode())
        return digest.hexdigest()

    def _paths(self, row: int) -> tuple[str, ...]:
        record = self._records[row][1]
        paths = _images_of(record)
        if not paths and record.get("image") not in (None, "", []):
            raise ValueError(f"its image is {record['image']!r}; give a path or a list of paths.")
        return paths


def _image(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError(f"its image {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"its image {path} cannot be read: {error}.") from error


def write_conversations(
    conversations: Iterator[Conversation],
    folder: Path,
    name: str = "conversations.json",
    *,
    break_lock: bool = False,
) -> Path:
    """Write conversations.json and the images as PNG; consecutive conversations on the same array share a file.

    Raises FileExistsError when the folder holds something, FolderInUse when another process or thread writes it (see
    `FolderLock`, also for `break_lock`).
    """
    with FolderLock(folder, beside=True, break_lock=break_lock):
        if folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"{folder} exists and is not empty; choose another --out.")
        with whole_folder(folder) as partial:
            (partial / "images").mkdir()
            records = _write_images(conversations, partial)
            (partial / name).write_text(json.dumps(records, indent=1) + "\n")
    return folder / name


def _write_images(conversations: Iterator[Conversation], folder: Path) -> list[dict[str, Any]]:
    """Write the images as PNG; returns the records."""
    records: list[dict[str, Any]] = []
    files: dict[int, str] = {}
    last: tuple[np.ndarray, ...] = ()  # kept, so that an id is not used again
    for conversation in conversations:
        if [id(i) for i in conversation.images] != [id(i) for i in last]:
            files, last = {}, conversation.images
            for view, image in enumerate(last):
                files[id(image)] = f"images/{len(records):06d}" + (f"-{view}" if view else "") + ".png"
                Image.fromarray(image).save(folder / files[id(image)])
        records.append(_record(str(len(records)), conversation, [files[id(i)] for i in conversation.images]))
    return records


def _record(name: str, conversation: Conversation, files: list[str]) -> dict[str, Any]:
    said = []
    for turn, (question, answer) in enumerate(conversation.turns):
        marker = "<image>\n" * len(files) if turn == 0 else ""
        said += [{"from": "human", "value": marker + question}, {"from": "gpt", "value": answer}]
    image = {"image": files[0] if len(files) == 1 else files} if files else {}
    kind = {"kind": conversation.kind} if conversation.kind else {}
    return {"id": name, **image, **kind, "conversations": said}


def _by_image(records: list[tuple[int, Any]]) -> list[list[tuple[int, Any]]]:
    """Records that share an image, directly or through others, are one episode; in order of their first record."""
    first: dict[str, int] = {}  # image -> an episode that has it
    parent: list[int] = []

    def root(episode: int) -> int:
        while parent[episode] != episode:
            episode = parent[episode]
        return episode

    for number, (_, record) in enumerate(records):
        parent.append(number)
        for image in map(os.path.normpath, _images_of(record)):
            joined, own = root(first.setdefault(image, number)), root(number)
            parent[max(own, joined)] = min(own, joined)
    episodes: dict[int, list[tuple[int, Any]]] = {}
    for number, entry in enumerate(records):
        episodes.setdefault(root(number), []).append(entry)
    return list(episodes.values())


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(number from 1, record); a line of a .jsonl that is not JSON is its error."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise FileNotFoundError(f"{path} cannot be read ({error.strerror}); name a LLaVA .json or .jsonl.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from error
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield number, _parsed(line)
        return
    records = _parsed(text)
    if isinstance(records, ValueError):
        raise ValueError(f"{path} is not JSON (cut off?): {records}. Write it again, or use .jsonl.") from records
    if not isinstance(records, list):
        raise ValueError(f"{path} holds a {type(records).__name__}, not a list of conversations.")
    yield from enumerate(records, 1)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return error


def _images_of(record: Any) -> tuple[str, ...]:
    """The image paths of a record, () where there are none or they are malformed."""
    image = record.get("image") if isinstance(record, dict) else None
    paths = [image] if isinstance(image, str) else image
    return tuple(paths) if isinstance(paths, list) and all(isinstance(p, str) and p for p in paths) else ()
