"""/bark from the command to the clip, through discord.py's real machinery."""

from pathlib import Path

from tests.bot.harness import open_world


async def test_bark_answers_with_a_clip(tmp_path: Path) -> None:
    async with open_world(tmp_path) as world:
        result = await world.bark("Hello [laughs] world", seed=7, preset="v2/en_speaker_6")
        assert result.acknowledged
        assert world.worker.last.text == "Hello [laughs] world"
        assert world.worker.last.voice == "v2/en_speaker_6"
        response = await world.spoken(result, seconds=1.5)
        (file,) = response.attachments
        assert file.filename.endswith(".ogg")
        assert "seed 7" in response.content
        assert "1.5 s" in response.content
        assert not response.components
