"""Where a robot's cameras, state and instruction lie in a client's message.

A key is looked up as it is ("observation/image"), else as a path into nested maps ("images/cam_high").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from visuomotor_client import images

from visuomotor.contract import Observation
from visuomotor.embodiment import Camera, Embodiment

__all__ = ["LAYOUTS", "ObservationKeys", "keys_for"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The keys that the field uses for one kind of robot, with the names that our cameras may have for each."""

    cameras: dict[str, tuple[str, ...]]
    state: tuple[str, ...]
    instruction: str = "prompt"


# Names and shapes as openpi's example clients send them; "vla-eval" keys as its LIBERO benchmark does.
LAYOUTS: dict[str, Layout] = {
    "aloha": Layout(
        cameras={
            "images/cam_high": ("cam_high", "high", "scene"),
            "images/cam_low": ("cam_low", "low", "scene_2"),
            "images/cam_left_wrist": ("cam_left_wrist", "left_wrist", "left_hand", "wrist"),
            "images/cam_right_wrist": ("cam_right_wrist", "right_wrist", "right_hand", "wrist_2"),
        },
        state=("state",),
    ),
    "droid": Layout(
        cameras={
            "observation/exterior_image_1_left": ("exterior_image_1_left", "exterior", "scene"),
            "observation/wrist_image_left": ("wrist_image_left", "wrist"),
        },
        state=("observation/joint_position", "observation/gripper_position"),
    ),
    "libero": Layout(
        cameras={
            "observation/image": ("image", "agentview", "scene"),
            "observation/wrist_image": ("wrist_image", "wrist", "eye_in_hand"),
        },
        state=("observation/state",),
    ),
    "vla-eval": Layout(
        cameras={
            "images/agentview": ("agentview", "image", "scene"),
            "images/wrist": ("wrist", "wrist_image", "eye_in_hand"),
        },
        state=("state",),
        instruction="task_description",
    ),
}


@dataclass(frozen=True, kw_only=True)
class ObservationKeys:
    """Reads messages as observations of `embodiment`.

    cameras: {camera of the embodiment: key}, all of them; state: keys whose numbers follow each other in the state.
    """

    embodiment: Embodiment
    cameras: dict[str, str]
    state: tuple[str, ...]
    instruction: str

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.embodiment.cameras]
        unknown, missing = sorted(set(self.cameras) - set(names)), sorted(set(names) - set(self.cameras))
        if unknown or missing:
            raise ValueError(
                f"Keys are given for the cameras {sorted(self.cameras)} but embodiment {self.embodiment.name!r} has "
                f"{names}; give each of them a key."
            )

    def read(self, message: Any, *, instruction: str | None = None) -> Observation:
        """The observation in a message; `instruction` where it has none.

        Images may be uint8 or floats in 0-1, [h, w, 3] or [3, h, w].

        Raises:
            ValueError: something is missing, or of another type, shape or range than the embodiment says.
        """
        if not isinstance(message, Mapping):
            raise ValueError(f"An observation must be a map; {type(message).__name__} came.")
        words = _find(message, self.instruction)
        words = instruction if words is None else words
        if isinstance(words, np.ndarray) and words.ndim == 0:  # a text as an array, which openpi's server takes too
            words = words.item()
        if not isinstance(words, str):
            given = "nothing" if words is None else type(words).__name__
            raise ValueError(f"The instruction must be a text under {self.instruction!r}; {given} came.")
        pictures = {camera: _image(_need(message, key), key) for camera, key in self.cameras.items()}
        return Observation(images=pictures, state=self._state(message), instruction=str(words))

    def compressed(self, message: Any) -> bool:
        """Whether reading the message means decoding images."""
        return isinstance(message, Mapping) and any(
            isinstance(_find(message, key), Mapping) for key in self.cameras.values()
        )

    def _state(self, message: Mapping[Any, Any]) -> np.ndarray:
        wanted = self.embodiment.state_dim
        if wanted == 0:
            return np.zeros(0, np.float32)
        try:
            parts = [np.asarray(_need(message, key), dtype=np.float32).reshape(-1) for key in self.state]
        except (TypeError, ValueError) as error:
            raise ValueError(f"The state under {list(self.state)} must be numbers: {error}") from error
        state = np.concatenate(parts)
        if len(state) != wanted:
            names = [f"{c.name}.{d}" for c in self.embodiment.state for d in c.dims]
            raise ValueError(
                f"The state under {list(self.state)} has {len(state)} numbers but embodiment {self.embodiment.name!r} "
                f"has {wanted}: {names}."
            )
        if not np.isfinite(state).all():
            raise ValueError(f"The state has a number that is not finite: {state.tolist()}; check that sensor.")
        return state


