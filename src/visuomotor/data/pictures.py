"""Findings about pictures: videos that do not fit their rows, and pictures that are missing, flat or frozen."""

import numpy as np

from visuomotor.data.conventions import Finding
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot.mismatch import Mismatch, listing

__all__ = ["check_pictures"]


def check_pictures(dataset: EpisodeSource) -> list[Finding]:
    """Mismatches between videos and rows, and faults of three pictures of each episode that has any."""
    found, examined = [], dataset.mismatches()
    for camera in dataset.cameras:
        mismatches = examined.get(camera, [])
        found += [_misplaced(camera, mismatch) for mismatch in mismatches]
        refused = {e for mismatch in mismatches if mismatch.severity == "error" for e in mismatch.episodes}
        found += _samples(dataset, camera, refused)
    return found


def _misplaced(camera: str, mismatch: Mismatch) -> Finding:
    return Finding(
        severity=mismatch.severity,
        what=mismatch.summary,
        where=f"camera {camera!r}, {mismatch.path}, {listing(mismatch.episodes)}",
        remedy=mismatch.remedy,
    )


def _samples(dataset: EpisodeSource, camera: str, refused: set[int]) -> list[Finding]:
    """Faults of the first, middle and last picture of each episode, without those that are `refused` already."""
    blank, frozen, looked, errors = 0, 0, 0, dict[str, list[tuple[int, str]]]()
    for episode in range(dataset.num_episodes):
        rows = dataset.episode_slice(episode)
        if rows.start == rows.stop or episode in refused:
            continue
        wanted = np.unique([rows.start, (rows.start + rows.stop - 1) // 2, rows.stop - 1])
        try:
            images = dataset.frames(camera, wanted).astype(np.int16)
        except (ValueError, OSError) as error:  # a DataError names its file, errors of other formats need not
            place, message = getattr(error, "path", dataset.root), getattr(error, "message", str(error))
            errors.setdefault(str(place), []).append((episode, message))
            continue
        looked += 1
        blank += bool(np.ptp(images) <= 2)
        frozen += bool(len(wanted) > 1 and np.ptp(images) > 2 and np.abs(images - images[0]).max() <= 2)
    found = [_undecodable(camera, path, errors_of_file) for path, errors_of_file in errors.items()]
    for count, what in (
        (blank, "pictures are one flat colour"),
        (frozen, "the first, middle and last picture are the same: the camera stood still in time"),
    ):
        if count and count >= 0.5 * looked:
            found.append(
                Finding(
                    severity="warning",
                    what=f"{what} in {count} of {looked} episodes",
                    where=f"camera {camera!r}",
                    remedy="Look at it (visuomotor data view); leave the camera out of embodiment.json if it "
                    "carries nothing.",
                )
            )
    return found


def _undecodable(camera: str, path: str, errors: list[tuple[int, str]]) -> Finding:
    episode, message = errors[0]
    return Finding(
        severity="error",
        what=f"pictures of {len(errors)} episodes cannot be had; the first error: {message}",
        where=f"camera {camera!r}, {path}, episode {episode}",
        remedy="Copy the file again from where the data came from, or record these episodes again; to train around "
        "them: --bad-samples quarantine.",
    )
