"""The page beside a policy server: what is shown of its clients, and a stop that they feel."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.apps.live.browser import CHROMIUM, Browser
from tests.serving.fakes import FakePolicy, OpenpiClient, VlaEvalClient, evaluated, observation, serving
from visuomotor.apps.live.served import ServedPage
from visuomotor.contract import ActionChunk, Observation

MARKS = {"camera": "scene", "boxes": {"red cup": [100, 100, 600, 700]}, "trace": [[100, 200], [300, 400]]}


class Pointing(FakePolicy):
    """Says where things are."""

    def infer(self, observations: Sequence[Observation], *given: Any, **named: Any) -> list[ActionChunk]:
        return [replace(c, extras={"marks": MARKS}) for c in super().infer(observations, *given, **named)]


def looking(page: ServedPage) -> Any:
    return connect(page.address.replace("http", "ws") + "live")


async def until(viewer: ClientConnection, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first frame (or error) that fits."""
    async with asyncio.timeout(20):
        while True:
            frame = json.loads(await viewer.recv())
            if fits(frame):
                return frame


def address(client: OpenpiClient | VlaEvalClient) -> str:
    return ":".join(map(str, client.connection.local_address[:2]))


async def tell(viewer: ClientConnection, **command: str) -> None:
    await viewer.send(json.dumps(command))


def test_who_asked_last_is_shown_or_who_is_chosen() -> None:
    async def run() -> None:
        async with serving(Pointing()) as server, ServedPage(server.service) as page, looking(page) as viewer:
            frame = await until(viewer, lambda f: f["status"] == "serving")
            assert (frame["clients"], frame["chunk"], frame["images"]) == ([], None, {})
            one, two = await OpenpiClient.open(server), await VlaEvalClient.open(server)
            await one.ask(observation(899.0, prompt="pick up the cup"))
            frame = await until(viewer, lambda f: f["client"] == address(one))
            assert set(frame["images"]) == {"scene", "wrist"}
            assert frame["instruction"] == "pick up the cup"
            assert frame["chunk"]["text"] == {"subtask": "call 0"}
            assert frame["chunk"]["marks"] == MARKS
            assert len(frame["chunk"]["curves"]["a"]["values"]) == 4
            assert (frame["batch"], frame["position"], frame["reasons"]) == (1, 0, {"limit": 3})
            assert frame["interventions"] == 3
            assert frame["latency"]["last"] > 0
            for _ in range(2):
                await two.ask("observation", evaluated(task="open it"))
            frame = await until(viewer, lambda f: f["client"] == address(two) and f["step"] == 3)
            assert (frame["instruction"], frame["position"]) == ("open it", 2)
            assert frame["clients"] == sorted([address(one), address(two)])
            await tell(viewer, do="watch", client=address(one))
            frame = await until(viewer, lambda f: f["chosen"] == address(one))
            await two.ask("observation", evaluated())
            frame = await until(viewer, lambda f: f["step"] == 4)
            assert (frame["client"], frame["instruction"]) == (address(one), "pick up the cup")
            await one.connection.close()
            frame = await until(viewer, lambda f: f["clients"] == [address(two)])
            assert (frame["chosen"], frame["client"]) == ("", address(two))
        assert server.service.watcher is None

    asyncio.run(run())


def test_what_a_server_has_no_command_for_is_refused() -> None:
    async def run() -> None:
        async with serving() as server, ServedPage(server.service) as page, looking(page) as viewer:
            for command in (
                {"do": "instruct", "text": "go"},
                {"do": "watch", "client": "nobody"},
                {"do": "watch", "client": [1]},
                {},
            ):
                await tell(viewer, **command)  # type: ignore[arg-type]
                assert len((await until(viewer, lambda f: "error" in f))["error"]) > 20
            await tell(viewer, do="release")
            await until(viewer, lambda f: not f["stopped"])

    asyncio.run(run())


