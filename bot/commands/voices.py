"""/voices to browse and hear, /voice to choose one for good."""

from discord import app_commands

from bot import replies
from bot.access import Interaction, require_manager
from bot.commands.bark import complete_preset
from bot.errors import UserError
from bot.preferences import is_usable, known_voice
from bot.services import services_of
from bot.store import Preference
from bot.voice_browser import show_page

voice = app_commands.Group(name="voice", description="The voice you are spoken with by default.")


@app_commands.command(description="Browse the voices and hear them.")
@app_commands.describe(language="The language to begin with")
async def voices(interaction: Interaction, language: str | None = None) -> None:
    catalogue = services_of(interaction).catalogue
    if not catalogue.voices:
        raise UserError(replies.NO_VOICES)
    code = catalogue.language_of(language or str(interaction.locale).partition("-")[0])
    content, view = show_page(catalogue, code, 0)
    await interaction.response.send_message(content, view=view, ephemeral=True)


@voices.autocomplete("language")
async def complete_language(
    interaction: Interaction, current: str
) -> list[app_commands.Choice[str]]:
    found = services_of(interaction).catalogue.languages(current)[:25]
    return [app_commands.Choice(name=name, value=code or "-") for code, name in found]


@voice.command(name="set", description="Choose the voice for your clips, or for everyone here.")
@app_commands.describe(
    preset="The voice",
    everyone="Choose it for this server: members without a voice of their own get it (managers)",
)
async def set_voice(interaction: Interaction, preset: str, everyone: bool = False) -> None:
    services = services_of(interaction)
    preference = Preference(known_voice(services, preset), services.ready.family)
    if everyone:
        require_manager(interaction)
        assert interaction.guild_id is not None
        await services.store.set_guild_voice(interaction.guild_id, preference)
    else:
        await services.store.set_user_voice(interaction.user.id, preference)
    await interaction.response.send_message(
        replies.preference_set(preference.voice, everyone=everyone), ephemeral=True
    )


set_voice.autocomplete("preset")(complete_preset)


@voice.command(description="See your voice and this server's.")
async def show(interaction: Interaction) -> None:
    services = services_of(interaction)
    guild_id = interaction.guild_id
    mine = await services.store.user_voice(interaction.user.id)
    ours = await services.store.guild_voice(guild_id) if guild_id is not None else None

    def named(preference: Preference | None) -> str:
        if preference is None:
            return replies.NO_PREFERENCE
        return replies.preferred(preference.voice, usable=is_usable(services, preference))

    content = replies.preferences(named(mine), named(ours))
    await interaction.response.send_message(content, ephemeral=True)


@voice.command(description="Forget your voice, or this server's.")
@app_commands.describe(everyone="Forget this server's (managers)")
async def reset(interaction: Interaction, everyone: bool = False) -> None:
    store = services_of(interaction).store
    if everyone:
        require_manager(interaction)
        assert interaction.guild_id is not None
        await store.set_guild_voice(interaction.guild_id, None)
    else:
        await store.set_user_voice(interaction.user.id, None)
    await interaction.response.send_message(
        replies.preference_reset(everyone=everyone), ephemeral=True
    )
