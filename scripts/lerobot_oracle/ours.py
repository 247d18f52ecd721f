"""Our half of the oracle, run in this project's environment: `ours.py write FOLDER`, then `ours.py read FOLDER`.

write: three data sets (h264, AV1, image) and truth.npz, what lerobot must find in them.
read: compares the data sets that check.py wrote with lerobot, against the truth that it saved beside them.
"""

import sys
from pathlib import Path

import numpy as np

from visuomotor.contract import Annotation, Camera, Component, Embodiment, Episode
from visuomotor.data.lerobot import Dataset, DatasetWriter

SIDE, FPS = 64, 10
STORAGE = {"h264": ("video", "h264"), "av1": ("video", "av1"), "image": ("image", "h264")}
PIXEL_TOLERANCE = 6.0  # mean absolute difference of a frame after lossy coding, in 255ths


def embodiment() -> Embodiment:
    cameras = tuple(Camera(name=n, role=n, height=SIDE, width=SIDE) for n in ("scene", "wrist"))
    arm = Component(name="arm", dims=("x", "y", "z"), kind="position", unit="m")
    wheel = Component(name="wheel", dims=("speed",), kind="velocity", unit="m/s")
    return Embodiment(name="oracle", control_hz=FPS, cameras=cameras, state=(arm,), action=(arm, wheel))


def episode(index: int) -> Episode:
    """Moving gradients whose brightness tells the frame number, so that a wrong frame is noticed."""
    rng = np.random.default_rng(index)
    length = 15 + 3 * index
    ramp = np.linspace(0, 120, SIDE)
    images = np.zeros((length, SIDE, SIDE, 3))
    for t in range(length):
        images[t] = (ramp[:, None] + np.roll(ramp, 2 * t)[None, :])[..., None] / 2 + np.array([6 * t, 120, 40 * index])
    frames = images.clip(0, 255).astype(np.uint8)
    annotations = tuple(
        Annotation(
            subtask=f"part {t // 5}", boxes={"scene": {"cube": (1, 2, 3, t)}}, point={"scene": (10 * t, 20 * t)},
            progress=t / length, gripper_switch=t == 7, contact=t > 7,
        )
        for t in range(length)
    )  # fmt: skip
    return Episode(
        instruction=f"task {index % 2}",
        state=rng.normal(size=(length, 3)).astype(np.float32),
        actions=rng.normal(size=(length, 4)).astype(np.float32),
        images={"scene": frames, "wrist": frames[:, ::-1].copy()},
        annotations=annotations,
        info={"seed": index},
    )


def write(folder: Path) -> None:
    episodes = [episode(i) for i in range(4)]
    for name, (storage, codec) in STORAGE.items():
        with DatasetWriter(folder / f"ours_{name}", embodiment(), fps=FPS, storage=storage, codec=codec) as writer:  # type: ignore[arg-type]
            for one in episodes:
                writer.add(one)
    dataset = Dataset(folder / "ours_h264")
    truth: dict[str, np.ndarray] = {f"column/{k}": v for k, v in dataset.columns.items()}
    truth["state"] = np.concatenate([e.state for e in episodes])
    truth["action"] = np.concatenate([e.actions for e in episodes])
    truth["task"] = np.array([e.instruction for e in episodes for _ in e.actions])
    truth["subtask"] = np.array([a.subtask for e in episodes for a in e.annotations])
    rows = np.arange(dataset.num_frames)
    for camera in ("scene", "wrist"):
        truth[f"original/{camera}"] = np.concatenate([e.images[camera] for e in episodes])
        for name in STORAGE:
            truth[f"decoded/{name}/{camera}"] = Dataset(folder / f"ours_{name}").frames(camera, rows)
    np.savez(folder / "truth.npz", **truth)  # type: ignore[arg-type]
    print(f"we wrote {', '.join('ours_' + n for n in STORAGE)}: {len(episodes)} episodes, {len(rows)} frames each")


def read(folder: Path) -> None:
    for name in STORAGE:
        dataset = Dataset(folder / f"theirs_{name}")
        truth = np.load(folder / "theirs.npz")
        rows = np.arange(dataset.num_frames)
        assert len(rows) == len(truth["state"]), (len(rows), len(truth["state"]))
        np.testing.assert_array_equal(dataset.columns["observation.state"], truth["state"])
        np.testing.assert_array_equal(dataset.columns["action"], truth["action"])
        np.testing.assert_array_equal(dataset.columns["speed"], truth["speed"])
        assert dataset.instructions(rows) == truth["task"].tolist()
        assert not dataset.check()
        assert not any(dataset.mismatches().values()), dataset.mismatches()
        for camera in ("scene", "wrist"):
            shuffled = np.random.default_rng(0).permutation(rows)
            frames = dataset.frames(camera, shuffled).astype(float)
            error = np.abs(frames - truth[f"original/{camera}"][shuffled]).mean((1, 2, 3))
            assert error.max() <= (0 if name == "image" else PIXEL_TOLERANCE), (name, camera, error.max())
            print(f"we read theirs_{name} {camera}: {len(rows)} frames, mean pixel difference {error.mean():.2f}")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