def test_a_stop_of_the_page_holds_the_next_answer_and_stays_when_the_page_is_left() -> None:
    async def run() -> None:
        async with serving() as server, ServedPage(server.service) as page:
            client = await OpenpiClient.open(server)
            async with looking(page) as viewer:
                await tell(viewer, do="stop")
                assert (await until(viewer, lambda f: f["stopped"]))["status"] == "stopped"
            for _ in range(2):
                assert ((await client.ask(observation(5.0)))["actions"] == [5, 0]).all()
            async with looking(page) as viewer:
                frame = await until(viewer, lambda f: f["step"] == 2)
                assert frame["reasons"]["stop"] == 8
                assert frame["chunk"]["curves"]["a"]["values"][-1] > 7, "what the policy wanted"
                await tell(viewer, do="release")
                await until(viewer, lambda f: not f["stopped"])
            assert (await client.ask(observation(5.0)))["actions"][-1, 0] > 7

    asyncio.run(run())


def test_a_picture_that_cannot_be_shown_is_logged_and_the_page_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(FakePolicy):
        def infer(self, observations: Sequence[Observation], *given: Any, **named: Any) -> list[ActionChunk]:
            chunks = super().infer(observations, *given, **named)
            odd = {"marks": {"camera": np.int64(3)}}  # no JSON
            return [
                replace(c, extras=odd) if o.instruction == "odd" else c
                for c, o in zip(chunks, observations, strict=True)
            ]

    async def run() -> None:
        async with serving(Odd()) as server, ServedPage(server.service) as page, looking(page) as viewer:
            client = await OpenpiClient.open(server)
            await client.ask(observation(prompt="odd"))
            while "could not show" not in caplog.text:
                await asyncio.sleep(0.01)
            await tell(viewer, do="stop")
            assert "log says why" in (await until(viewer, lambda f: f["stopped"]))["message"]
            await client.ask(observation())
            assert (await until(viewer, lambda f: f["instruction"] == "go"))["message"] == ""

    asyncio.run(run())


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
def test_the_page_in_a_browser_stops_and_releases_a_client(tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(Pointing()) as server, ServedPage(server.service) as page:
            client = await OpenpiClient.open(server)
            await client.ask(observation(5.0, prompt="pick up the cup"))
            browser = await asyncio.to_thread(Browser, tmp_path / "profile", page.address)
            with browser:
                await asyncio.to_thread(browser.wait, "frame && frame.chunk && cameras.size === 2")
                shown = await asyncio.to_thread(
                    browser.value,
                    "['told', 'connected', 'batch'].map(id => find(id).textContent).concat("
                    "['tell', 'step', 'client'].map(id => find(id).checkVisibility()))",
                )
                assert shown == ["pick up the cup", "1", "1", False, False, True]
                await asyncio.to_thread(browser.wait, "document.querySelectorAll('#curves canvas').length === 2")
                await asyncio.to_thread(browser.click, "#stop")
                await asyncio.to_thread(browser.wait, "find('stop').textContent === 'STOPPED'")
                assert ((await client.ask(observation(5.0)))["actions"] == [5, 0]).all()
                await asyncio.to_thread(browser.wait, "find('interventions').title === 'stop: 4'")
                await asyncio.to_thread(browser.screenshot, tmp_path / "page.png")
                await asyncio.to_thread(browser.click, "#release")
                await asyncio.to_thread(browser.wait, "!frame.stopped")
                assert (await client.ask(observation(5.0)))["actions"][-1, 0] > 7
                other = await OpenpiClient.open(server)
                name = address(other)
                await asyncio.to_thread(browser.wait, f"[...find('client').options].some(o => o.value === '{name}')")
                choose = f"find('client').value = '{name}'; find('client').dispatchEvent(new Event('change'))"
                await asyncio.to_thread(browser.value, choose)
                await asyncio.to_thread(browser.wait, f"frame.chosen === '{name}' && find('client').value === '{name}'")
                said = await asyncio.to_thread(browser.value, "find('message').textContent")
                assert said == f"{name} has not asked yet."
                assert browser.errors == []

    asyncio.run(run())
