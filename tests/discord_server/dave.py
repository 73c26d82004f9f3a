"""End-to-end encryption of one voice channel, from the voice gateway's side and a listener's.

A `Call` is what Discord's gateway is to DAVE: it names the external sender, proposes who joins and
leaves, takes the first valid commit and has everyone change over. A `Listener` is a person in the
channel, with a DAVE session of their own. Knows nothing of sockets: a member is told things.

Source: the DAVE protocol's whitepaper, version 1 (opcodes 21 to 31).
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import davey

from tests.discord_server import mls
from tests.discord_server.journal import Journal

VERSION = 1
MAGIC = b"\xfa\xfa"  # ends each encrypted frame
SILENCE = b"\xf8\xff\xfe"  # Opus silence, which DAVE lets pass as it is
APPEND = 0


class Member(Protocol):
    """One participant of a call, near (a listener here) or far (a bot behind a websocket)."""

    user_id: int
    near: bool

    async def external_sender(self, package: bytes) -> None: ...
    async def prepare_epoch(self, package: bytes) -> None: ...
    async def proposals(self, operation: int, proposals: bytes) -> None: ...
    async def announce_commit(self, transition: int, commit: bytes) -> None: ...
    async def welcome(self, transition: int, welcome: bytes) -> None: ...
    async def execute(self, transition: int) -> None: ...


@dataclass
class _Proposed:
    epoch: int
    asked: list[Member]
    joining: list[int]
    leaves: list[int | None]  # as they are after the commit


class Call:
    """The MLS group of one channel. `_leaves` holds the user at each leaf, None where blank."""

    def __init__(self, channel_id: int, journal: Journal) -> None:
        self._group_id = struct.pack(">Q", channel_id)
        self._journal = journal
        self._sender = mls.ExternalSender()
        self._members: dict[int, Member] = {}
        self._key_packages: dict[int, bytes] = {}
        self._epoch: int | None = None
        self._leaves: list[int | None] = []
        self._leaving: set[int] = set()
        self._proposed: _Proposed | None = None
        self._transitions = itertools.count(1)
        self._changing: dict[int, set[int]] = {}  # transition -> who is not ready yet
        self.settled = True  # False from a listener's joining until the bot has changed over
        self.spoil_next_welcome = False

    @property
    def member_ids(self) -> list[int]:
        return [user for user in self._leaves if user is not None]

    async def join(self, member: Member) -> None:
        self._members[member.user_id] = member
        await member.external_sender(self._sender.package())

    async def key_package(self, user_id: int, key_package: bytes) -> None:
        """A member is ready to be let in (again, when their group state was lost)."""
        if user_id in self._leaves:
            self._leaving.add(user_id)
        self._key_packages[user_id] = key_package
        await self._propose()

    async def leave(self, user_id: int) -> None:
        self._members.pop(user_id, None)
        self._key_packages.pop(user_id, None)
        for waiting in self._changing.values():
            waiting.discard(user_id)
        if user_id in self._leaves:
            self._leaving.add(user_id)
        if not self._members:
            self._epoch, self._leaves, self._proposed = None, [], None
            self._leaving.clear()
        elif self._proposed and all(m.user_id == user_id for m in self._proposed.asked):
            self._proposed = None  # nobody is left to answer
        await self._propose()

    async def recreate(self) -> None:
        """Let everyone begin a new group (opcode 24, epoch 1), as after a change of version."""
        self._epoch, self._leaves, self._proposed = None, [], None
        self._key_packages.clear()
        self._leaving.clear()
        self._changing.clear()
        self._journal.note("dave_recreated")
        for member in _near_first(self._members.values()):
            await member.prepare_epoch(self._sender.package())

    async def invalid(self, user_id: int) -> None:
        """Opcode 31: a member could not use a commit or welcome; a new key package follows."""
        self._journal.note("dave_invalid_commit", user_id=user_id)

    async def _propose(self) -> None:
        if self._proposed is not None:
            return
        leaves: list[int | None]
        here = [user for user in self._members if user in self._key_packages]
        if self._epoch is None:
            if len(here) < 2:
                return  # alone: there is no group until somebody else comes
            creator, *joining = here
            asked, leaving, epoch = [self._members[creator]], [], 0
            leaves = [creator]
        else:
            leaving = [index for index, user in enumerate(self._leaves) if user in self._leaving]
            leaves = [None if user in self._leaving else user for user in self._leaves]
            joining = [user for user in here if user not in leaves]
            asked = [self._members[user] for user in leaves if user in self._members]
            epoch = self._epoch
            if not leaving and not joining:
                return
            if not asked:  # those who knew the group have all gone: it starts anew
                self._epoch, self._leaves = None, []
                self._leaving.clear()
                await self._propose()
                return
        proposals = [
            self._sender.remove(index, group_id=self._group_id, epoch=epoch) for index in leaving
        ] + [
            self._sender.add(self._key_packages[user], group_id=self._group_id, epoch=epoch)
            for user in joining
        ]
        self._leaving.clear()
        self._proposed = _Proposed(epoch, asked, joining, _fill(leaves, joining))
        self._journal.note("dave_proposed", epoch=epoch, joining=joining, leaving=leaving)
        for member in reversed(_near_first(asked)):  # a near one commits before it returns
            await member.proposals(APPEND, mls.opaque(b"".join(proposals)))

    async def commit(self, user_id: int, data: bytes) -> None:
        """Opcode 28. The first commit of an epoch wins; later ones are dropped."""
        proposed = self._proposed
        commit, welcome = mls.split_commit_welcome(data)
        if proposed is None or mls.commit_epoch(commit) != proposed.epoch:
            self._journal.note("dave_commit_dropped", user_id=user_id)
            return
        self._proposed = None
        self._epoch = proposed.epoch + 1
        self._leaves = proposed.leaves
        transition = next(self._transitions)
        joining = [self._members[user] for user in proposed.joining if user in self._members]
        members = [m for m in proposed.asked if m.user_id in self._members]
        self._changing[transition] = {member.user_id for member in [*members, *joining]}
        self._journal.note("dave_committed", user_id=user_id, epoch=self._epoch)
        for member in _near_first(members):
            await member.announce_commit(transition, commit)
        for member in _near_first(joining):
            spoil = self.spoil_next_welcome and not member.near
            if spoil:
                self.spoil_next_welcome = False
            await member.welcome(transition, b"\0" + welcome[1:-1] if spoil else welcome)
        await self._propose()

    async def ready(self, user_id: int, transition: int) -> None:
        """Opcode 23. Once all are ready, all are told to change over."""
        waiting = self._changing.get(transition)
        if waiting is None:
            return
        waiting.discard(user_id)
        if not waiting:
            del self._changing[transition]
            self.settled = True
            self._journal.note("dave_executed", transition=transition, members=self.member_ids)
            for member in list(self._members.values()):
                await member.execute(transition)


def _near_first(members: Iterable[Member]) -> list[Member]:
    """A listener changes first, so that they can read the first frame a bot sends."""
    return sorted(members, key=lambda member: not member.near)


def _fill(leaves: list[int | None], joining: list[int]) -> list[int | None]:
    """Where new members end up: in the leftmost blank leaves, then at the right end."""
    filled = list(leaves)
    while filled and filled[-1] is None:
        filled.pop()
    for user in joining:
        if None in filled:
            filled[filled.index(None)] = user
        else:
            filled.append(user)
    return filled


class Listener:
    """A person in a channel who can hear: DAVE through `davey`, without a socket."""

    near = True

    def __init__(self, user_id: int, channel_id: int, call: Call) -> None:
        self.user_id = user_id
        self._call = call
        self._channel_id = channel_id
        self._session = davey.DaveSession(VERSION, user_id, channel_id)
        self._former: davey.DaveSession | None = None  # for frames that were on their way

    async def enter(self) -> None:
        await self._call.join(self)
        await self._call.key_package(self.user_id, self._session.get_serialized_key_package())

    async def leave(self) -> None:
        await self._call.leave(self.user_id)

    def decrypt(self, sender_id: int, frame: bytes) -> bytes | None:
        """The Opus packet of an encrypted frame, None when it does not open."""
        for session in (self._session, self._former):
            if session is not None:
                try:
                    return session.decrypt(sender_id, davey.MediaType.audio, frame)
                except ValueError:
                    pass
        return None

    @property
    def privacy_code(self) -> str | None:
        return self._session.voice_privacy_code

    async def external_sender(self, package: bytes) -> None:
        self._session.set_external_sender(package)

    async def prepare_epoch(self, package: bytes) -> None:
        self._former = self._session
        self._session = davey.DaveSession(VERSION, self.user_id, self._channel_id)
        await self.external_sender(package)
        await self._call.key_package(self.user_id, self._session.get_serialized_key_package())

    async def proposals(self, operation: int, proposals: bytes) -> None:
        kind = davey.ProposalsOperationType.append
        result = self._session.process_proposals(kind, proposals)
        if result is not None:
            await self._call.commit(self.user_id, result.commit + (result.welcome or b""))

    async def announce_commit(self, transition: int, commit: bytes) -> None:
        self._session.process_commit(commit)
        await self._call.ready(self.user_id, transition)

    async def welcome(self, transition: int, welcome: bytes) -> None:
        self._session.process_welcome(welcome)
        await self._call.ready(self.user_id, transition)

    async def execute(self, transition: int) -> None:
        pass  # davey changes over with the commit
