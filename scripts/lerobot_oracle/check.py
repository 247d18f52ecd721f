"""The oracle's half, run where lerobot 0.4.4 is installed: `check.py FOLDER` after `ours.py write FOLDER`.

Reads our data sets with lerobot and compares every frame; then writes data sets with lerobot for `ours.py read`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

_library = torch.library.Library("torchvision", "DEF")  # torchvision's CPU wheel lacks its operators
_library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

FPS, SIDE = 10, 64
NAMES = ("h264", "av1", "image")
STATISTICS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}
PIXEL_TOLERANCE = 6.0


def check_ours(folder: Path, name: str) -> None:
    truth = np.load(folder / "truth.npz")
    horizon = {"action": [i / FPS for i in range(4)]}
    dataset = LeRobotDataset("local/ours", root=folder / f"ours_{name}", delta_timestamps=horizon)
    assert len(dataset) == len(truth["state"]), len(dataset)
    worst_same, worst_original = 0.0, 0.0
    for row in range(len(dataset)):
        item = dataset[row]
        np.testing.assert_array_equal(item["observation.state"].numpy(), truth["state"][row])
        np.testing.assert_array_equal(item["action"][0].numpy(), truth["action"][row])
        assert item["task"] == truth["task"][row]
        assert item["annotation.subtask"] == truth["subtask"][row]
        for key in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
            assert item[key].item() == truth[f"column/{key}"][row], (key, row)
        for key in ("annotation.progress", "annotation.gripper_switch", "annotation.contact"):
            assert item[key].item() == truth[f"column/{key}"][row], (key, row)
        for camera in ("scene", "wrist"):
            image = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0) * 255
            same = np.abs(image - truth[f"decoded/{name}/{camera}"][row]).mean()
            worst_same = max(worst_same, float(same))
            worst_original = max(worst_original, float(np.abs(image - truth[f"original/{camera}"][row]).mean()))
    assert worst_same < 1.0, f"{name}: lerobot and we decode a frame differently by {worst_same:.2f}"
    assert worst_original < (1e-3 if name == "image" else PIXEL_TOLERANCE), worst_original
    for key in ("observation.state", "action", "observation.images.scene", "annotation.progress"):
        assert set(dataset.meta.stats[key]) >= STATISTICS, (key, dataset.meta.stats[key].keys())
    exact = np.quantile(truth["action"], 0.01, axis=0)
    np.testing.assert_allclose(dataset.meta.stats["action"]["q01"], exact, rtol=1e-6)
    assert dataset.meta.stats["observation.images.scene"]["mean"].shape == (3, 1, 1)
    print(
        f"lerobot read ours_{name}: {len(dataset)} frames, numbers equal, worst mean pixel difference "
        f"{worst_same:.2f} to our decoding, {worst_original:.2f} to the original"
    )


def write_theirs(folder: Path) -> None:
    rng = np.random.default_rng(1)
    truth: dict[str, list] = {k: [] for k in ("state", "action", "speed", "task", "original/scene", "original/wrist")}
    lengths = (14, 19, 11)
    original = np.load(folder / "truth.npz")
    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (4,), "names": None},
        "speed": {"dtype": "float32", "shape": (1,), "names": None},
    }
    for name in NAMES:
        storage = "image" if name == "image" else "video"
        image = {"dtype": storage, "shape": (SIDE, SIDE, 3), "names": ["height", "width", "channels"]}
        cameras = {f"observation.images.{c}": image for c in ("scene", "wrist")}
        options = {"vcodec": "h264"} if name == "h264" else {}
        dataset = LeRobotDataset.create(
            "local/theirs", FPS, root=folder / f"theirs_{name}", features=features | cameras,
            use_videos=storage == "video", **options,
        )  # fmt: skip
        for episode, length in enumerate(lengths):
            for t in range(length):
                at = 20 * episode + t
                frame = {
                    "observation.state": rng.normal(size=3).astype(np.float32),
                    "action": rng.normal(size=4).astype(np.float32),
                    "speed": rng.normal(size=1).astype(np.float32),
                    "task": f"job {episode % 2}",
                } | {f"observation.images.{c}": original[f"original/{c}"][at] for c in ("scene", "wrist")}
                dataset.add_frame(dict(frame))
                if name == NAMES[0]:
                    truth["state"].append(frame["observation.state"])
                    truth["action"].append(frame["action"])
                    truth["speed"].append(frame["speed"][0])
                    truth["task"].append(frame["task"])
                    for camera in ("scene", "wrist"):
                        truth[f"original/{camera}"].append(frame[f"observation.images.{camera}"])
            dataset.save_episode()
        dataset.finalize()
        rng = np.random.default_rng(1)
    np.savez(folder / "theirs.npz", **{k: np.array(v) for k, v in truth.items()})
    info = json.loads((folder / "theirs_h264" / "meta" / "info.json").read_text())
    print(f"lerobot wrote {', '.join('theirs_' + n for n in NAMES)}: {info['total_frames']} frames each")


if __name__ == "__main__":
    work = Path(sys.argv[1])
    for each in NAMES:
        check_ours(work, each)
    write_theirs(work)
