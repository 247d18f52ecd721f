"""A headless Chromium, driven through its DevTools protocol: real clicks, real keys, screenshots."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
         "--disable-background-networking", "--disable-extensions", "--window-size=1280,860",
         "--remote-debugging-port=0")  # fmt: skip


class Browser:
    """One page of a headless Chromium."""

    def __init__(self, profile: Path, url: str) -> None:
        assert CHROMIUM is not None
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = self._port(profile / "DevToolsActivePort")
            with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                target = next(t for t in json.load(answer) if t["type"] == "page")
            self._open = ExitStack()
            self._socket = self._open.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None))
        except BaseException:
            self._process.kill()
            raise
        self._ids = itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(10)

    def call(self, method: str, **parameters: Any) -> Any:
        """One call of the protocol; what the page complains of meanwhile goes to `errors`."""
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=60))
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(json.dumps(said["params"])[:500])
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until an expression is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if value := self.value(script):
                    return value
            except AssertionError:  # the page is not there yet
                pass
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; errors: {self.errors}")

    def place(self, selector: str) -> list[float]:
        """Left, top, width and height of an element."""
        box = f"(b => [b.left, b.top, b.width, b.height])(document.querySelector({selector!r}).getBoundingClientRect())"
        return self.value(box)

    def click(self, selector: str) -> None:
        """A real click into the middle of an element."""
        left, top, width, height = self.place(selector)
        self.mouse("mousePressed", left + width / 2, top + height / 2)
        self.mouse("mouseReleased", left + width / 2, top + height / 2)

    def mouse(self, what: str, x: float, y: float) -> None:
        """mousePressed, mouseMoved or mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1)

    def key(self, key: str, code: int, **parameters: Any) -> None:
        """One key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **parameters)

    def type(self, text: str) -> None:
        """Type into what has the focus, in place of what stands there, and press Enter."""
        self.key("a", 65, modifiers=2, commands=["selectAll"])
        for letter in text:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=letter)
        self.key("Enter", 13)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _port(self, path: Path) -> int:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"Chromium ended at once with status {self._process.returncode}.")
            if path.exists() and path.read_text().strip():
                return int(path.read_text().split()[0])
            time.sleep(0.05)
        raise RuntimeError("Chromium did not open its debugging port.")
