import errno
import io
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synth.data import pack
from synth.errors import InvalidRequest
from synth.protocol import Gender, HistoryPrompt
from synth.vocab import BARK, BARK_SMALL
from synth.voices import PACKS, VoiceBook, VoicePack, load_npz, save_npz, validate

OTHER = replace(BARK, name="other", lineage="other")
SHIPPED = PACKS[0]


@pytest.fixture(scope="module")
def book() -> VoiceBook:
    return VoiceBook(BARK)


@pytest.fixture(scope="module")
def original() -> Path:
    """Suno's own folder of voices; only looked for, as its package imports far more than arrays."""
    spec = find_spec("bark")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "assets" / "prompts"


def history(tokens: int = 20, coarse: int = 30, fine: int = 30) -> HistoryPrompt:
    rng = np.random.default_rng(tokens)
    codes = rng.integers(0, 1024, (8, max(coarse, fine)))
    return HistoryPrompt(
        rng.integers(0, 10_000, tokens), codes[:2, :coarse], codes[:, :fine], BARK.family
    )


# -- What ships -----------------------------------------------------------------------------------


def test_every_voice_of_the_original_ships_array_by_array(book: VoiceBook, original: Path) -> None:
    files = sorted(original.rglob("*.npz"))
    assert len(files) == 271
    names = {file.relative_to(original).with_suffix("").as_posix(): file for file in files}
    assert {info.name for info in book.infos} == set(names)
    seconds = {info.name: info.duration_s for info in book.infos}
    for name, file in names.items():
        ours = book.get(name)
        with np.load(file) as theirs:
            for array, key in (
                (ours.semantic, "semantic_prompt"),
                (ours.coarse_codes, "coarse_prompt"),
                (ours.fine_codes, "fine_prompt"),
            ):
                assert array.dtype == np.int64
                assert np.array_equal(array, theirs[key]), (name, key)
            assert seconds[name] == pytest.approx(theirs["fine_prompt"].shape[1] / 75, abs=0.01)


def test_packing_again_gives_the_file_that_ships(tmp_path: Path, original: Path) -> None:
    pack.write_pack(tmp_path, pack.suno_voices(original), BARK)
    assert (tmp_path / "voices.csv").read_bytes() == (SHIPPED / "voices.csv").read_bytes()
    again, shipped = VoicePack(tmp_path), VoicePack(SHIPPED)
    for name, array in shipped._arrays.items():
        assert np.array_equal(array, again._arrays[name])


def test_the_pack_is_small_and_carries_its_licence() -> None:
    assert (SHIPPED / "voices.npz").stat().st_size < 2_000_000
    notice = (SHIPPED / "NOTICE").read_text()
    assert "MIT License" in notice and "Copyright (c) Suno, Inc" in notice


def test_the_table_tells_language_version_gender_and_length(book: VoiceBook) -> None:
    infos = {info.name: info for info in book.infos}
    assert book.infos[0].name == "v2/en_speaker_0"
    assert infos["v2/en_speaker_9"].gender is Gender.FEMALE
    assert infos["v2/en_speaker_6"].gender is Gender.MALE
    assert infos["en_speaker_6"].gender is Gender.UNKNOWN
    assert infos["v2/ja_speaker_1"].language == "ja" and infos["v2/ja_speaker_1"].version == "v2"
    assert infos["announcer"].duration_s == 10.0
    v2 = [info for info in book.infos if info.version == "v2"]
    assert len(v2) == 130 and len({info.language for info in v2}) == 13
    assert sum(info.gender is Gender.FEMALE for info in v2) == len(pack.FEMALE) == 37


def test_bark_and_bark_small_share_voices_and_others_do_not() -> None:
    assert len(VoiceBook(BARK_SMALL).infos) == 271
    strange = VoiceBook(OTHER)
    assert "v2/en_speaker_6" not in {info.name for info in strange.infos}
    with pytest.raises(
        InvalidRequest, match="v2/en_speaker_6 is not for the model other: get Bark"
    ):
        strange.get("v2/en_speaker_6")


@pytest.mark.parametrize("name", [" V2/EN_speaker_6 ", "v2\\en_speaker_6"])
def test_a_name_is_found_as_people_write_it(book: VoiceBook, name: str) -> None:
    assert book.resolve(name) == "v2/en_speaker_6"


