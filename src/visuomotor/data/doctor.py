"""Look for what makes training fail in a data set: numbers, conventions, times and pictures.

    errors = [finding for finding in doctor(Dataset("my-data")) if finding.severity == "error"]

A finding has `severity`, `where`, `what` and `remedy`.

Every check looks at all frames of the tables. All packets of the videos are compared with the rows (the rules stand in
`lerobot/matching.py`); pictures are decoded at the beginning, middle and end of each episode.
"""

import numpy as np

from visuomotor.data.conventions import Finding, check_gripper, check_reference, check_scale, component_columns
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot.layout import ACTION, STATE
from visuomotor.data.lerobot.mismatch import counted
from visuomotor.data.lerobot.stamps import TOLERANCE, describe_stamps, stamp_deviation
from visuomotor.data.pictures import check_pictures

__all__ = ["Finding", "doctor"]

_TIME_TOLERANCE = 0.1  # of a frame's duration
_ORDER = {"error": 0, "warning": 1, "note": 2}


def doctor(dataset: EpisodeSource) -> list[Finding]:
    """What is wrong with a `visuomotor.data.lerobot.Dataset`, errors first; empty when nothing was found."""
    found = [*_finite(dataset), *_times(dataset), *check_pictures(dataset), *_instructions(dataset)]
    described = _description(dataset)
    found += described
    if not any(finding.severity == "error" for finding in described):
        for column in (STATE, ACTION):
            found += [*_dead(dataset, column), *check_scale(dataset, column)]
        found += [*check_gripper(dataset), *check_reference(dataset)]
    return sorted(found, key=lambda finding: _ORDER[finding.severity])


def _description(dataset: EpisodeSource) -> list[Finding]:
    """The embodiment against columns, cameras and rate."""
    robot = dataset.embodiment
    if robot is None:
        return [
            Finding(
                severity="error",
                what="there is no embodiment.json, so nobody knows what the numbers mean; scale, gripper and action "
                "convention were not checked",
                where=str(dataset.root),
                remedy=f"Draft one with: visuomotor data embodiment {dataset.root}",
            )
        ]
    found = []
    for column, width in ((STATE, robot.state_dim), (ACTION, robot.action_dim)):
        actual = dataset.columns[column].shape[1] if column in dataset.columns else 0
        if actual != width:
            found.append(
                Finding(
                    severity="error",
                    what=f"has {actual} dimensions, but embodiment {robot.name!r} describes {width}",
                    where=column,
                    remedy="Correct the components in embodiment.json, or the column.",
                )
            )
    for camera in robot.cameras:
        if camera.name not in dataset.cameras:
            found.append(
                Finding(
                    severity="error",
                    what=f"embodiment {robot.name!r} has this camera, the data has {', '.join(dataset.cameras)}",
                    where=f"camera {camera.name!r}",
                    remedy="Give the camera the name it has in the data, or remove it from embodiment.json.",
                )
            )
    if abs(robot.control_hz - dataset.fps) > 0.01 * dataset.fps:
        found.append(
            Finding(
                severity="warning",
                what=f"recorded at {dataset.fps:g} frames a second, but the embodiment is controlled at "
                f"{robot.control_hz:g} Hz: a policy would move at the wrong speed",
                where="frame rate",
                remedy="Set control_hz in embodiment.json to the recorded rate, or resample the data.",
            )
        )
    return found


def _place(dataset: EpisodeSource, row: int) -> str:
    episode = int(dataset.episode_of(row))
    return f"episode {episode} frame {row - dataset.episode_slice(episode).start}"


def _finite(dataset: EpisodeSource) -> list[Finding]:
    found = []
    for column, values in dataset.columns.items():
        if values.dtype.kind != "f":
            continue
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
        if len(bad):
            episodes = sorted({int(e) for e in dataset.episode_of(bad)})
            shown = ", ".join(map(str, episodes[:10])) + (", ..." if len(episodes) > 10 else "")
            found.append(
                Finding(
                    severity="error",
                    what=f"{len(bad)} frames hold NaN or infinity (episodes {shown}); the first is "
                    f"{values[bad[0]].tolist()}",
                    where=f"{column}, {_place(dataset, int(bad[0]))}",
                    remedy="Repair the numbers or drop these episodes; to train around them: --bad-samples quarantine.",
                )
            )
    return found


