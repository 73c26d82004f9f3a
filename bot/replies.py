"""Every sentence a person can read, but for what goes wrong (`bot.error_replies`).

Knows words only. User text is escaped and cut here, so that nothing a user typed becomes a mention,
markup or a message too long to send.
"""

from collections.abc import Iterable, Mapping, Sequence

from discord.utils import escape_markdown, escape_mentions

from bot.config import LimitsSection
from bot.speech import Clip, Status
from bot.store import Cap, JobRow, Outcome, Refused
from bot.voice_queue import QueuedClip
from synth.protocol import Gender, Ready, Stage, VoiceInfo

CONTENT_LIMIT = 2000
QUOTE_LIMIT = 300
CAST_LIMIT = 600
BAR_CELLS = 12

_STAGES = {
    Stage.SEMANTIC: "finding the words",
    Stage.COARSE: "shaping the voice",
    Stage.FINE: "adding detail",
    Stage.CODEC: "making the sound",
}

DEMO_TOPIC = "The real bot on a simulated Discord. Type / to begin."

CANCELLED = "Cancelled."
CANCELLING = "Cancelling it."
ALREADY_CANCELLED = "That clip is cancelled already."
ALREADY_DONE = "That clip is finished already, so there is nothing to cancel."
JOB_GONE = "The bot was restarted since, and that clip is gone; ask for it again with /bark."
NOT_YOURS = "Only the person who asked for that clip, or a manager of this server, can cancel it."
NOT_HERE = "The bot does not take requests in this channel; ask a manager where it does."
ROLE_BLOCKED = "A role you have keeps you from using the bot here; a manager can change that."
ROLE_MISSING = "The bot is only for members with a certain role here; a manager can give it to you."
SERVER_ONLY = "That works in a server only."
NO_VOICE_HERE = "Voice playback does not exist here, so here is the file."
NO_VOICE_COMMANDS_HERE = "Voice playback does not exist here; /bark gives a file."
NOT_IN_CHANNEL = "You are in no voice channel: join one, or ask for a file with to: file."
JOIN_FIRST = "You are in no voice channel: join one, then use /join."
BOT_NOT_IN_CHANNEL = "The bot is in no voice channel here."
LEFT = "Left the voice channel."
NOTHING_PLAYS = "Nothing is playing."
NOT_YOUR_CLIP = "Only who asked for it, or a manager of this server, can do that."
QUEUE_EMPTY = "Nothing is playing, and no clip is being made."
NO_VOICES = "This model has no voices of its own; /bark speaks with a random one."
MANAGERS_ONLY = "Only a manager of this server (Manage Server permission) can do that."
NO_PREFERENCE = "none"
NO_CLIP = "The text gave no sound; try other words or another voice."
ANSWER_BELOW = "The answer is below."
ANSWER_IN_PRIVATE = "The answer is in your direct messages."
FILE_REFUSED = "Discord did not take the file here, not even a smaller one; try a shorter text."
BOT_TIMED_OUT = "A moderator has put the bot in timeout: it can post again when that is over."
INTERRUPTED = "The bot was restarted before this clip was finished; ask for it again with /bark."
STOPPED_UNHEARD = "Playing was stopped before this clip was made, so it was not heard."
STOPPING = "The bot is being restarted; ask again in a minute."


def escape(text: str) -> str:
    return escape_mentions(escape_markdown(text))