def test_an_unknown_name_is_answered_with_the_nearest(book: VoiceBook) -> None:
    with pytest.raises(InvalidRequest, match=r"no voice 'v2/en_speaker_66'; .*v2/en_speaker_6[,.]"):
        book.get("v2/en_speaker_66")
    with pytest.raises(InvalidRequest, match="announcer"):
        book.get("anouncer")
    with pytest.raises(InvalidRequest, match=r"no voice '../../etc/passwd', nor one like it; one"):
        book.get("../../etc/passwd")
    with pytest.raises(InvalidRequest) as error:
        book.get("x" * 5000)
    assert len(str(error.value)) < 150


# -- Saved voices ---------------------------------------------------------------------------------


def test_a_saved_voice_comes_back_and_the_original_reads_it(tmp_path: Path) -> None:
    voice = history()
    save_npz(tmp_path / "me.npz", voice)
    again = load_npz(tmp_path / "me.npz", BARK)
    assert again.family == BARK.family
    with np.load(tmp_path / "me.npz") as theirs:  # numpy's defaults, as the original
        for ours, key in (
            (again.semantic, "semantic_prompt"),
            (again.coarse_codes, "coarse_prompt"),
            (again.fine_codes, "fine_prompt"),
        ):
            assert np.array_equal(theirs[key], ours) and theirs[key].dtype == np.int64
    assert np.array_equal(again.semantic, voice.semantic)
    assert [file.name for file in tmp_path.iterdir()] == ["me.npz"]


def test_a_voice_the_original_saved_counts_as_barks(tmp_path: Path) -> None:
    voice = history()
    np.savez(
        tmp_path / "suno.npz",
        semantic_prompt=voice.semantic.astype(np.uint16),
        coarse_prompt=voice.coarse_codes,
        fine_prompt=voice.fine_codes,
    )
    with (tmp_path / "suno.npz").open("rb") as file:
        loaded = load_npz(file, BARK_SMALL)
    assert loaded.family == BARK.family and loaded.semantic.dtype == np.int64
    with pytest.raises(InvalidRequest, match="belongs to another model .*use a voice of other"):
        load_npz(tmp_path / "suno.npz", OTHER)


def test_a_full_disk_leaves_the_old_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_npz(tmp_path / "me.npz", history())
    before = (tmp_path / "me.npz").read_bytes()

    def full(file: io.BufferedWriter, **arrays: object) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(InvalidRequest, match=r"me\.npz could not be written \(No space left"):
        save_npz(tmp_path / "me.npz", history(40, 60, 60))
    assert (tmp_path / "me.npz").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_voice_needs_its_suffix_and_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"call it me\.npz"):
        save_npz(tmp_path / "me.wav", history())
    with pytest.raises(InvalidRequest, match="could not be written"):
        save_npz(tmp_path / "nowhere" / "me.npz", history())


def npz(file: Path, **changes: Any) -> Path:
    voice = history()
    arrays: dict[str, Any] = {
        "semantic_prompt": voice.semantic,
        "coarse_prompt": voice.coarse_codes,
        "fine_prompt": voice.fine_codes,
    } | changes
    given: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(file, **given)
    return file


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"semantic_prompt": None}, "lacks semantic_prompt"),
        ({"semantic_prompt": np.full(20, 10_000)}, "numbers from 0 to 9999; found 10000"),
        ({"coarse_prompt": np.full((2, 30), -1)}, "numbers from 0 to 1023; found -1"),
        ({"fine_prompt": np.full((8, 30), 1024)}, "fine_prompt should hold numbers from 0 to 1023"),
        ({"coarse_prompt": np.zeros((3, 30), int)}, "2 rows, one a codebook, and has 3"),
        ({"coarse_prompt": np.zeros((30, 2), int)}, "2 rows, one a codebook, and has 30"),
        ({"coarse_prompt": np.zeros((2, 0), int)}, "2-dimensional and not empty"),
        ({"fine_prompt": np.full((8, 30), 2**64 - 1, np.uint64)}, "numbers from 0 to 1023"),
        ({"fine_prompt": np.zeros((2, 30), int)}, "8 rows, one a codebook, and has 2"),
        ({"semantic_prompt": np.zeros((20, 1), int)}, "1-dimensional and not empty"),
        ({"semantic_prompt": np.zeros(0, int)}, "not empty"),
        ({"semantic_prompt": np.full(20, 0.5)}, "whole numbers, not float64"),
        ({"semantic_prompt": np.array([{"a": 1}], object)}, "is no voice"),
        ({"coarse_prompt": np.zeros((2, 1), int)}, "too short"),
    ],
)
def test_a_file_that_is_no_voice_says_why(tmp_path: Path, changes: dict, says: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"bad\.npz.*{says}"):
        load_npz(npz(tmp_path / "bad.npz", **changes), BARK)


