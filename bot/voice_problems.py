"""Everything that can keep the bot from speaking in a channel, each with its own sentence."""

from enum import StrEnum

import discord

from bot.errors import UserError

VoiceChannel = discord.VoiceChannel | discord.StageChannel


class VoiceReason(StrEnum):
    """Why there is no sound. `VoiceProblem.reason` is for code, its text for people."""

    MISSING_VIEW = "missing_view"
    MISSING_CONNECT = "missing_connect"
    MISSING_SPEAK = "missing_speak"
    MEMBER_MAY_NOT = "member_may_not"
    CHANNEL_FULL = "channel_full"
    TIMED_OUT = "timed_out"
    STAGE_AUDIENCE = "stage_audience"
    SERVER_MUTED = "server_muted"
    CONNECT_FAILED = "connect_failed"
    NO_ENCRYPTION = "no_encryption"
    BUSY_ELSEWHERE = "busy_elsewhere"
    NOT_CONNECTED = "not_connected"
    QUEUE_FULL = "queue_full"
    KICKED = "kicked"
    CHANNEL_DELETED = "channel_deleted"
    DROPPED = "dropped"
    EVERYONE_LEFT = "everyone_left"
    IDLE = "idle"
    LEFT = "left"
    SHUTTING_DOWN = "shutting_down"
    PLAYER_FAILED = "player_failed"


SENTENCES = {
    VoiceReason.MISSING_VIEW: (
        "The bot cannot see {channel}: give it the View Channel permission there."
    ),
    VoiceReason.MISSING_CONNECT: (
        "The bot may not join {channel}: give it the Connect permission there."
    ),
    VoiceReason.MISSING_SPEAK: (
        "The bot may not speak in {channel}: give it the Speak permission there."
    ),
    VoiceReason.MEMBER_MAY_NOT: (
        "You may not join {channel} yourself, so the bot does not speak there for you."
    ),
    VoiceReason.CHANNEL_FULL: "{channel} is full: raise its user limit, or let somebody leave.",
    VoiceReason.TIMED_OUT: (
        "A moderator has put the bot in timeout: it can speak again when that is over."
    ),
    VoiceReason.STAGE_AUDIENCE: (
        "The bot is in the audience of {channel} and has asked to speak: "
        "let a stage moderator invite it, then try again."
    ),
    VoiceReason.SERVER_MUTED: "The bot is server-muted in {channel}: unmute it, then try again.",
    VoiceReason.CONNECT_FAILED: "Discord did not let the bot into {channel} in time: try again.",
    VoiceReason.NO_ENCRYPTION: (
        "The encrypted connection to {channel} could not be made, so the bot said nothing: "
        "try again."
    ),
    VoiceReason.BUSY_ELSEWHERE: (
        "The bot is busy in {channel}: join it there, or wait until it has finished."
    ),
    VoiceReason.NOT_CONNECTED: "The bot is in no voice channel: use /join first.",
    VoiceReason.QUEUE_FULL: "The queue of {channel} is full ({count} waiting): try again later.",
    VoiceReason.KICKED: "The bot was disconnected from {channel}, so playback stopped there.",
    VoiceReason.CHANNEL_DELETED: "The voice channel was deleted while the bot was in it.",
    VoiceReason.DROPPED: "The voice connection to {channel} was lost twice: try again.",
    VoiceReason.EVERYONE_LEFT: "Everyone left {channel}, so the bot left too.",
    VoiceReason.IDLE: "Nothing was left to play in {channel}, so the bot left.",
    VoiceReason.LEFT: "The bot was asked to leave {channel}.",
    VoiceReason.SHUTTING_DOWN: "The bot is being restarted: try again in a minute.",
    VoiceReason.PLAYER_FAILED: "Playing the clip in {channel} failed: try again.",
}


class VoiceProblem(UserError):
    """No sound in a voice channel, for one named reason; the text is safe to show."""

    def __init__(
        self, reason: VoiceReason, channel: VoiceChannel | None = None, *, count: int = 0
    ) -> None:
        name = "the voice channel" if channel is None else channel.mention
        text = SENTENCES[reason].format(channel=name, count=count)
        super().__init__(text[0].upper() + text[1:])
        self.reason = reason


def problem_with_joining(
    channel: VoiceChannel, member: discord.Member | None = None
) -> VoiceProblem | None:
    """What would keep the bot from speaking in `channel`, from what is known without trying.

    With `member`, also whether that person may go there: the bot is no way around a lock.
    """
    me = channel.guild.me
    if problem := problem_with_speaking(channel):
        return problem
    if member is not None and not channel.permissions_for(member).connect:
        return VoiceProblem(VoiceReason.MEMBER_MAY_NOT, channel)
    there = channel.voice_states
    full = 0 < channel.user_limit <= len(there)
    if full and me.id not in there and not channel.permissions_for(me).move_members:
        return VoiceProblem(VoiceReason.CHANNEL_FULL, channel)
    return None


def problem_with_speaking(channel: VoiceChannel) -> VoiceProblem | None:
    """What keeps the bot silent in `channel`, whether it is there yet or not."""
    me = channel.guild.me
    # First: a timeout takes the other permissions away too, and would be blamed on a role.
    if me.is_timed_out():
        return VoiceProblem(VoiceReason.TIMED_OUT, channel)
    may = channel.permissions_for(me)
    # In this order: without one, discord.py reports the following ones as missing as well.
    if not may.view_channel:
        return VoiceProblem(VoiceReason.MISSING_VIEW, channel)
    if not may.connect:
        return VoiceProblem(VoiceReason.MISSING_CONNECT, channel)
    on_stage = isinstance(channel, discord.StageChannel)
    if not on_stage and not may.speak:  # a stage has speakers in place of the permission
        return VoiceProblem(VoiceReason.MISSING_SPEAK, channel)
    voice = me.voice
    if voice is not None and voice.channel is not None and voice.channel.id == channel.id:
        if on_stage and voice.suppress:
            return VoiceProblem(VoiceReason.STAGE_AUDIENCE, channel)
        if voice.mute:
            return VoiceProblem(VoiceReason.SERVER_MUTED, channel)
    return None
