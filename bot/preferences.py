"""Which voice a request gets: the one it names, else the user's, else the server's, else none."""

from bot import replies
from bot.errors import UserError
from bot.services import Services
from bot.store import Preference
from synth.voices import shipped_voice


def known_voice(services: Services, name: str) -> str:
    """The loaded model's own spelling of a voice. Raises UserError that names others to take."""
    voice = services.catalogue.get(name)
    if voice is None:
        other = shipped_voice(name)
        if other and (stand_in := services.catalogue.most_like(other)):
            raise UserError(replies.voice_of_another_model(other.name, stand_in.name))
        raise UserError(replies.unknown_voice(name, services.catalogue.nearest(name)))
    return voice.name


async def resolve_voice(
    services: Services, named: str | None, *, user_id: int, guild_id: int | None
) -> tuple[str | None, tuple[str, ...]]:
    """The voice to use and what the user is to be told about it.

    A preference that the loaded model does not know is kept, with a note. Another one that it does
    know is used instead; else, for the voice of another model, the nearest by gender and language.
    """
    if named:
        return known_voice(services, named), ()
    mine = await services.store.user_voice(user_id)
    ours = await services.store.guild_voice(guild_id) if guild_id is not None else None
    wanted = [preference for preference in (mine, ours) if preference]
    if not wanted:
        return None, ()
    first = wanted[0]
    usable = next((p for p in wanted if is_usable(services, p)), None)
    if usable is first:
        return first.voice, ()
    if usable:
        used = usable.voice
    elif first.family == services.ready.family:
        used = None
    else:
        stand_in = services.catalogue.most_like(shipped_voice(first.voice))
        used = stand_in.name if stand_in else None
    other_model = first.family != services.ready.family
    return used, (replies.voice_replaced(first.voice, used, other_model=other_model),)


def is_usable(services: Services, preference: Preference) -> bool:
    """Whether the loaded model has that voice."""
    same_family = preference.family == services.ready.family
    return same_family and services.catalogue.get(preference.voice) is not None
