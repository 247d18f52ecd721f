"""The page in a real browser, with the shipped policy: a typed instruction, a stop, an object that is dragged."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.apps.live.browser import CHROMIUM, Browser
from visuomotor.apps.live.page import LivePage
from visuomotor.apps.live.play import Play, PlaySettings
from visuomotor.cli.play import serve_in_background
from visuomotor.policy import load_policy
from visuomotor.simulation.interface import make_scenarios
from visuomotor.simulation.tabletop import WORLD, TabletopEnvironment

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")

ORANGE = """(() => {
    const drawn = cameras.get('scene').canvas.getContext('2d').getImageData(0, 0, 768, 768).data;
    let count = 0;
    for (let i = 0; i < drawn.length; i += 4) count += drawn[i] === 255 && drawn[i + 1] === 92 && drawn[i + 2] === 53;
    return count;
})()"""


class Open(NamedTuple):
    """A page in a browser, and the loop behind it."""

    browser: Browser
    play: Play
    environment: TabletopEnvironment


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    environment = TabletopEnvironment()
    page = LivePage(lambda command: play.command(command))
    scenes = make_scenarios("tabletop", "train", 3, 100_000)
    play = Play(
        environment,
        load_policy(WORLD.checkpoint or ""),
        lambda n: scenes[n % 3],
        page.publish,
        PlaySettings(preview=0.1, speed=10),
    )
    thread = threading.Thread(target=play.run)
    thread.start()
    try:
        address = f"http://127.0.0.1:{serve_in_background(page, 0)}/"
        with Browser(tmp_path_factory.mktemp("profile"), address) as browser:
            browser.wait("frame && cameras.size === 2 && [...cameras.values()].every(c => c.image.complete)")
            yield Open(browser, play, environment)
            assert browser.errors == []
    finally:
        play.close()
        thread.join(60)
        environment.close()


def fresh(live: Open) -> None:
    """A scene in which nothing has happened, and no stop."""
    before = live.browser.value("frame.scene")
    if live.browser.value("frame.stopped"):
        live.browser.click("#release")
        live.browser.wait("!frame.stopped")
    live.browser.click("#scene")
    live.browser.wait(f"frame.scene === {before} + 1 && frame.status === 'waiting'")


def test_a_typed_instruction_is_reasoned_about_and_carried_out(live: Open, tmp_path: Path) -> None:
    fresh(live)
    browser = live.browser
    wanted = live.environment.instruction
    assert browser.value("find('instruction').value") == wanted, "the scene's own sentence stands in the box"
    assert browser.value("find('text').textContent").startswith("Nothing yet")
    noun = live.environment.scene.objects[0].name
    browser.click("#instruction")
    browser.type(f"pick up the {noun}")
    said = browser.wait("document.querySelector('[data-level=subtask]')?.textContent")
    assert said.split()[0] in ("reach", "grasp", "lift", "move", "pick", "place", "push", "open", "close", "press")
    assert live.play.instruction == f"pick up the {noun}"
    hand = live.environment.state()[:3].copy()
    browser.wait("frame.step >= 6", 120)
    assert abs(live.environment.state()[:3] - hand).max() > 0.005
    assert browser.value("document.querySelectorAll('#curves canvas').length") == 7
    assert browser.value("frame.chunk.path.scene.length") == live.play.policy.processor.config.horizon + 1  # type: ignore[attr-defined]
    assert browser.value("parseFloat(find('latency').textContent)") > 0
    assert browser.value(ORANGE) > 20, "the chunk's path is not drawn over the picture"
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


@pytest.mark.parametrize("by_key", [False, True])
def test_a_stop_latches(live: Open, by_key: bool) -> None:
    fresh(live)
    browser = live.browser
    browser.click("#instruction")
    browser.type("pick up the red block")
    browser.wait("frame.step >= 1", 120)
    if by_key:
        browser.key("Escape", 27)
    else:
        browser.click("#stop")
    browser.wait("frame.stopped")
    steps = browser.value("frame.step")
    assert browser.value("find('stop').textContent") == "STOPPED"
    assert browser.value("find('run').disabled")
    browser.click("#instruction")
    browser.type("go on")
    browser.wait("find('message').textContent.includes('release it first') || find('run').disabled")
    time.sleep(0.5)
    assert browser.value("frame.step") == steps
    browser.click("#release")
    browser.wait("!frame.stopped && frame.status === 'waiting'")


@pytest.mark.parametrize("dragged", [True, False])
def test_an_object_is_moved_by_hand(live: Open, dragged: bool) -> None:
    fresh(live)
    browser, scene = live.browser, live.environment.scene
    x1, y1, x2, y2 = live.environment.annotate().boxes["scene"][scene.objects[0].name]
    before = scene.position(0).copy()
    left, top, width, height = browser.place("canvas.camera")

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width / 1000, top + y * height / 1000

    start, end = at((x1 + x2) / 2, (y1 + y2) / 2), at(90, 900)
    browser.mouse("mousePressed", *start)
    if dragged:
        browser.mouse("mouseMoved", *at(300, 700))
    else:
        browser.mouse("mouseReleased", *start)
        browser.mouse("mousePressed", *end)
    browser.mouse("mouseReleased", *end)
    message = browser.wait("find('message').textContent")
    assert message == f"The {scene.objects[0].name} was moved."
    assert abs(scene.position(0) - before)[:2].max() > 0.03
