"""Which voice a request gets: the one it names, else the user's, else the server's, else none."""

from bot import replies
from bot.errors import UserError
from bot.services import Services
from bot.store import Preference


def known_voice(services: Services, name: str) -> str:
    """The loaded model's own spelling of a voice. Raises UserError with the nearest names."""
    voice = services.catalogue.get(name)
    if voice is None:
        raise UserError(replies.unknown_voice(name, services.catalogue.nearest(name)))
    return voice.name


async def resolve_voice(
    services: Services, named: str | None, *, user_id: int, guild_id: int | None
) -> tuple[str | None, tuple[str, ...]]:
    """The voice to use and what the user is to be told about it.

    A preference that the loaded model does not know is kept and passed over, with a note.
    """
    if named:
        return known_voice(services, named), ()
    mine = await services.store.user_voice(user_id)
    ours = await services.store.guild_voice(guild_id) if guild_id is not None else None
    passed_over: Preference | None = None
    for preference in (mine, ours):
        if preference is None:
            continue
        if is_usable(services, preference):
            return _noted(services, passed_over, preference.voice)
        passed_over = passed_over or preference
    return _noted(services, passed_over, None)


def is_usable(services: Services, preference: Preference) -> bool:
    """Whether the loaded model has that voice."""
    same_family = preference.family == services.ready.family
    return same_family and services.catalogue.get(preference.voice) is not None


def _noted(
    services: Services, passed_over: Preference | None, used: str | None
) -> tuple[str | None, tuple[str, ...]]:
    if passed_over is None:
        return used, ()
    other_model = passed_over.family != services.ready.family
    return used, (replies.voice_replaced(passed_over.voice, used, other_model=other_model),)
