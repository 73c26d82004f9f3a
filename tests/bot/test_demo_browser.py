"""The demo's page as a person uses it, in headless Chromium: type, watch, cancel, listen."""

import asyncio
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import ConsoleMessage, Locator, Page, async_playwright, expect

from bot import replies
from bot.config import Settings
from bot.demo import demo_settings, serve
from bot.demo_pace import PacedBackend
from bot.doctor import worker_settings
from synth.client import ProcessBackend
from synth.protocol import RANDOM_MODEL

pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
)
PATIENCE_MS = 60_000  # of one step, on a busy machine


class Visit:
    """A person in front of the demo's page."""

    def __init__(self, page: Page, backend: PacedBackend) -> None:
        self.page = page
        self.backend = backend
        self.messages = page.locator("#channel-message-list")
        self.complaints: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        # The page of simcord has no icon, which browsers ask for all the same.
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            self.complaints.append(message.text)

    async def open(self, url: str) -> None:
        await self.page.goto(url)
        await expect(self.page.locator("#preview-app")).to_have_attribute("aria-busy", "false")

    async def choose(self, command: str) -> None:
        """Type a command's name and take it from the list."""
        composer = self.page.locator("#channel-composer-input")
        await composer.click()
        await self.page.keyboard.type(f"/{command}")
        names = self.page.locator("#command-picker-listbox")
        await expect(names.get_by_text(f"/{command}", exact=True).first).to_be_visible()
        await self.page.keyboard.press("Enter")

    async def fill(self, option: str, typed: str, offered: str | None = None) -> None:
        """Type into an option that has the focus or is in sight; take what is offered."""
        field = self.page.locator(f'.command-option-input[data-option="{option}"]')
        await field.click()
        await self.page.keyboard.type(typed)
        if offered is not None:
            await (
                self.page.locator("#command-suggestion-listbox")
                .get_by_text(offered, exact=True)
                .click()
            )

    async def send(self) -> None:
        await self.page.get_by_role("button", name="Send").click()

    async def says(self, words: str | re.Pattern[str]) -> None:
        """Wait until the newest message says this, where it can be seen."""
        await expect(self.newest).to_contain_text(words)
        await expect(self.newest).to_be_in_viewport()

    @property
    def newest(self) -> Locator:
        return self.messages.locator("[data-message-id]").last


@asynccontextmanager
async def visit(folder: Path, *, job_s: float) -> AsyncGenerator[Visit]:
    settings = demo_settings(Settings.model_construct(), folder, RANDOM_MODEL)
    backend = PacedBackend(ProcessBackend(worker_settings(settings)), job_s)
    told: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(settings, backend, tell=told.put_nowait))
    try:
        telling = asyncio.create_task(told.get())
        await asyncio.wait({telling, serving}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            telling.cancel()
            serving.result()
        url = telling.result().split()[-1]
        async with browser_page() as page:
            person = Visit(page, backend)
            await person.open(url)
            yield person
            await page.screenshot(path=folder / "page.png")
            assert not person.complaints
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def browser_page() -> AsyncIterator[Page]:
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        try:
            yield page
        finally:
            await browser.close()


async def test_bark_cancel_and_listen(tmp_path: Path) -> None:
    """The demo's own promise: watch the status, press Cancel, play the clip."""
    async with visit(tmp_path, job_s=20) as person:
        page = person.page
        await expect(person.messages).to_contain_text("it makes noise, not speech")
        await expect(person.messages).to_contain_text(" -m synth fetch suno/bark-small")

        await person.choose("bark")
        await person.fill("text", "Hello there [la", offered="Hello there [laughs]")
        await person.send()
        await person.says("0% · starting")
        await person.says(re.compile(r"▰▱.*[1-9]\d?% · finding the words"))
        await person.newest.get_by_role("button", name="Cancel").click()
        await expect(person.messages).to_contain_text(replies.CANCELLED)
        await page.screenshot(path=tmp_path / "cancelled.png")

        person.backend.job_s = 3
        await person.choose("bark")
        await person.fill("text", "The quick brown fox")
        await person.send()  # the clip lasts two seconds at least
        await person.says(re.compile(r"🔊 a random voice · seed \d+ · [\d.]+ s"))
        length = re.search(r"([\d.]+) s\n", await person.newest.inner_text())
        assert length

        player = person.newest.locator("audio")
        await person.says(re.compile("0:00 / 0:0[1-9]"))  # loaded
        await person.newest.get_by_role("button", name="Play").click()
        await person.says("0:01 / 0:0")
        heard = await player.evaluate("a => [a.currentTime, a.duration, a.readyState, a.error]")
        assert heard[0] >= 1
        assert heard[1] == pytest.approx(float(length[1]), abs=0.1)
        assert heard[2] >= 2 and heard[3] is None


async def test_the_other_commands_work_on_the_page(tmp_path: Path) -> None:
    async with visit(tmp_path, job_s=20) as person:
        page = person.page
        await person.choose("voice set")
        await person.fill("preset", "ger 3", offered="v2/de_speaker_3 (German, female)")
        await person.send()
        await person.says("Your voice is v2/de_speaker_3 from now on.")

        await person.choose("bark")
        await person.fill("text", "One")
        await person.send()
        await person.says("starting")
        await person.choose("bark")
        await person.fill("text", "Two")
        await person.send()
        await person.says("You are next in line")
        await person.choose("queue")
        await person.send()
        await person.says(re.compile("⏳ One · being made.*⏳ Two · number 1 in line", re.S))
        await person.choose("help")
        await person.send()
        await person.says("/bark speaks a text")
        await page.screenshot(path=tmp_path / "help.png")

        person.backend.job_s = 0
        await person.choose("voices")
        await person.send()
        await person.says("Choose one below to hear it.")
        await page.screenshot(path=tmp_path / "voices.png")
        await person.newest.get_by_text("Hear a voice").click()
        await page.get_by_role("option", name="v2/en_speaker_6").click()
        await person.says(re.compile(r"This is what my voice sounds like.*v2/en_speaker_6", re.S))
        await person.says(re.compile("0:00 / 0:0[1-9]"))


async def test_a_refusal_leaves_the_composer_free(tmp_path: Path) -> None:
    """Below the refusal the page spoke of a failed action, and kept the command's form."""
    async with visit(tmp_path, job_s=1) as person:
        await person.choose("bark")
        await person.fill("text", "😀")
        await person.send()
        await person.says("There is nothing to speak in that text")
        await expect(person.page.get_by_text("Action completed").first).to_be_visible()
        await expect(person.page.get_by_text("outcome uncertain")).to_have_count(0)
        await person.choose("skip")
        await person.send()
        await person.says(replies.NO_VOICE_COMMANDS_HERE)
