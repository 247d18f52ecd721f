"""What each of DAM-VLA's five switches is worth: the combinations of its Table VI, at nano size on the tabletop.

All arms start from one CogACT and go on for equal time; the heads of those with two begin as its head. Beside the
rollouts, the error on held-out demonstrations near changes of phase and elsewhere, and how well the router tells them
apart.
"""

from visuomotor.studies.engine import Arm, Study
from visuomotor.studies.near_changes import measure_near_changes

__all__ = ["DAMVLA_PARTS", "DAMVLA_SWITCHES"]


def _arm(combination: str, adds: str, published: str, against: str | None = None) -> Arm:
    arguments = {"combination": combination}
    return Arm(name=combination, adds=adds, arguments=arguments, against=against, published=published)


# Success in %: Google robot visual matching, variant aggregation, WidowX visual matching, mean of the three.
PUBLISHED = {
    "base": "64 61 50, 58",
    "vt-acw": "78 68 53, 66",
    "vt-acw-tw": "76 63 51, 63",
    "vt-acw-tw-dam": "82 72 43, 66",
    "full": "83 81 71, 78",
    "no-vt": "84 75 58, 73",
    "dam-dl": "66 64 49, 60",
}

DAMVLA_SWITCHES = Study(
    name="damvla-switches",
    question="What do visual tokens, weights by chunk and trajectory, two heads and the early latent add to CogACT?",
    recipe="damvla-nano",
    base={"combination": "base"},
    measure=measure_near_changes,
    arms=(
        _arm("base", "nothing: CogACT", PUBLISHED["base"]),
        _arm("vt-acw", "visual tokens and chunk weights", PUBLISHED["vt-acw"], "base"),
        _arm("vt-acw-tw", "trajectory weights, with one head", PUBLISHED["vt-acw-tw"], "vt-acw"),
        _arm("vt-acw-tw-dam", "two heads", PUBLISHED["vt-acw-tw-dam"], "vt-acw-tw"),
        _arm("full", "a latent of its own for the router", PUBLISHED["full"], "vt-acw-tw-dam"),
        _arm("no-vt", "all but the visual tokens", PUBLISHED["no-vt"], "full"),
        _arm("dam-dl", "two heads and the router's latent, without weights", PUBLISHED["dam-dl"], "base"),
    ),
)

DAMVLA_PARTS = Study(
    name="damvla-parts",
    question="Does DAM-VLA need both its weights and its two heads?",
    recipe="damvla-nano",
    base={"combination": "base"},
    measure=measure_near_changes,
    arms=(
        _arm("full", "both", PUBLISHED["full"]),
        _arm("vt-acw-tw", "weights without two heads", PUBLISHED["vt-acw-tw"], "full"),
        _arm("dam-dl", "two heads without weights", PUBLISHED["dam-dl"], "full"),
    ),
)
