"""/invite and /help."""

from discord import app_commands

from bot import replies
from bot.access import Interaction, invite_url
from bot.services import services_of


@app_commands.command(description="Get the link that adds the bot to a server.")
async def invite(interaction: Interaction) -> None:
    url = invite_url(interaction.application_id)
    await interaction.response.send_message(replies.invite(url), ephemeral=True)


@app_commands.command(name="help", description="What the bot can do.")
async def help_(interaction: Interaction) -> None:
    services = services_of(interaction)
    await interaction.response.send_message(
        replies.help_text(services.ready, services.settings.limits), ephemeral=True
    )
