"""What the demo's page plays by itself: each clip from when it cannot run dry any more.

A file can only be attached when it is whole. Beside the page, its server therefore has the sound
that is being made now as a WAV stream that grows, and a script that plays the newest of them.
Knows neither simcord nor Discord.
"""

import asyncio
import logging

import numpy as np
import numpy.typing as npt
from aiohttp import web

from bot.errors import SynthUnavailable
from bot.live_encoder import LiveEncoder
from synth.audio import MOST_HELD_DB, FFmpeg, StreamGain, VoiceLevels, encode_live

logger = logging.getLogger(__name__)

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
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class PageSound:
    """One clip as a stream. Implements `bot.delivery.Ear`."""

    def __init__(
        self, sounds: "PageSounds", ffmpeg: FFmpeg, gain: StreamGain, sample_rate: int
    ) -> None:
        self._sounds = sounds
        self._gain = gain
        self._sample_rate = sample_rate
        self._encoder = LiveEncoder(
            encode_live(sample_rate, ffmpeg=ffmpeg, fmt="wav"), self._append
        )
        self._kept: list[npt.NDArray[np.float32]] = []  # what came before it began
        self._made = 0
        self.pieces: list[bytes] = []
        self.number = 0  # of those that were begun; 0: not yet
        self.over = False

    def hear(self, samples: npt.NDArray[np.float32], needed_s: float) -> None:
        self._made += len(samples)
        self._kept.append(samples)
        if self.number or self._made >= needed_s * self._sample_rate:
            self._let_out()

    def end(self, *, whole: bool) -> None:
        if whole:
            self._let_out()
            self._gain.finish()
        self._encoder.finish()

    def _let_out(self) -> None:
        if not self.number:
            self._sounds.begin(self)
        if self._kept:
            self._encoder.feed(self._gain(np.concatenate(self._kept)))
            self._kept.clear()

    async def encode(self) -> None:
        """Make the stream, from when it was begun to its end."""
        try:
            await self._encoder.run()
        except SynthUnavailable as problem:  # the clip's file will say so too
            logger.warning("the page's sound broke off: %s", problem)
        finally:
            self.over = True
            self._sounds.tell()

    def _append(self, data: bytes) -> None:
        self.pieces.append(data)
        self._sounds.tell()


class PageSounds:
    """The clips that were begun, for the page's server; only the newest is kept."""

    def __init__(self, ffmpeg: FFmpeg, *, target_lufs: float) -> None:
        self._ffmpeg = ffmpeg
        self._target_lufs = target_lufs
        self._levels = VoiceLevels()
        self._newest: PageSound | None = None
        self._begun = 0
        self._encoding: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed = False

    async def close(self) -> None:
        """Let go of every page, since a server that closes waits for its answers; leave no encoder
        behind.
        """
        self._closed = True
        self.tell()
        encoding = tuple(self._encoding)
        for task in encoding:
            task.cancel()
        await asyncio.gather(*encoding, return_exceptions=True)

    def ear(self, voice: str | None, sample_rate: int) -> PageSound:
        """For one clip that is about to be made."""
        gain = StreamGain(
            self._levels,
            voice,
            sample_rate,
            target_lufs=self._target_lufs,
            held_db=MOST_HELD_DB,
        )
        return PageSound(self, self._ffmpeg, gain, sample_rate)

    def begin(self, sound: PageSound) -> None:
        self._begun += 1
        sound.number, self._newest = self._begun, sound
        if not self._closed:
            task = asyncio.create_task(sound.encode(), name="page sound")
            self._encoding.add(task)
            task.add_done_callback(self._encoding.discard)
        self.tell()

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
