"""What a Discord user can be told.

BotError
  UserError          the user can fix it: the text is shown as it is
  SynthUnavailable   synthesis is down, busy or late: trying again may help
  StartError         the bot cannot start: a setting, file or program is missing or wrong
"""


class BotError(Exception):
    """Base of everything `bot` raises on purpose."""


class UserError(BotError):
    """A refusal whose text is safe to show to the person who asked."""


class SynthUnavailable(BotError):
    """Synthesis cannot take or finish the job now; the text says when to try again."""


class StartError(BotError):
    """The bot cannot start; the text is one sentence that names the remedy (exit status 78)."""
