"""What a Discord user can be told.

BotError
  UserError          the user can fix it: the text is shown as it is
  SynthUnavailable   synthesis is down, busy or late: trying again may help
"""


class BotError(Exception):
    """Base of everything `bot` raises on purpose."""


class UserError(BotError):
    """A refusal whose text is safe to show to the person who asked."""


class SynthUnavailable(BotError):
    """Synthesis cannot take or finish the job now; the text says when to try again."""
