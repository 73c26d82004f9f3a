"""Pack voices for shipping: one file of arrays and a table that people can read.

    python -m synth.data.pack FOLDER

FOLDER is `bark/assets/prompts` of Suno's package, which carries its 271 voices under the MIT
licence (see NOTICE). The result lies beside this script.
"""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from synth.protocol import Gender, HistoryPrompt, VoiceInfo
from synth.vocab import BARK, ModelConfig
from synth.voices import ARRAYS_FILE, TABLE_FILE, load_npz

COLUMNS = (
    *("name", "language", "version", "gender", "duration_s"),
    *("semantic_tokens", "frames", "same_as"),
)
# By ear, from TTS-WebUI's table of v2 (MIT); the other v2 voices are male, v1 is not in the table.
FEMALE = {
    *("de_3 de_8 en_9 es_8 es_9 fr_1 fr_2 fr_5 hi_0 hi_1 hi_3 hi_4 hi_9 it_2 it_7 it_9").split(),
    *("ja_0 ja_1 ja_3 ja_4 ja_5 ja_7 ja_8 ja_9 ko_0 pl_4 pl_6 pl_9 ru_5 ru_6 ru_9").split(),
    *("tr_4 tr_5 zh_4 zh_6 zh_7 zh_9").split(),
}


def write_pack(
    folder: Path, voices: Iterable[tuple[VoiceInfo, HistoryPrompt]], config: ModelConfig
) -> None:
    """Write `voices` as a `synth.voices.VoicePack` in `folder`; equal ones are stored once.

    The coarse codes have to be the first books of the fine ones, as in every generation.
    """
    semantic: list[np.ndarray] = []
    fine: list[np.ndarray] = []
    known: dict[bytes, str] = {}
    with (folder / TABLE_FILE).open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for info, voice in voices:
            books = config.coarse.codebooks
            if not np.array_equal(voice.coarse_codes, voice.fine_codes[:books]):
                raise ValueError(f"{info.name}: coarse codes differ from the first fine ones")
            same_as = known.setdefault(
                voice.semantic.tobytes() + b"|" + voice.fine_codes.tobytes(), info.name
            )
            if same_as == info.name:
                semantic.append(voice.semantic.astype(np.int16))
                fine.append(voice.fine_codes.astype(np.int16))
            table.writerow(
                {
                    "name": info.name,
                    "language": info.language,
                    "version": info.version,
                    "gender": info.gender.value,
                    "duration_s": f"{info.duration_s:.2f}",
                    "semantic_tokens": len(voice.semantic),
                    "frames": voice.fine_codes.shape[1],
                    "same_as": "" if same_as == info.name else same_as,
                }
            )
    np.savez_compressed(
        folder / ARRAYS_FILE,
        semantic=np.concatenate(semantic),
        fine=np.concatenate(fine, axis=1),
        coarse_codebooks=np.array(config.coarse.codebooks),
        family=np.array(config.family),
    )


def suno_voices(prompts: Path) -> list[tuple[VoiceInfo, HistoryPrompt]]:
    """Suno's voices in the order people look for them: v2, then v1, by language and number."""
    voices = []
    for file in prompts.rglob("*.npz"):
        history = load_npz(file, BARK)
        name = file.relative_to(prompts).with_suffix("").as_posix()
        version = "v2" if name.startswith("v2/") else "v1"
        short = name.removeprefix("v2/").replace("_speaker_", "_")
        if name.startswith("speaker_"):
            language = (
                "zh"  # byte for byte the Chinese voices, left over from before they had names
            )
        else:
            language = "en" if name == "announcer" else short.split("_")[0]
        gender = Gender.UNKNOWN
        if version == "v2":
            gender = Gender.FEMALE if short in FEMALE else Gender.MALE
        seconds = history.fine_codes.shape[1] / BARK.codec.frame_rate
        voices.append((VoiceInfo(name, language, version, gender, round(seconds, 2)), history))

    def place(voice: tuple[VoiceInfo, HistoryPrompt]) -> tuple[bool, bool, int, str]:
        info = voice[0]
        leftover = "_speaker_" not in info.name
        return leftover, info.version != "v2", BARK.languages.index(info.language), info.name

    return sorted(voices, key=place)


def main() -> None:
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    write_pack(Path(__file__).parent, suno_voices(Path(sys.argv[1])), BARK)


if __name__ == "__main__":
    main()
