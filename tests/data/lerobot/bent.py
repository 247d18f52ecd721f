"""Writes LeRobot v3.0 sets by hand (numpy, pyarrow, PyAV), so that a test can bend one thing at a time.

Every picture carries its number, which `picture_numbers` reads. By default row k shows picture k.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data.lerobot import DataError, Dataset
from visuomotor.data.lerobot.mismatch import Mismatch
from visuomotor.data.lerobot.video import ordinary_scheduling

FPS = 10.0
SIDE, CELLS = 32, 4  # 16 cells of 8 pixels, a bit of the picture's number each
TICKS = 90_000  # of a second, for videos with times of their own
PLAIN = {"crf": "20", "g": "2", "bf": "0", "preset": "ultrafast"}


def picture(number: int) -> np.ndarray:
    """uint8[SIDE, SIDE]."""
    bits = np.array([(number >> bit) & 1 for bit in range(CELLS * CELLS)], np.uint8).reshape(CELLS, CELLS)
    return np.kron(bits * 190 + 30, np.ones((SIDE // CELLS,) * 2, np.uint8))


def picture_numbers(images: np.ndarray) -> list[int]:
    """Numbers of pictures uint8[n, SIDE, SIDE, 3]."""
    half = SIDE // CELLS // 2
    on = images[:, half :: 2 * half, half :: 2 * half].mean(3) > 125
    return (on.reshape(len(images), -1) << np.arange(CELLS * CELLS)).sum(1).tolist()


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video that shows the pictures `numbers`, at `seconds` or, without them, one each 1 / `rate`."""

    numbers: Sequence[int]
    seconds: Sequence[float] | None = None
    rate: float = FPS
    codec: str = "libx264"
    options: Mapping[str, str] = field(default_factory=lambda: PLAIN)
    container: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Videos of a camera, and by episode: the file, from_timestamp and to_timestamp (None: nominal, in one file)."""

    clips: Sequence[Clip]
    files: Sequence[int | None] | None = None
    begin: Sequence[float | None] | None = None
    end: Sequence[float | None] | None = None


def encode(path: Path, clip: Clip) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with ordinary_scheduling(), av.open(str(path), "w", options=dict(clip.container)) as container:
        rate = Fraction(clip.rate).limit_denominator(1001)
        stream = container.add_stream(clip.codec, rate=rate, options=dict(clip.options))
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        if clip.seconds is not None:
            stream.codec_context.time_base = Fraction(1, TICKS)
        for place, number in enumerate(clip.numbers):
            frame = av.VideoFrame.from_ndarray(picture(number), format="gray")
            if clip.seconds is not None:
                frame.pts, frame.time_base = round(clip.seconds[place] * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write(
    root: Path,
    lengths: Sequence[int],
    cameras: Mapping[str, Placed] | Placed | None = None,
    *,
    stamps: np.ndarray | None = None,
    numbers: np.ndarray | None = None,
    fps: float = FPS,
    video_path: str = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
) -> Path:
    """A data set of these episodes. `stamps`: float[rows] (default frame_index / fps); `numbers`: frame_index."""
    counted = np.concatenate([np.arange(n) for n in lengths])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if not isinstance(cameras, Mapping):
        cameras = {"front": cameras or Placed(clips=[Clip(numbers=range(starts[-1]), rate=fps)])}
    numbers = counted if numbers is None else numbers
    episodes = np.arange(len(lengths))
    columns = {
        "timestamp": pa.array(np.asarray(numbers / fps if stamps is None else stamps, np.float32)),
        "frame_index": pa.array(numbers),
        "episode_index": pa.array(np.repeat(episodes, lengths)),
        "index": pa.array(np.arange(starts[-1])),
        "task_index": pa.array(np.zeros(starts[-1], np.int64)),
    }
    features = {k: {"dtype": str(v.type).replace("float", "float32"), "shape": [1]} for k, v in columns.items()}
    table = {
        "episode_index": episodes.tolist(),
        "tasks": [["move"]] * len(lengths),
        "length": list(lengths),
        "data/chunk_index": [0] * len(lengths),
        "data/file_index": [0] * len(lengths),
    }
    for camera, placed in cameras.items():
        key = f"observation.images.{camera}"
        features[key] = {"dtype": "video", "shape": [SIDE, SIDE, 3]}
        for file, clip in enumerate(placed.clips):
            encode(root / video_path.format(video_key=key, chunk_index=0, file_index=file), clip)
        table[f"videos/{key}/chunk_index"] = [0] * len(lengths)
        table[f"videos/{key}/file_index"] = list(placed.files or [0] * len(lengths))
        table[f"videos/{key}/from_timestamp"] = list(
            (starts[:-1] / fps).tolist() if placed.begin is None else placed.begin
        )
        table[f"videos/{key}/to_timestamp"] = list((starts[1:] / fps).tolist() if placed.end is None else placed.end)
    for name, content in (("data/chunk-000", columns), ("meta/episodes/chunk-000", table)):
        (root / name).mkdir(parents=True)
        pq.write_table(pa.table(content), root / name / "file-000.parquet")
    info = {
        "codebase_version": "v3.0",
        "total_episodes": len(lengths),
        "total_frames": int(starts[-1]),
        "fps": fps,
        "video_path": video_path,
        "features": features,
    }
    (root / "meta/info.json").write_text(json.dumps(info))
    return root


def pictures_of_rows(dataset: Dataset, camera: str = "front") -> tuple[list[int | None], dict[int, DataError]]:
    """(number of the picture of each row, None where it has none, {row: error}); all rows at once if possible."""
    rows = np.arange(dataset.num_frames)
    errors: dict[int, DataError] = {}
    try:
        return list(picture_numbers(dataset.frames(camera, rows))), errors
    except DataError:
        numbers: list[int | None] = []
        for row in rows.tolist():
            try:
                numbers += picture_numbers(dataset.frames(camera, np.array([row])))
            except DataError as error:
                errors[row] = error
                numbers.append(None)
        return numbers, errors


def has_picture(dataset: Dataset, camera: str = "front") -> list[bool]:
    """True for a row that shows its own picture, False for one that is refused; never another picture."""
    numbers, errors = pictures_of_rows(dataset, camera)
    assert all(error.row == row for row, error in errors.items())
    assert all(number in (row, None) for row, number in enumerate(numbers)), numbers
    return [number is not None for number in numbers]


def finding(dataset: Dataset, camera: str = "front") -> Mismatch:
    """The one finding about a camera."""
    (mismatch,) = dataset.mismatches()[camera]
    return mismatch


def refusal(dataset: Dataset, camera: str = "front") -> str:
    """The error of a set whose rows are all refused alike."""
    assert not any(has_picture(dataset, camera))
    messages = {error.message for error in pictures_of_rows(dataset, camera)[1].values()}
    assert len(messages) == 1
    mismatch = finding(dataset, camera)
    assert mismatch.severity == "error"
    assert messages == {f"{mismatch.message} {mismatch.remedy}"}
    return messages.pop()


def frames(*lengths: int) -> np.ndarray:
    """frame_index of episodes of these lengths."""
    return np.concatenate([np.arange(length) for length in lengths])


def without(numbers: Sequence[int], missing_rows: Sequence[int]) -> list[int]:
    return [number for number in numbers if number not in missing_rows]
