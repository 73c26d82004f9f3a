"""The message /voices shows: languages, pages, and a spoken sample of each voice on demand.

Language and page stand in the components' ids, so the message works after a restart.
"""

import re
from typing import Any, Self

import discord

from bot import replies
from bot.access import Interaction, check_access
from bot.answer import Answer
from bot.catalogue import Catalogue, label, language_name, sample_sentence
from bot.errors import UserError
from bot.orders import place_order, sampling_of
from bot.services import guarded, services_of

PAGE_SIZE = 20  # a menu takes 25
NO_LANGUAGE = "-"  # a menu's value cannot be empty
SAMPLE_SEED = 0  # a sample is the same each time it is heard

_Menu = discord.ui.Select[discord.ui.View]


class LanguageMenu(
    discord.ui.DynamicItem[_Menu],
    template=r"bark:voices:language",
):
    """Goes to a language's first page."""

    @classmethod
    async def from_custom_id(
        cls, interaction: Interaction, item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Select)
        return cls(item)

    async def callback(self, interaction: Interaction) -> None:
        await guarded(interaction, lambda: _turn(interaction, _code(self.item.values[0]), 0))


class SampleMenu(
    discord.ui.DynamicItem[_Menu],
    template=r"bark:voices:hear:(?P<page>\d{1,3}):(?P<code>[\w-]{1,10})",
):
    """Speaks a sample with the voice that is chosen."""

    @classmethod
    async def from_custom_id(
        cls, interaction: Interaction, item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Select)
        return cls(item)

    async def callback(self, interaction: Interaction) -> None:
        await guarded(interaction, lambda: self._speak(interaction, self.item.values[0]))

    async def _speak(self, interaction: Interaction, name: str) -> None:
        services = services_of(interaction)
        check_access(interaction, services.settings.discord)
        voice = services.catalogue.get(name)
        if voice is None:  # the bot was started with another model since
            raise UserError(replies.unknown_voice(name, services.catalogue.nearest(name)))
        await place_order(
            interaction,
            services,
            Answer(interaction, services.clock, ephemeral=True),
            sample_sentence(voice),
            voice.name,
            sampling=sampling_of(None, SAMPLE_SEED, services.settings.limits.clip_seconds),
        )


class PageButton(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]],
    template=r"bark:voices:page:(?P<page>\d{1,3}):(?P<code>[\w-]{1,10})",
):
    """Turns to a page."""

    def __init__(self, item: discord.ui.Button[discord.ui.View], page: int, code: str) -> None:
        super().__init__(item)
        self.page = page
        self.code = code

    @classmethod
    async def from_custom_id(
        cls, interaction: Interaction, item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        assert isinstance(item, discord.ui.Button)
        return cls(item, int(match["page"]), _code(match["code"]))

    async def callback(self, interaction: Interaction) -> None:
        await guarded(interaction, lambda: _turn(interaction, self.code, self.page))


DYNAMIC_ITEMS = (LanguageMenu, SampleMenu, PageButton)


def show_page(catalogue: Catalogue, code: str, page: int) -> tuple[str, discord.ui.View]:
    """The text and components of a language's page; the nearest page when there is none so far."""
    voices = catalogue.of_language(code)
    pages = max(1, -(-len(voices) // PAGE_SIZE))
    page = min(max(page, 0), pages - 1)
    shown = voices[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
    key = code or NO_LANGUAGE
    view = discord.ui.View(timeout=None)
    languages: _Menu = discord.ui.Select(
        custom_id="bark:voices:language",
        placeholder="Language",
        options=[
            discord.SelectOption(label=name, value=each or NO_LANGUAGE, default=each == code)
            for each, name in catalogue.languages()[:25]
        ],
    )
    view.add_item(LanguageMenu(languages))
    if shown:
        samples: _Menu = discord.ui.Select(
            custom_id=f"bark:voices:hear:{page}:{key}",
            placeholder="Hear a voice",
            options=[discord.SelectOption(label=label(voice), value=voice.name) for voice in shown],
        )
        view.add_item(SampleMenu(samples))
    for word, target in (("Back", page - 1), ("Next", page + 1)):
        if 0 <= target < pages:
            button: discord.ui.Button[discord.ui.View] = discord.ui.Button(
                label=word, custom_id=f"bark:voices:page:{target}:{key}"
            )
            view.add_item(PageButton(button, target, code))
    return replies.voice_page(language_name(code), shown, page, pages), view


async def _turn(interaction: Interaction, code: str, page: int) -> None:
    content, view = show_page(services_of(interaction).catalogue, code, page)
    await interaction.response.edit_message(content=content, view=view)


def _code(value: str) -> str:
    return "" if value == NO_LANGUAGE else value
