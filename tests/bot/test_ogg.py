"""Packets out of an Ogg stream, however its bytes come."""

import io

import numpy as np
import pytest
from discord.oggparse import OggStream
from hypothesis import given
from hypothesis import strategies as st

from bot.ogg import OggPackets
from synth.audio import AudioFormat, encode, open_ffmpeg, run


@pytest.fixture(scope="module")
def ogg() -> bytes:
    tone = np.sin(np.arange(24_000) / 20).astype(np.float32) / 4
    return run(encode(tone, 24_000, fmt=AudioFormat.OGG, ffmpeg=open_ffmpeg(), bit_rate=128_000))


@given(cuts=st.lists(st.integers(0, 12_000), max_size=30))
def test_it_reads_what_the_librarys_reader_does(ogg: bytes, cuts: list[int]) -> None:
    pages, found = OggPackets(), []
    places = [0, *sorted(cuts), len(ogg)]
    for begin, end in zip(places, places[1:], strict=False):
        found += pages.feed(ogg[begin:end])
    assert found == list(OggStream(io.BytesIO(ogg)).iter_packets())


def page(segments: list[bytes]) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(segments), *map(len, segments)]) + b"".join(segments)


def test_a_packet_may_go_on_in_the_next_page() -> None:
    long = bytes(range(255)) * 2
    pages = OggPackets()
    assert pages.feed(page([b"one", long[:255]])) == [b"one"]
    assert pages.feed(page([long[255:], b"", b"two"])) == [long, b"two"]


def test_what_is_no_ogg_is_told() -> None:
    with pytest.raises(ValueError, match="no Ogg"):
        OggPackets().feed(b"RIFF")