def _dead(dataset: EpisodeSource, column: str) -> list[Finding]:
    dead = []
    for component, values in component_columns(dataset, column):
        for index, dim in enumerate(component.dims):
            finite = values[np.isfinite(values[:, index]), index]
            if len(finite) > 1 and np.ptp(finite) <= 1e-6 * max(1.0, float(np.abs(finite).max())):
                dead.append(f"{component.name}.{dim} = {finite[0]:.4g}")
    if not dead:
        return []
    return [
        Finding(
            severity="warning",
            what=f"never changes: {', '.join(dead)}",
            where=column,
            remedy="Check that the sensor or command was recorded. If it is really constant, leave the dimension out.",
        )
    ]


def _times(dataset: EpisodeSource) -> list[Finding]:
    if "timestamp" not in dataset.columns:
        return []
    stamps = np.asarray(dataset.columns["timestamp"], np.float64)
    rows_of = [dataset.episode_slice(episode) for episode in range(dataset.num_episodes)]
    numbers = dataset.columns.get("frame_index", np.concatenate([np.arange(r.stop - r.start) for r in rows_of]))
    gaps, backwards, late, drifting = [], [], [], []
    for rows in rows_of:
        if rows.start == rows.stop:
            continue
        steps = np.diff(stamps[rows]) * dataset.fps
        longer, shorter = np.flatnonzero(steps > 1 + _TIME_TOLERANCE), np.flatnonzero(steps < 1 - _TIME_TOLERANCE)
        gaps += [rows.start + int(i) + 1 for i in longer]
        backwards += [rows.start + int(i) + 1 for i in shorter]
        deviation = stamp_deviation(stamps[rows], numbers[rows], dataset.fps)
        if abs(deviation[0]) > _TIME_TOLERANCE:
            late.append(rows.start)
        elif not (len(longer) or len(shorter) or np.isnan(deviation).any()) and np.abs(deviation).max() > TOLERANCE:
            drifting.append((float(np.abs(deviation).max()), rows))
    found = [_drift(dataset, stamps, numbers, drifting)] if drifting else []
    for rows, what in (
        (gaps, "the time since the frame before is longer than 1/fps: frames were dropped"),
        (backwards, "the time since the frame before is shorter than 1/fps, or runs backwards"),
        (late, "the episode does not begin at time 0"),
    ):
        if rows:
            first = rows[0]
            step = stamps[first] - stamps[first - 1] if rows is not late else stamps[first]
            found.append(
                Finding(
                    severity="error",
                    what=f"{what} ({len(rows)} times; the first is {step:.4g} s, expected "
                    f"{0 if rows is late else 1 / dataset.fps:.4g} s)",
                    where=f"timestamp, {_place(dataset, first)}",
                    remedy="Record again or split the episode there: an action window across it means another speed. "
                    "If only the stamps are wrong, set them to frame_index / fps.",
                )
            )
    return found


def _drift(
    dataset: EpisodeSource, stamps: np.ndarray, numbers: np.ndarray, drifting: list[tuple[float, slice]]
) -> Finding:
    """Stamps that move away from frame_index / fps by steps that are too small to be seen singly."""
    _, rows = max(drifting, key=lambda pair: pair[0])
    return Finding(
        severity="warning",
        what=f"{describe_stamps(stamps[rows], numbers[rows], dataset.fps)}; {counted(len(drifting), 'episode')} "
        f"of {dataset.num_episodes} drift",
        where=f"timestamp, episode {int(dataset.episode_of(rows.start))}",
        remedy="Set fps in meta/info.json to the rate of the recording if the stamps are right, or the stamps to "
        "frame_index / fps if fps is: an action window means another speed otherwise.",
    )


def _instructions(dataset: EpisodeSource) -> list[Finding]:
    slices = map(dataset.episode_slice, range(dataset.num_episodes))
    with_rows = [episode for episode, rows in enumerate(slices) if rows.stop > rows.start]
    empty = [episode for episode in with_rows if not dataset.instruction(episode).strip()]
    if not empty or dataset.info(empty[0]).get("kind") == "scenes":
        return []
    return [
        Finding(
            severity="warning",
            what=f"{len(empty)} of {dataset.num_episodes} episodes have no instruction, first episode {empty[0]}",
            where="meta/tasks.parquet",
            remedy="A policy that reads words needs a sentence an episode: write them into the tasks table.",
        )
    ]
