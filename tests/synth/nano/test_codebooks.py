import numpy as np
import pytest
import torch

from synth.nano.codebooks import Codebooks, fit_codebooks
from synth.nano.features import BANDS, log_mel
from synth.nano.recipe import CODEC, Paths
from synth.nano.shards import open_shard
from tests.synth.nano.signals import voiced, write_shard


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> tuple[Paths, Codebooks]:
    paths = Paths(tmp_path_factory.mktemp("codebooks"))
    folder = write_shard(paths, 48)
    return paths, fit_codebooks(paths, open_shard(folder), refiner_steps=60)


def test_log_mel_follows_level_and_pitch():
    """Twice the amplitude is log 2 more in every band; a frame is a codec frame."""
    audio = torch.from_numpy(voiced(30, 150.0, 1))
    mel = log_mel(audio)
    assert mel.shape == (30, BANDS)
    loud = mel > -2  # clear of the floor
    torch.testing.assert_close(
        log_mel(2 * audio)[loud], mel[loud] + np.log(2), rtol=1e-3, atol=1e-3
    )


def test_more_books_are_nearer_to_the_truth(books: tuple[Paths, Codebooks]):
    _, codebooks = books
    f0 = np.full(60, 170.0, np.float32)
    features = codebooks.features(voiced(60, 170.0, 90), f0)
    codes = codebooks.encode(features)
    assert codes.shape == (8, 60)
    assert codes.min() >= 0
    assert codes.max() < CODEC.codebook_size
    error = [float((codebooks.decode(codes[:k]) - features).square().mean()) for k in (1, 2, 8)]
    assert error[0] > error[1] > error[2]


def test_fine_codes_follow_from_coarse_ones(books: tuple[Paths, Codebooks]):
    """Books 2 to 7 are a function of the coarse codes, not of what those left out."""
    _, codebooks = books
    features = codebooks.features(voiced(40, 150.0, 5), np.full(40, 150.0, np.float32))
    codes = codebooks.encode(features)
    torch.manual_seed(0)
    other = features + 1e-3 * torch.randn_like(features)
    kept = codebooks.encode(other)
    same = (kept[:2] == codes[:2]).all(0)
    assert same.all()  # a change too small for the coarse books
    torch.testing.assert_close(kept[2:], codes[2:])
    assert not torch.equal(other, features)


def test_saved_and_loaded_is_the_same(books: tuple[Paths, Codebooks]):
    paths, codebooks = books
    loaded = Codebooks.load(paths.codebooks)
    audio, f0 = voiced(30, 200.0, 2), np.full(30, 200.0, np.float32)
    torch.testing.assert_close(
        loaded.encode(loaded.features(audio, f0)), codebooks.encode(codebooks.features(audio, f0))
    )