def keys_for(
    embodiment: Embodiment,
    protocol: str,
    *,
    layout: str | None = None,
    cameras: Mapping[str, str] | None = None,
    state: tuple[str, ...] | None = None,
    instruction: str | None = None,
) -> ObservationKeys:
    """The keys of `embodiment` for a protocol, "openpi" or "vla-eval".

    Cameras are found by their names, then by their roles, in the `layout` (LAYOUTS; None: the one with which the
    embodiment's name begins); without one, a camera's key is "images/NAME" and the state's is "state". What is given in
    `cameras` {camera: key}, `state` and `instruction` comes before all that.

    Raises:
        ValueError: an unknown layout, or one that has no place for a camera.
    """
    given = dict(cameras or {})
    if layout is None and protocol == "openpi":
        layout = next((name for name in LAYOUTS if embodiment.name.lower().startswith(name)), None)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}; choose from {list(LAYOUTS)}.")
    base = Layout(cameras={}, state=("state",), instruction="task_description" if protocol == "vla-eval" else "prompt")
    chosen = base if layout is None else LAYOUTS[layout]
    for camera in embodiment.cameras:
        if camera.name in given:
            continue
        key = f"images/{camera.name}" if layout is None else _place(camera, chosen)
        if key is None or key in given.values():
            raise ValueError(
                f"Layout {layout!r} has no place for camera {camera.name!r} (role {camera.role!r}) of "
                f"{embodiment.name!r}: its keys are {list(chosen.cameras)}. Say which one it is, camera and key."
            )
        given[camera.name] = key
    return ObservationKeys(
        embodiment=embodiment,
        cameras={camera.name: given.pop(camera.name) for camera in embodiment.cameras} | given,
        state=state or chosen.state,
        instruction=instruction or chosen.instruction,
    )


def _place(camera: Camera, layout: Layout) -> str | None:
    for name in (camera.name, camera.role):
        for key, names in layout.cameras.items():
            if name in names:
                return key
    return None


def _find(message: Mapping[Any, Any], key: str) -> Any:
    """What lies under `key`, or None."""
    if key in message:
        return message[key]
    found: Any = message
    for part in key.split("/"):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _need(message: Mapping[Any, Any], key: str) -> Any:
    found = _find(message, key)
    if found is None:
        raise ValueError(f"The observation lacks {key!r}; it has {_keys(message)}.")
    return found


def _keys(message: Mapping[Any, Any], limit: int = 20) -> list[str]:
    """The keys of a message with those of the maps in it, as texts."""
    names = []
    for key, value in message.items():
        names += [f"{key}/{inner}" for inner in value] if isinstance(value, Mapping) else [str(key)]
    return [name[:60] for name in names[:limit]]


def _image(image: Any, key: str) -> np.ndarray:
    """uint8[h, w, 3] of an image as clients send it."""
    if isinstance(image, Mapping) and images.KEY in image:
        image = images.decode_image(dict(image))
    if not isinstance(image, np.ndarray) or image.ndim != 3 or 0 in image.shape:
        given = f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"The image under {key!r} must be an array [h, w, 3] or [3, h, w]; {given} came.")
    if image.shape[2] != 3 and image.shape[0] == 3:
        image = image.transpose(1, 2, 0)
    if image.shape[2] != 3:
        raise ValueError(f"The image under {key!r} must have three channels; its shape is {list(image.shape)}.")
    if image.dtype.kind == "f":
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            raise ValueError(f"The image under {key!r} is of floats, which must lie in 0-1; or send uint8.")
        return (image * 255).astype(np.uint8)
    if image.dtype != np.uint8:
        raise ValueError(f"The image under {key!r} is {image.dtype}; send uint8, or floats in 0-1.")
    return np.ascontiguousarray(image)
