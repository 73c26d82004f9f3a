"""What the decoder is told of its sound."""

import numpy as np
import pytest
import torch

from synth.errors import InvalidRequest
from synth.nano.recipe import CODEC, FINE, Paths
from synth.nano.vocoder import AlignedLoss, Crops
from tests.synth.nano.signals import voiced, write_aligned, write_shard


def test_voiced_sound_is_judged_by_its_phase_and_noise_is_not() -> None:
    loss = AlignedLoss()
    harmonic = torch.from_numpy(np.stack([voiced(20, 150.0, seed) for seed in range(2)]))
    noise = 0.2 * torch.randn(harmonic.shape, generator=torch.Generator().manual_seed(0))
    noise = noise - torch.nn.functional.avg_pool1d(noise[:, None], 9, 1, 4)[:, 0]  # high
    true = harmonic + 0.02 * noise
    silent = loss(torch.zeros_like(true), true, harmonic)
    assert silent == pytest.approx(2, abs=0.05)
    assert loss(harmonic, true, harmonic) == 0
    assert loss(true, true, harmonic) < 0.02
    late = torch.roll(harmonic, 40, 1)  # a quarter of a period
    assert loss(late, true, harmonic) > silent


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synth.nano.recipe.VALIDATION", 2)


def test_crops_begin_where_a_frame_hands_the_phase_on(tmp_path) -> None:
    paths = Paths(tmp_path)
    folder = write_shard(paths, 6)
    index = write_aligned(paths, folder)
    codes, audio, harmonic, handed, turned = Crops(paths).draw(np.random.default_rng(0), 5)
    frames = codes.shape[2]
    assert codes.shape == (FINE.codebooks, 5, frames)
    assert audio.shape == harmonic.shape == (5, frames * CODEC.hop)
    sound = np.fromfile(paths.aligned / folder.name / "audio.i16", "<i2") / np.float32(32768)
    for row in range(5):
        found = np.flatnonzero((index["handed"] == handed[row]).all(1))
        begins = (int(found[0]) + 1) * CODEC.hop
        np.testing.assert_array_equal(audio[row], sound[begins : begins + audio.shape[1]])
        at = int(found[0]) + 1
        np.testing.assert_array_equal(codes[:, row], index["codes"][:, at : at + frames])
    assert turned.std() > 0


def test_without_aligned_speech_the_remedy_is_named(tmp_path) -> None:
    with pytest.raises(InvalidRequest, match="run `align` first"):
        Crops(Paths(tmp_path))


def _drawn(paths: Paths, crops: Crops, validation: bool) -> set[tuple[str, int]]:
    """Shard and utterance of many crops, found by their sound."""
    audio = (crops.draw(np.random.default_rng(0), 40, validation)[1] * 32768).astype("<i2")
    found: set[tuple[str, int]] = set()
    for folder in paths.aligned.iterdir():
        ends = np.load(folder / "index.npz")["ends"] * CODEC.hop
        sound = (folder / "audio.i16").read_bytes()
        places = [sound.find(row[: CODEC.hop].tobytes()) // 2 for row in audio]
        found |= {(folder.name, int(np.searchsorted(ends, p, "right"))) for p in places if p >= 0}
    return found


def test_the_first_utterances_are_held_out(tmp_path) -> None:
    """Validation drew from the very crops that were trained on.

    And a shard in which nothing is long enough was drawn from: numpy found nothing to choose.
    """
    paths = Paths(tmp_path)
    write_aligned(paths, write_shard(paths, 5))
    write_aligned(paths, write_shard(paths, 1, 1, frames=20))
    crops = Crops(paths)
    assert _drawn(paths, crops, validation=True) == {("000", 0), ("000", 1)}
    assert _drawn(paths, crops, validation=False) == {("000", 2), ("000", 3), ("000", 4)}


def test_shards_that_appear_are_taken_in_whatever_order(tmp_path) -> None:
    """Of two rendered at a time the later one may be done first; the other was never opened."""
    paths = Paths(tmp_path)
    write_aligned(paths, write_shard(paths, 3))
    crops = Crops(paths)
    for number, frames in ((2, 60), (1, 65)):
        write_aligned(paths, write_shard(paths, 1, number, frames))
        assert crops.refresh()
    assert not crops.refresh()
    assert {name for name, _ in _drawn(paths, crops, validation=False)} == {"000", "001", "002"}
