"""What a Discord user can be told.

BotError
  UserError          the user can fix it: the text is shown as it is
  SynthUnavailable   synthesis is down, busy or late: trying again may help
  StoreUnavailable   the database cannot be read or written now
  Untold             an answer that could be given in no way at all
  StartError         the bot cannot start: a setting, file or program is missing or wrong
"""


class BotError(Exception):
    """Base of everything `bot` raises on purpose."""


class UserError(BotError):
    """A refusal whose text is safe to show to the person who asked."""


class SynthUnavailable(BotError):
    """Synthesis cannot take or finish the job now; the text says when to try again."""


class StoreUnavailable(BotError):
    """The database cannot be read or written now, as on a full disk; the text says so."""


class Untold(BotError):
    """The last word on a request could be said nowhere; the text is for the log."""


class StartError(BotError):
    """The bot cannot start; the text is one sentence that names the remedy (exit status 78)."""
