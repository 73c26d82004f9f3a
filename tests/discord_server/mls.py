"""The delivery service's share of MLS (RFC 9420): sign proposals, take a commit apart.

Discord's voice gateway is an *external sender*: it holds no group secret, proposes who joins and
leaves, and hands the members' commits and welcomes around. Cipher suite 2 only (P-256, AES-128-GCM,
SHA-256), as DAVE uses. Knows nothing of the voice gateway's opcodes.

Source: RFC 9420 sections 6 (message framing), 7.2 (leaf nodes), 12.1 (proposals), 12.4 (commits).
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

MLS10 = 1
PUBLIC_MESSAGE = 1
KEY_PACKAGE_MESSAGE = 5
CIPHER_SUITE = 2  # MLS_128_DHKEMP256_AES128GCM_SHA256_P256

SENDER_MEMBER = 1
SENDER_EXTERNAL = 2
CONTENT_PROPOSAL = 2
CONTENT_COMMIT = 3
PROPOSAL_ADD = 1
PROPOSAL_REMOVE = 3
CREDENTIAL_BASIC = 1
LEAF_FROM_KEY_PACKAGE = 1
LEAF_FROM_COMMIT = 3


def u8(value: int) -> bytes:
    return struct.pack(">B", value)


def u16(value: int) -> bytes:
    return struct.pack(">H", value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def opaque(data: bytes) -> bytes:
    """A variable-size vector: its length as a variable-size integer, then itself."""
    size = len(data)
    if size < 1 << 6:
        return u8(size) + data
    if size < 1 << 14:
        return u16(size | 0x4000) + data
    return u32(size | 0x8000_0000) + data


class Reader:
    """Walks over a serialized structure. Raises ValueError where it ends too soon."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise ValueError(f"wanted {size} bytes at {self.offset} of {len(self.data)}")
        piece = self.data[self.offset : end]
        self.offset = end
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def opaque(self) -> bytes:
        first = self.number(1)
        match first >> 6:
            case 0:
                size = first
            case 1:
                size = (first & 0x3F) << 8 | self.number(1)
            case 2:
                size = (first & 0x3F) << 24 | self.number(3)
            case _:
                raise ValueError("a vector's length has a prefix that does not exist")
        return self.take(size)


def _sign_content(label: str, content: bytes) -> bytes:
    return opaque(b"MLS 1.0 " + label.encode()) + opaque(content)


def strip_key_package(message: bytes) -> bytes:
    """The KeyPackage itself, whether or not a client wrapped it into an MLSMessage."""
    if message[:4] == u16(MLS10) + u16(KEY_PACKAGE_MESSAGE):
        return message[4:]
    return message


class ExternalSender:
    """A signing key and a name, which the members of a group let propose."""

    def __init__(self, identity: bytes = b"voice-gateway") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._identity = identity

    def package(self) -> bytes:
        """The ExternalSender structure: signature key, basic credential."""
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return opaque(point) + u16(CREDENTIAL_BASIC) + opaque(self._identity)

    def add(self, key_package: bytes, *, group_id: bytes, epoch: int) -> bytes:
        """A signed MLSMessage that proposes to let the owner of `key_package` in."""
        proposal = u16(PROPOSAL_ADD) + strip_key_package(key_package)
        return self._proposal_message(proposal, group_id, epoch)

    def remove(self, leaf_index: int, *, group_id: bytes, epoch: int) -> bytes:
        """A signed MLSMessage that proposes to put the member at `leaf_index` out."""
        return self._proposal_message(u16(PROPOSAL_REMOVE) + u32(leaf_index), group_id, epoch)

    def _proposal_message(self, proposal: bytes, group_id: bytes, epoch: int) -> bytes:
        content = (
            opaque(group_id)
            + u64(epoch)
            + u8(SENDER_EXTERNAL)
            + u32(0)  # the first and only entry of the group's external senders
            + opaque(b"")  # authenticated data
            + u8(CONTENT_PROPOSAL)
            + proposal
        )
        # The group context belongs to the signed bytes for members only, not for us.
        framed = u16(MLS10) + u16(PUBLIC_MESSAGE) + content
        signature = self._key.sign(
            _sign_content("FramedContentTBS", framed), ec.ECDSA(hashes.SHA256())
        )
        return framed + opaque(signature)


def split_commit_welcome(data: bytes) -> tuple[bytes, bytes]:
    """Cut opcode 28's payload into the commit's MLSMessage and the Welcome (b"" without one).

    Raises ValueError when it does not start with a member's public commit.
    """
    reader = Reader(data)
    if reader.number(2) != MLS10 or reader.number(2) != PUBLIC_MESSAGE:
        raise ValueError("a commit must be a public message of MLS 1.0")
    reader.opaque()  # group id
    reader.number(8)  # epoch
    if reader.number(1) != SENDER_MEMBER:
        raise ValueError("a commit must come from a member")
    reader.number(4)  # leaf index
    reader.opaque()  # authenticated data
    if reader.number(1) != CONTENT_COMMIT:
        raise ValueError("the message is not a commit")
    reader.opaque()  # proposals
    if reader.number(1):
        _skip_leaf_node(reader)
        reader.opaque()  # nodes of the update path
    reader.opaque()  # signature
    reader.opaque()  # confirmation tag
    reader.opaque()  # membership tag
    return data[: reader.offset], data[reader.offset :]


def commit_epoch(commit: bytes) -> int:
    """The epoch that a commit was made in."""
    reader = Reader(commit[4:])
    reader.opaque()
    return reader.number(8)


def _skip_leaf_node(reader: Reader) -> None:
    reader.opaque()  # encryption key
    reader.opaque()  # signature key
    if reader.number(2) != CREDENTIAL_BASIC:
        raise ValueError("DAVE knows basic credentials only")
    reader.opaque()  # identity
    for _ in range(5):  # versions, cipher suites, extensions, proposals, credentials
        reader.opaque()
    source = reader.number(1)
    if source == LEAF_FROM_KEY_PACKAGE:
        reader.take(16)  # lifetime
    elif source == LEAF_FROM_COMMIT:
        reader.opaque()  # parent hash
    reader.opaque()  # extensions
    reader.opaque()  # signature
