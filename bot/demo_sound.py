"""What the demo's page plays by itself: each clip from when it cannot run dry any more.

A file can only be attached when it is whole. Beside the page, its server therefore has the sound
that is being made now as a WAV stream that grows, and a script that plays the newest of them.
Knows neither simcord nor Discord.
"""

import asyncio
import struct

import numpy as np
import numpy.typing as npt
from aiohttp import web

from synth.audio import StreamGain, VoiceLevels

SCRIPT = """\
// Plays what is being made, as soon as the bot's side says that it can be.
(async () => {
  const audio = document.body.appendChild(document.createElement("audio"));
  audio.id = "live-sound";
  let newest = 0;
  for (;;) {
    try {
      const answer = await fetch(`/live/next?after=${newest}`);
      if (!answer.ok) throw new Error(answer.statusText);
      newest = (await answer.json()).number;
      audio.src = `/live/sound?number=${newest}`;
      await audio.play();
    } catch {  // nobody has clicked yet, or the demo has ended
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
})();
"""
_UNKNOWN = 0xFFFFFFFF  # a WAV's length while it grows
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class PageSound:
    """One clip as a stream. Implements `bot.delivery.Ear`."""

    def __init__(self, sounds: "PageSounds", gain: StreamGain, sample_rate: int) -> None:
        self._sounds = sounds
        self._gain = gain
        self._sample_rate = sample_rate
        self._made_s = 0.0
        self.pieces: list[bytes] = [_header(sample_rate)]
        self.number = 0  # of those that were begun; 0: not yet
        self.over = False

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        self._made_s += len(samples) / self._sample_rate
        loud = np.clip(self._gain(samples), -1, 1)
        self.pieces.append((loud * 32767).astype("<i2").tobytes())
        if not self.number and self._made_s >= needed_s:
            self._sounds.begin(self)
        self._sounds.tell()

    def end(self, *, whole: bool) -> None:
        self.over = True
        if whole:
            self._gain.finish()
            if not self.number:
                self._sounds.begin(self)
        self._sounds.tell()


class PageSounds:
    """The clips that were begun, for the page's server; only the newest is kept."""

    def __init__(self) -> None:
        self._levels = VoiceLevels()
        self._newest: PageSound | None = None
        self._begun = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    def close(self) -> None:
        """Let go of every page: a server that closes waits for its answers."""
        self._closed = True
        self.tell()

    def ear(self, voice: str | None, sample_rate: int) -> PageSound:
        """For one clip that is about to be made."""
        return PageSound(self, StreamGain(self._levels, voice, sample_rate), sample_rate)

    def begin(self, sound: PageSound) -> None:
        self._begun += 1
        sound.number, self._newest = self._begun, sound

    def tell(self) -> None:
        """Something has changed: wake whoever waits."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()

    async def _change(self) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """/live.js; /live/next: the number of a sound newer than `after`, once there is one;
        /live/sound: the sound of that number, to its end.
        """
        if request.path == "/live.js":
            return web.Response(text=SCRIPT, content_type="text/javascript", headers=_HEADERS)
        if request.path == "/live/next":
            after = request.query.get("after", "")
            while self._newest is None or str(self._newest.number) == after:
                await self._change()
                if self._closed:
                    raise web.HTTPServiceUnavailable()
            return web.json_response({"number": self._newest.number}, headers=_HEADERS)
        return await self._stream(request)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        sound = self._newest
        if sound is None or str(sound.number) != request.query.get("number"):
            raise web.HTTPNotFound()
        response = web.StreamResponse(headers=_HEADERS | {"Content-Type": "audio/wav"})
        sent = 0
        try:
            await response.prepare(request)
            while (sent < len(sound.pieces) or not sound.over) and not self._closed:
                if sent < len(sound.pieces):
                    await response.write(sound.pieces[sent])
                    sent += 1
                else:
                    await self._change()
            await response.write_eof()
        except ConnectionResetError:  # the page was reloaded or closed: nobody listens any more
            pass
        return response


def _header(sample_rate: int) -> bytes:
    """Of a mono WAV of 16 bit whose length is not known."""
    fmt = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", _UNKNOWN)
    return b"RIFF" + struct.pack("<I", _UNKNOWN) + body