def test_a_file_that_lies_about_its_arrays_is_refused(tmp_path: Path) -> None:
    """The header of one array promises a thousand times what follows it."""
    good = npz(tmp_path / "good.npz")
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "bad.npz", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.startswith("semantic"):
                data, honest = data.replace(b"(20,), }     ", b"(2000000,), }", 1), data
                assert data != honest and len(data) == len(honest)
            new.writestr(name, data)
    with pytest.raises(InvalidRequest, match="bad.npz is no voice"):
        load_npz(tmp_path / "bad.npz", BARK)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (1" + "0" * 30 + ",), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), (((",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (20L,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
    ],
)
def test_a_header_that_upsets_numpy_is_refused(tmp_path: Path, header: str) -> None:
    """OverflowError, TypeError and TokenError came through."""
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as file:
        length = (len(header) + 1).to_bytes(2, "little")
        array = b"\x93NUMPY\x01\x00" + length + header.encode() + b"\n" + bytes(160)
        file.writestr("semantic_prompt.npy", array)
    with pytest.raises(InvalidRequest, match=r"bad\.npz is no voice: expected"):
        load_npz(tmp_path / "bad.npz", BARK)


def test_a_damaged_compression_is_refused(tmp_path: Path) -> None:
    """LZMAError came through."""
    name = "semantic_prompt.npy"
    with zipfile.ZipFile(tmp_path / "bad.npz", "w", zipfile.ZIP_LZMA) as file:
        file.writestr(name, bytes(range(256)))
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    start = 30 + len(name) + 9  # behind the entry's header and LZMA's own
    data[start : start + 40] = b"\xff" * 40
    (tmp_path / "bad.npz").write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"bad\.npz is no voice: expected"):
        load_npz(tmp_path / "bad.npz", BARK)


def test_a_family_of_any_length_gives_a_short_sentence(tmp_path: Path) -> None:
    """The sentence held all 100,000 letters."""
    with pytest.raises(InvalidRequest, match="belongs to another model") as error:
        load_npz(npz(tmp_path / "bad.npz", family=np.array("x" * 100_000)), BARK)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_damaged_and_absent_and_swollen_files_are_refused(tmp_path: Path) -> None:
    good = npz(tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(good[: len(good) // 2])
    (tmp_path / "wav.npz").write_bytes(b"RIFF....WAVE")
    np.savez_compressed(tmp_path / "bomb.npz", semantic_prompt=np.zeros(20_000_000, np.int64))
    for name, says in (
        ("cut.npz", "is no voice"),
        ("wav.npz", "is no voice"),
        ("bomb.npz", "far larger than any voice"),
        ("nowhere.npz", "There is no voice file"),
    ):
        with pytest.raises(InvalidRequest, match=says):
            load_npz(tmp_path / name, BARK)


@pytest.mark.parametrize(
    ("tokens", "coarse", "fine", "kept"),
    [
        (20, 30, 30, (20, 30, 30)),  # as the original likes it: untouched
        (200, 303, 310, (200, 303, 310)),  # one digit of the ratio counts, the fine codes do not
        (40, 30, 30, (19, 29, 29)),
        (20, 60, 60, (20, 30, 30)),
        (3, 4, 4, (2, 3, 3)),
    ],
)
def test_lengths_that_do_not_match_are_trimmed(
    tokens: int, coarse: int, fine: int, kept: tuple[int, int, int]
) -> None:
    voice = history(tokens, coarse, fine)
    safe = validate(voice, BARK)
    shape = (len(safe.semantic), safe.coarse_codes.shape[1], safe.fine_codes.shape[1])
    assert shape == kept
    assert round(shape[1] / shape[0], 1) == 1.5  # what the original asserts
    assert np.array_equal(safe.semantic, voice.semantic[: shape[0]])
    assert np.array_equal(safe.fine_codes, voice.fine_codes[:, : shape[2]])