def cut(text: str, limit: int = CONTENT_LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip("\\ ") + "…"


def seconds(value: float) -> str:
    """A wait in words: 40 s, 3 min."""
    if value < 90:
        return f"{max(1, round(value))} s"
    return f"{round(value / 60)} min"


# Before the work


def nothing_to_speak(text: str) -> str:
    if not text.strip():
        return "The text is empty; type what the bot is to say."
    return "There is nothing to speak in that text: add some words to the signs and emoji."


def text_too_long(length: int, limit: int) -> str:
    return f"The text has {length:,} characters, and {limit:,} is the most here; make it shorter."


def unknown_voice(name: str, nearest: Sequence[str]) -> str:
    known = f" Did you mean {_either(nearest)}?" if nearest else " See /voices for all of them."
    return f"There is no voice called {cut(escape(name), 100)}.{known}"


def voice_replaced(preferred: str, used: str | None, *, other_model: bool) -> str:
    why = "belongs to another model" if other_model else "is not known to this model"
    return (
        f"The preferred voice {escape(preferred)} {why}; it is kept, "
        f"and {voice_name(used)} is used for now."
    )


def voice_of_another_model(name: str, stand_in: str) -> str:
    return (
        f"The voice {escape(name)} belongs to another model than the one that speaks here. "
        f"Try {escape(stand_in)}; `/voices` shows them all."
    )


def voice_name(voice: str | None) -> str:
    return escape(voice) if voice else "a random voice"


def cast_names(cast: Mapping[str, str | None]) -> str:
    """Who spoke a dialogue, with which voice; "" stands for what no speaker says."""
    pairs = [f"{escape(name) or 'the rest'}: {voice_name(voice)}" for name, voice in cast.items()]
    return cut(", ".join(pairs), CAST_LIMIT)


def refused(refusal: Refused) -> str:
    match refusal.cap:
        case Cap.USER:
            return (
                f"You have {_clips(refusal.count)} waiting or being made already; "
                "wait until one is done, or cancel one."
            )
        case Cap.GUILD:
            return (
                f"This server has {_clips(refusal.count)} waiting or being made already; "
                "try again soon."
            )
        case Cap.COOLDOWN:
            return f"Wait another {seconds(refusal.wait_s)} before the next clip."


def missing_permissions(names: Iterable[str], where: str) -> str:
    wanted = ", ".join(name.replace("_", " ").title() for name in names)
    return f"The bot is not allowed to do that in {where}: it needs the permission {wanted}."


# While it works


def waiting(status: Status | None, where: str = "") -> str:
    """A job's status; where: the channel in which the clip is heard already."""
    if status is None:
        return "⏳ In line."
    if status.position > 0:
        place = "next in line" if status.position == 1 else f"number {status.position} in line"
        return f"⏳ You are {place}{_eta(status.eta_s)}."
    stage = "starting" if status.stage is None else _STAGES[status.stage]
    heard = f" · 🔊 {where}" if where else ""
    return f"{bar(status.fraction)} {status.fraction:.0%} · {stage}{_eta(status.eta_s)}{heard}"


def bar(fraction: float) -> str:
    full = round(min(max(fraction, 0.0), 1.0) * BAR_CELLS)
    return "▰" * full + "▱" * (BAR_CELLS - full)


def _eta(eta_s: float | None) -> str:
    return f" · about {seconds(eta_s)} left" if eta_s is not None and eta_s >= 1 else ""


# The result


def caption(text: str, clip: Clip, notes: Iterable[str] = (), where: str = "") -> str:
    """The words, then voice, seed and length, then the notes; at most 2,000 characters."""
    quote = cut(escape(" ".join(text.split())), QUOTE_LIMIT)  # a quote ends with its line
    voices = cast_names(clip.cast) if clip.cast else voice_name(clip.voice)
    facts = f"🔊 {voices} · seed {clip.seed} · {clip.audio_s:.1f} s"
    lines = [f"> {quote}", facts + (f" · {where}" if where else "")]
    lines += [f"-# {note}" for note in dict.fromkeys([*clip.notes, *notes])]
    return cut("\n".join(lines))


def in_private(content: str, channel_id: int | None) -> str:
    """What could not be said where it was asked for."""
    where = "where you asked for it" if channel_id is None else f"in <#{channel_id}>"
    note = f"\n-# The bot could not post this {where}, so you get it here."
    return cut(content, CONTENT_LIMIT - len(note)) + note


def job_ended(row: JobRow) -> str:
    """What a late press of Cancel is told."""
    match row.outcome:
        case Outcome.CANCELLED:
            return ALREADY_CANCELLED
        case Outcome.INTERRUPTED | None:
            return JOB_GONE
        case _:
            return ALREADY_DONE


def clip_title(text: str) -> str:
    """A clip's line in a list."""
    return cut(escape(" ".join(text.split())), 60)


def joined(channel: str) -> str:
    return f"Joined {channel}; /bark speaks there now."


def skipped(title: str) -> str:
    return f"Skipped: {title}"


def stopped(count: int) -> str:
    return f"Stopped; {_clips(count)} dropped." if count else NOTHING_PLAYS


def queue(playing: Sequence[QueuedClip], works: Sequence[tuple[str, int]]) -> str:
    """What plays and waits in the channel, then what is being made with its place in line."""
    lines: list[str] = []
    for clip in playing:
        mark = "▶" if clip.playing else "•"
        lines.append(f"{mark} {clip.title} · <@{clip.requester_id}> · {clip.remaining_s:.0f} s")
    for text, position in works:
        place = "being made" if not position else f"number {position} in line"
        lines.append(f"⏳ {clip_title(text)} · {place}")
    return cut("\n".join(lines)) or QUEUE_EMPTY


# Voices


def voice_line(voice: VoiceInfo) -> str:
    gender = "" if voice.gender is Gender.UNKNOWN else f" · {voice.gender.value}"
    return f"`{voice.name}`{gender} · {voice.duration_s:.0f} s long"


def voice_page(language: str, voices: Sequence[VoiceInfo], page: int, pages: int) -> str:
    head = f"**{language}** · page {page + 1} of {pages}"
    return cut("\n".join([head, *map(voice_line, voices), "Choose one below to hear it."]))


def preference_set(voice: str, *, everyone: bool) -> str:
    whose = "This server's voice" if everyone else "Your voice"
    return f"{whose} is {escape(voice)} from now on."


def preference_reset(*, everyone: bool) -> str:
    return f"{'This server has' if everyone else 'You have'} no preferred voice any more."


def preferences(mine: str, ours: str) -> str:
    return f"Your voice: {mine}.\nThis server's: {ours}."


def preferred(voice: str, *, usable: bool) -> str:
    return escape(voice) + ("" if usable else " (kept; the model that speaks now does not have it)")


# About the bot


def demo_welcome(notice: str, *, speaks: bool, python: str = "python") -> str:
    """The first message on the demo's page.

    notice: what is to be known of its model, where that is not Bark. speaks: whether it makes
    speech. python: how to call the interpreter that runs this.
    """
    commands = (
        f"end the demo and run\n```\n{python} -m synth fetch suno/bark-small\n"
        f"{python} -m bot demo --model suno/bark-small\n```"
    )
    lines = [
        "**Welcome!** This is the bot itself, at work on your own machine; only Discord is "
        "simulated, and nothing leaves this computer."
    ]
    if not speaks:
        lines.append(
            f"🔈 **{notice}** It is slowed down, so that there is something to watch. For real "
            f"speech, {commands}"
        )
    elif notice:
        lines.append(f"{notice} To hear it, {commands}")
    lines += [
        "• `/bark` speaks a text: watch its status, press Cancel, or play the clip.",
        "• `/voices` lets you hear each voice, and `/voice set` chooses yours.",
        "• `/queue` shows the clips that are being made, `/help` the rest.",
        "-# There are no voice channels here, so every clip comes as a file.",
    ]
    return "\n".join(lines)


def invite(url: str) -> str:
    return f"Add the bot to a server: <{url}>"


def help_text(ready: Ready, limits: LimitsSection) -> str:
    lines = [
        "**/bark** speaks a text: in your voice channel when you are in one, else as a file. "
        "`preset` chooses the voice, `seed` repeats a clip, `temperature` makes it calm or lively.",
        "Lines such as `Alice: hello` are a dialogue; `cast` gives each name its voice.",
        "Cues in the text: [laughs] [sighs] [gasps] [clears throat] [music], ♪ around lyrics, "
        "... and — to hesitate, CAPITALS to stress.",
        "**/voices** lists the voices and lets you hear them. **/voice set** chooses yours.",
        "**/join** **/leave** **/skip** **/stop** **/queue** are for the voice channel.",
        f"At most {limits.text_length:,} characters a clip, "
        f"and {_clips(limits.per_user)} of yours at a time.",
    ]
    if ready.notice:
        lines.append(ready.notice)
    return cut("\n".join(lines))


def _clips(count: int) -> str:
    return "one clip" if count == 1 else f"{count} clips"


def _either(names: Sequence[str]) -> str:
    escaped = [escape(name) for name in names]
    return escaped[0] if len(escaped) == 1 else f"{', '.join(escaped[:-1])} or {escaped[-1]}"
