"""The demo's simulated Discord: a server with the bot in it, and the page that shows it.

The only module that imports simcord, which comes with the `demo` extra.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

import discord
from aiohttp import web
from discord import app_commands
from simcord import ChannelHandle, Env, MemberActor
from simcord.preview import Preview
from simcord.preview._server import PreviewServer

from bot import error_replies, replies
from bot.access import Interaction
from bot.client import BarkClient
from bot.demo_sound import PageSounds
from synth.interpreter import python

_CHANNEL = "try-it-here"
_REVISION = "published_revision"
_SIZE = 960, 720  # of simcord's screenshots; what a browser shows follows its window


class SoundingServer(PreviewServer):
    """The page's server, with a script and the sounds it plays beside simcord's own files."""

    _STATIC_FILES: ClassVar[dict[str, str]] = {
        **PreviewServer._STATIC_FILES,
        **dict.fromkeys(("/live.js", "/live/next", "/live/sound"), ""),
    }

    def __init__(self, page: Preview, port: int, sounds: PageSounds) -> None:
        super().__init__(page, port)
        self._sounds = sounds

    async def close(self) -> None:
        await self._sounds.close()
        await super().close()

    async def _static(self, request: Any) -> Any:
        if request.path.startswith("/live"):
            if request.headers.get("Host", "") not in self._allowed_hosts():
                raise web.HTTPForbidden()
            return await self._sounds.answer(request)
        response = await super()._static(request)
        if request.path == "/":
            script = '<script type="module" src="/live.js"></script></body>'
            response.text = response.text.replace("</body>", script)
        return response


class LivePage(Preview):
    """A page of one channel that keeps up with the bot.

    simcord publishes what a user's action brings about at once, and what the bot does later only
    when Refresh is pressed. Here each look of the page publishes what has happened since the last
    one. It also scrolls to what the bot says, unless somebody reads further back, and plays
    `sounds`.
    """

    def __init__(
        self,
        env: Env,
        channel: ChannelHandle,
        viewer: MemberActor,
        port: int,
        sounds: PageSounds | None = None,
    ) -> None:
        super().__init__(
            env,
            channel,
            (viewer,),
            layout="channel",
            display="responsive",
            width=_SIZE[0],
            height=_SIZE[1],
            locale="en-US",
            timezone="UTC",
            presentation_time=None,
            assets=None,
            port=port,
        )
        if sounds is not None:
            self._server = SoundingServer(self, port, sounds)
        self._shown: dict[str, int] = {}  # how many of the bot's requests each page shows
        self._looks: dict[str, range] = {}  # each page's publications since the last action

    def _page_payload(self, page: Any) -> dict[str, Any]:
        requests = len(self.env.http_requests)  # whatever the bot does is a request
        if self._active_action is None and self._shown.get(page.id) != requests:
            self._shown[page.id] = requests
            if page.window_end_id is None:
                page.target_id = self._initial_target(page.viewer, page.channel_id)
            looks = self._looks.get(page.id, range(0))
            first = looks.start if looks.stop == page.revision + 1 else page.revision
            self._publish(page, reason="refresh")
            self._looks[page.id] = range(first, page.revision + 1)
        return super()._page_payload(page)

    async def _action(self, context_id: str | None, body: Any) -> dict[str, Any]:
        """A press on what the person sees while the next look is on its way is a good one; simcord
        refuses all but the newest publication. Whether the button is still there it asks itself.
        """
        page = self._get_page(context_id)
        looks = self._looks.get(page.id, range(0))
        shown = _shown_in(body)
        if looks.stop == page.revision + 1 and shown in looks:
            body = {**body, _REVISION: page.revision}
        return await super()._action(context_id, body)


def _shown_in(body: Any) -> int:
    """Which publication an action was taken on; 0 where it does not say."""
    shown: Any = body.get(_REVISION) if hasattr(body, "get") else None
    return shown if isinstance(shown, int) else 0


async def furnish(
    env: Env, client: BarkClient, *, speaks: bool
) -> tuple[ChannelHandle, MemberActor]:
    """A server with a channel, a person and the bot, which says hello; the first two of these.

    speaks: whether the model makes speech.
    """
    # The simulation's clock stands at one moment; let it be this one, as the wall shows it.
    now = datetime.now().astimezone()
    wall = now.replace(tzinfo=UTC)
    await env.advance_time(max(0.0, (wall - env.now()).total_seconds()))
    assert client.user is not None
    await client.user.edit(username="Bark")
    _refuse_in_peace(client)
    guild = env.create_guild("Bark")
    channel = guild.create_text_channel(_CHANNEL, topic=replies.DEMO_TOPIC)
    person = guild.add_member(env.create_user("you"))
    await env.settle()
    room = client.get_channel(channel.id)
    assert isinstance(room, discord.TextChannel)
    notice = client.services.ready.notice
    await room.send(replies.demo_welcome(notice, speaks=speaks, python=python()))
    return channel, person


def _refuse_in_peace(client: BarkClient) -> None:
    """Keep what was foreseen from counting as a crash on the page.

    simcord has put itself before the tree's handler and writes every error down: the page then
    says of a refusal, which the bot has answered, that the outcome is uncertain.
    """
    noted, tree = client.tree.on_error, client.tree

    async def on_error(interaction: Interaction, error: app_commands.AppCommandError) -> None:
        if error_replies.foreseen(error_replies.cause_of(error)) is None:
            await noted(interaction, error)
        else:
            await type(tree).on_error(tree, interaction, error)

    tree.on_error = on_error
