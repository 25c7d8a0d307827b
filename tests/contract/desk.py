"""A reviewer's desk for tests: a gateway with recorded answers, and its page in a real Chromium."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from ratchet_api.client import GatewayClient
from ratchet_jobs.runtime.store_directory import DirectoryStore
from tests.gateway_app import key_of, read_log

PATIENCE_MS = 60_000
"""How long anything may take to appear: a busy machine starts a browser's page in many seconds."""
expect.set_options(timeout=PATIENCE_MS)
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
HOSTILE = (
    "<script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    "</div></article><h1>not ours</h1>",
    "javascript:document.title='taken'",
    "{{7*7}} ${7*7} <%= 7*7 %>",
    "\u202egnihtyna si siht",
    "w" * 3000,
)


class RealClock:
    """The clocks of this machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class Desk:
    """A gateway with recorded answers, and pages of it."""

    def __init__(self, browser: Browser, url: str, folder: Path) -> None:
        self.browser, self.url, self.folder = browser, url, folder
        self.problems: list[str] = []

    def answers(self, *answers: tuple[str, str], **more: Any) -> None:
        """Record answers, given as (input, label)."""
        with GatewayClient(self.url, token=key_of("all")) as client:
            rows = [{"policy": "router", "input": text, "label": label, **more} for text, label in answers]
            client.record_all(rows)

    def page(self, view: str = "rate", *, size: Any = LAPTOP, dark: bool = False, token: bool = True) -> Page:
        """Open the page; what it logs or throws is noted."""
        context = self.browser.new_context(viewport=size, color_scheme="dark" if dark else "light")
        context.set_default_timeout(PATIENCE_MS)
        if token:
            context.add_init_script(f"sessionStorage.setItem('ratchet-token', '{key_of('all')}')")
        page = context.new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        page.on("dialog", lambda dialog: self.problems.append(dialog.message))
        page.goto(f"{self.url}/review?policy=router#{view}")
        if token:
            page.wait_for_selector(f"#{view}-card:not([hidden]), #{view}-empty:not([hidden]), #plot-bands *")
        return page

    def votes(self) -> list[dict[str, Any]]:
        """Feedback in the log, in the order of arrival."""
        return [e for e in read_log(DirectoryStore(self.folder / "store"), "ns") if e["kind"] == "feedback"]

    def wait_votes(self, number: int) -> list[dict[str, Any]]:
        """Wait until that many are stored."""
        end = time.monotonic() + 60
        while len(self.votes()) < number:
            assert time.monotonic() < end, self.votes()
            time.sleep(0.05)
        return self.votes()
