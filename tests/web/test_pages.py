"""The pages in a real browser: alive, quiet, reachable by everybody, and loading nothing from elsewhere.

Skipped where there is no Chromium.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from api_samples import FakeViews, played_views
from ares_coordinator.api.app import ApiSettings
from ares_coordinator.engine.schedule import Missed, Schedule, parse_schedule
from ares_coordinator.store.rows import CycleRow
from ares_coordinator.web.site import create_site
from ares_p2p.errors import WrongMoment
from store_samples import NOW, peer

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TOKEN = "the-operators-token"
PAGES = ("/", "/evolution", "/leaderboard", "/credits-explained", f"/u/{peer(1)}")
WAIT_MS = 30_000
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@dataclass(slots=True)
class Controls:
    """Notes what the operator asked for."""

    row: CycleRow
    asked: list[str] = field(default_factory=list)
    schedule: Schedule | None = None
    next_ms: int | None = None

    async def start(self) -> CycleRow:
        if "start" in self.asked:
            raise WrongMoment("a cycle is running", hint="Wait for its end.")
        self.asked.append("start")
        return self.row

    async def pause(self) -> None:
        self.asked.append("pause")

    async def resume(self) -> None:
        self.asked.append("resume")

    async def set_schedule(self, value: str | float | None) -> Schedule | None:
        self.asked.append(f"schedule {value}")
        self.schedule = parse_schedule(value, timezone="UTC", missed=Missed.ONCE, now_ms=NOW)
        return self.schedule


@dataclass(slots=True)
class Site:
    """A served coordinator, and a browser that looks at it."""

    address: str
    views: FakeViews
    controls: Controls
    runner: web.AppRunner
    browser: Browser
    noise: list[str] = field(default_factory=list)  # errors of the console, requests to elsewhere

    async def visit(self, path: str, *, width: int = 1280, **context: Any) -> Page:
        """Open a page and listen to all that goes wrong on it."""
        opened = await self.browser.new_context(viewport={"width": width, "height": 900}, **context)
        page = await opened.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.on("pageerror", lambda error: self.noise.append(str(error)))
        page.on("request", lambda asked: self._check(asked.url))
        await page.goto(self.address + path)
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.noise.append(text)

    def _check(self, url: str) -> None:
        if not url.startswith(self.address) and not url.startswith("data:"):
            self.noise.append(f"asked {url}")

    async def happens(self, kind: str) -> None:
        """Add an event that watchers hear of."""
        store = self.views.db.store
        await self.views.db.call(store.add_event, kind, "{}", now_ms=NOW)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    views = await played_views(tmp_path)
    row = await views.db.call(views.db.store.cycle, 1)
    assert row is not None
    controls = Controls(row)
    settings = ApiSettings(limited=False, controls=controls, operator_token=TOKEN)
    runner = web.AppRunner(create_site(views=views, settings=settings))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield Site(f"http://{host}:{port}", views, controls, runner, browser)
        await browser.close()
    await runner.cleanup()
    await views.db.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
async def test_every_page_is_for_everybody(site: Site, scheme: str, width: int) -> None:
    for path in PAGES:
        page = await site.visit(path, width=width, color_scheme=scheme, bypass_csp=True)
        await expect(page.locator("h1")).to_be_visible()
        await page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
        found = await Axe().run(page, options=RULES)
        assert found.response["violations"] == [], path
        assert len(found.response["passes"]) > 5  # the rules were really tried
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        await page.context.close()
    assert site.noise == []


async def test_every_page_is_quiet_under_its_policy(site: Site) -> None:
    for path in PAGES:
        page = await site.visit(path)
        async with page.expect_websocket() as watching:
            await page.reload()
        assert (await watching.value).url.startswith(site.address.replace("http", "ws"))
        await page.context.close()
    assert site.noise == []


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_is_whole_without_a_script(site: Site, path: str) -> None:
    page = await site.visit(path, java_script_enabled=False)
    await expect(page.locator("h1")).to_be_visible()
    with_script = await site.visit(path)
    for part in await page.locator("[data-live]").all():
        name = await part.get_attribute("id")
        words = await part.inner_text()
        assert words.strip()
        await expect(with_script.locator(f"#{name}")).to_have_text(words, use_inner_text=True)
    assert site.noise == []


async def test_what_happens_appears_without_a_reload(site: Site) -> None:
    page = await site.visit("/evolution")
    await expect(page.locator("#model")).to_contain_text("running")
    await page.evaluate("window.here = true")
    await page.locator("#rounds summary").click()
    site.views.live = replace(site.views.live, state="paused", activity="a new activity")
    await site.happens("paused")
    await expect(page.locator("#model")).to_contain_text("a new activity", timeout=WAIT_MS)
    await expect(page.locator("#events")).to_contain_text("paused", timeout=WAIT_MS)
    assert await page.evaluate("window.here") is True  # the page itself stayed
    assert await page.locator("#rounds details").evaluate("(one) => one.open") is True
    assert site.noise == []


async def test_a_page_says_when_it_is_cut_off_and_recovers(site: Site) -> None:
    page = await site.visit("/")
    await expect(page.locator("#connection")).to_be_hidden()
    await page.context.set_offline(True)
    await site.runner.app.shutdown()  # closes the watchers
    await expect(page.locator("#connection")).to_contain_text("seconds old", timeout=WAIT_MS)
    await page.context.set_offline(False)
    site.views.live = replace(site.views.live, activity="after the cut")
    await expect(page.locator("#connection")).to_be_hidden(timeout=WAIT_MS)
    await expect(page.locator("#now")).to_contain_text("after the cut", timeout=WAIT_MS)


async def test_the_operator_is_asked_before_anything_is_sent(site: Site) -> None:
    page = await site.visit("/evolution")
    await page.locator("#controls summary").click()
    answer, dialog = page.locator("#controls-answer"), page.locator("#controls-dialog")
    await page.get_by_role("button", name="Start", exact=True).click()
    assert site.controls.asked == []  # without a token the browser asks for one
    await expect(dialog).to_be_hidden()

    await page.locator("input[name=token]").fill(TOKEN)
    await page.get_by_role("button", name="Start", exact=True).click()
    await expect(dialog).to_contain_text("costs money")
    await dialog.get_by_role("button", name="No").click()
    await expect(dialog).to_be_hidden()
    await page.get_by_role("button", name="Pause").click()
    await page.keyboard.press("Escape")
    await expect(dialog).to_be_hidden()
    assert site.controls.asked == []

    await page.get_by_role("button", name="Start", exact=True).click()
    await dialog.get_by_role("button", name="Yes").click()
    await expect(answer).to_contain_text("cycle: 1")
    await page.get_by_role("button", name="Start", exact=True).click()
    await dialog.get_by_role("button", name="Yes").click()
    await expect(answer).to_contain_text("a cycle is running")
    await expect(answer).to_contain_text(WrongMoment.code)

    await page.locator("input[name=schedule]").fill("weekly")
    await page.get_by_role("button", name="Set the schedule").click()
    await dialog.get_by_role("button", name="Yes").click()
    await expect(answer).to_contain_text("schedule: weekly")
    assert site.controls.asked == ["start", "schedule weekly"]
    await page.reload()
    await expect(page.locator("input[name=token]")).to_have_value(TOKEN)  # of this tab
    other = await site.visit("/evolution")
    await expect(other.locator("input[name=token]")).to_have_value("")


async def test_a_wrong_token_changes_nothing_and_says_so(site: Site) -> None:
    page = await site.visit("/evolution")
    await page.locator("#controls summary").click()
    await page.locator("input[name=token]").fill("wrong")
    await page.get_by_role("button", name="Pause").click()
    await page.locator("#controls-dialog").get_by_role("button", name="Yes").click()
    await expect(page.locator("#controls-answer")).to_contain_text("not the operator's")
    assert site.controls.asked == []


async def test_the_leaderboard_leads_to_a_volunteer_by_keyboard(site: Site) -> None:
    page = await site.visit("/leaderboard")
    link = page.locator("#rows a").first
    await link.focus()
    await asyncio.gather(page.wait_for_url("**/u/*"), page.keyboard.press("Enter"))
    await expect(page.locator("#standing")).to_contain_text("600.00")
    assert site.noise == []
