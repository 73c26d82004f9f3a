"""The whole path once with nothing scripted: bot, process, random model, FFmpeg."""

from pathlib import Path

from bot.config import Settings, SynthSection
from synth.client import ProcessBackend, WorkerSettings
from synth.protocol import RANDOM_MODEL
from tests.bot.harness import open_world


async def test_bark_through_the_real_engine(tmp_path: Path) -> None:
    worker = ProcessBackend(WorkerSettings(model=RANDOM_MODEL, device="cpu", threads=1))
    settings = Settings.model_construct(synth=SynthSection(model=RANDOM_MODEL))
    async with open_world(tmp_path, settings=settings, worker=worker) as world:
        first = await world.bark("Hello there", seed=3)
        await world.until(lambda: first.response.attachments)
        assert "random model" in first.response.content
        again = await world.bark("Hello there", seed=3, format="flac")
        await world.until(lambda: again.response.attachments)
        cancelled = await world.bark("Good bye, and take care on your long way home", seed=4)
        await world.ada.click(cancelled.response.message, label="Cancel")
        await world.until(lambda: cancelled.response.content == "Cancelled.")
        rows = await world.client.services.store.history(world.ada.id)
    assert rows[1].audio_s == rows[2].audio_s  # the same seed, text and model
    assert rows[2].audio_s is not None and 1 <= rows[2].audio_s <= 16
