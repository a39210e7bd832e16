"""Drives the system's headless Chromium over its DevTools pipe, without a driver or a package.

Messages are JSON that ends in a zero byte; Chromium reads descriptor 3 and writes descriptor 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find_chromium() -> str:
    """Returns the program; skips the test without it, or fails if ISTHMUS_REQUIRE_CHROMIUM=1."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        program = shutil.which(name)
        if program is not None:
            return program
    if os.environ.get("ISTHMUS_REQUIRE_CHROMIUM") == "1":
        pytest.fail(
            "ISTHMUS_REQUIRE_CHROMIUM=1, and there is no chromium: apt-get install chromium"
        )
    pytest.skip("needs chromium: apt-get install chromium")


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Starts a browser with a fresh profile in a folder; the context ends it."""
    program = find_chromium()
    profile = folder / "profile"
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    # Above 10, because the child needs the numbers 3 and 4.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]
    for end in (theirs_in, theirs_out):
        os.close(end)
    log = folder / "chromium.log"
    child = os.posix_spawn(
        program,
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            (os.POSIX_SPAWN_DUP2, theirs[0], 3),
            (os.POSIX_SPAWN_DUP2, theirs[1], 4),
        ],
    )
    for end in theirs:
        os.close(end)
    try:
        yield Browser(ours_in, ours_out, log)
    finally:
        os.close(ours_out)  # the browser ends when its pipe does
        os.close(ours_in)
        for _ in range(100):
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.1)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


@dataclass
class Browser:
    """A running browser, and the events received between answers."""

    reading: int
    writing: int
    log: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    _number: int = 0
    _rest: bytes = b""

    def ask(self, method: str, session: str = "", **values: Any) -> dict[str, Any]:
        """Sends a command and returns its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self.events.append(answer)

    def _next(self, seconds: float = 60) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self.reading], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.reading, 1 << 16) if ready else b""
            if not chunk:
                log = self.log.read_text("utf-8", "replace")[-2000:] if self.log.exists() else ""
                pytest.fail(f"chromium ended, or sent nothing for {seconds:g} s: {log}")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))

    def open(self, file: Path, *, width: int, height: int, scheme: str) -> Page:
        """Opens a file in a new tab of this size, in the "light" or "dark" scheme."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.ask(f"{domain}.enable")
        page.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        page.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        page.ask("Page.navigate", url=file.resolve().as_uri())
        for _ in range(600):
            if (
                page.run("document.readyState") == "complete"
                and page.run("location.protocol") == "file:"
            ):
                return page
            time.sleep(0.05)
        pytest.fail(f"{file} did not load")


@dataclass
class Page:
    """A tab."""

    browser: Browser
    session: str
    target: str

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """Sends a command to this tab."""
        return self.browser.ask(method, self.session, **values)

    def run(self, code: str) -> Any:
        """Returns the value of a JavaScript expression."""
        answer = self.ask("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def seen(self, method: str) -> list[dict[str, Any]]:
        """Returns the events of this name that were sent so far."""
        self.run("0")  # earlier events arrive before its answer
        return [
            event["params"]
            for event in self.browser.events
            if event.get("sessionId") == self.session and event.get("method") == method
        ]

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Writes a PNG of the first screen, or of the whole page."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
            options |= {"captureBeyondViewport": True, "clip": clip}
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", **options)["data"]))
        return path

    def close(self) -> None:
        """Closes the tab."""
        self.browser.ask("Target.closeTarget", targetId=self.target)
