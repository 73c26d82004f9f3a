"""The oscillator turns by the pitch, whatever else is heard, and its noise does not repeat."""

from typing import cast

import numpy as np
import pytest
import torch

from synth.codec_stream import streaming
from synth.nano import oscillator
from synth.nano.aligned import fresh_decoder
from synth.nano.features import PITCH_WEIGHT, Scaler
from synth.nano.oscillator import STEPS, phasors, pitch_of, restore, start
from synth.nano.recipe import CODEC
from tests.synth.nano.signals import codebooks

STEP_RATE = CODEC.frame_rate * STEPS


@pytest.fixture(scope="module")
def scaler() -> Scaler:
    return codebooks().scaler


@pytest.fixture(scope="module")
def decoder() -> torch.nn.Module:
    torch.manual_seed(0)
    return fresh_decoder(codebooks())


def entries(f0: np.ndarray, scaler: Scaler) -> torch.Tensor:
    """Frames of noise with that pitch, Hz; 0: unvoiced."""
    z = torch.randn(len(f0), CODEC.dimension, generator=torch.Generator().manual_seed(1))
    octaves = (np.log2(np.maximum(f0, 1.0)) - scaler.pitch_mean) / scaler.pitch_spread
    z[:, -1] = torch.from_numpy(np.where(f0 > 0, PITCH_WEIGHT * octaves, 0.0))
    return z


def turned(found: torch.Tensor) -> np.ndarray:
    """Hz from each step to the next."""
    x = found.numpy()
    return np.angle(x[1:] / x[:-1]) / (2 * np.pi) * STEP_RATE


@pytest.mark.parametrize("pitch", [85.0, 130.0, 190.0, 263.0, 310.0])
def test_turns_by_the_pitch(decoder: torch.nn.Module, scaler: Scaler, pitch: float) -> None:
    f0 = np.full(70, pitch)
    f0[40:48] = 0  # a pause
    z = entries(f0, scaler)
    np.testing.assert_allclose(pitch_of(z[:40, -1], scaler), pitch, rtol=1e-5)
    found, _ = phasors(decoder, z)
    sizes = found.abs()
    assert sizes[STEPS:].min() > 0.4  # it has begun within a frame, and neither dies nor grows
    assert sizes.max() < 1.3
    hertz = turned(found)
    voiced = np.repeat(f0 > 0, STEPS)[1:]
    voiced[: 10 * STEPS] = False
    assert hertz[voiced].mean() == pytest.approx(pitch, abs=0.5)
    assert hertz[voiced].std() < 5


def test_goes_on_from_where_it_was(decoder: torch.nn.Module, scaler: Scaler) -> None:
    """A crop that is told the phase turns as the whole clip does there."""
    z = entries(np.linspace(110, 220, 60), scaler)
    whole, handed = phasors(decoder, z)
    layers = dict(decoder.named_modules())
    x = layers["model.0"](z.T[None]).permute(2, 0, 1)[40:]
    state = start(handed[39:40], torch.zeros(1, oscillator.SEEDS))
    with torch.no_grad():
        hidden, _ = layers["model.1.lstm"](x, state)
    parts = (hidden[:, 0, : 8 * STEPS] @ oscillator.readout().T).view(-1, 2, STEPS)
    cropped = torch.complex(parts[:, 0], parts[:, 1]).flatten()
    torch.testing.assert_close(cropped, whole[40 * STEPS :], atol=1e-4, rtol=1e-4)


def test_phase_is_laid_out_in_time_behind_the_upsamplings(
    decoder: torch.nn.Module, scaler: Scaler
) -> None:
    z = entries(np.full(50, 170.0), scaler)
    found, _ = phasors(decoder, z)
    last = 5 + 2 * CODEC.n_residual_layers
    layers = list(cast(torch.nn.Sequential, decoder.model))[: last + 1]
    x = z.T[None]
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
    laid = torch.complex(x[0, 0], x[0, 1])[10 * STEPS :]
    off = torch.angle(laid * found[10 * STEPS :].conj())
    assert off.abs().max() < 0.15


def test_noise_does_not_repeat(decoder: torch.nn.Module, scaler: Scaler) -> None:
    z = entries(np.zeros(400), scaler)
    layers = dict(decoder.named_modules())
    with torch.no_grad():
        x = layers["model.0"](z.T[None]).permute(2, 0, 1)
        hidden, _ = layers["model.1.lstm"](x)
    seeds = hidden[20:, 0, 8 * STEPS : 8 * STEPS + 2 * oscillator.SEEDS]
    assert 0.2 < seeds.std(0).min() and seeds.std(0).max() < 0.8
    unit = seeds / seeds.norm(dim=1, keepdim=True)
    alike = unit @ unit.T - 2 * torch.eye(len(unit))
    assert alike.max() < 0.9


def test_a_decode_in_pieces_is_the_whole(decoder: torch.nn.Module, scaler: Scaler) -> None:
    z = entries(np.linspace(200, 120, 90), scaler).T[None]
    pieces = streaming(cast(torch.nn.Sequential, decoder.model))
    with torch.no_grad():
        whole = decoder(z)
        made = [pieces.feed(part, last=False) for part in z.split(11, 2)]
        made.append(pieces.feed(z[..., :0], last=True))
    torch.testing.assert_close(torch.cat(made, 2), whole, atol=1e-5, rtol=0)


def test_what_is_held_gets_no_gradient_and_is_restored(scaler: Scaler) -> None:
    made = fresh_decoder(codebooks())
    oscillator.hold(made)
    before = {k: v.clone() for k, v in made.state_dict().items()}
    made(torch.randn(1, CODEC.dimension, 6)).square().mean().backward()
    torch.optim.SGD(made.parameters(), 1.0).step()
    held, count = "model.1.lstm.weight_hh_l1", 8 * STEPS + 2 * oscillator.SEEDS
    size = CODEC.n_filters * 2 ** len(CODEC.ratios)
    changed = (before[held] != made.state_dict()[held]).any(1).view(4, size).any(0)
    assert not changed[:count].any()
    assert changed[count:].any()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.01)
    restore(made, scaler)
    after = made.state_dict()
    same = (before[held] == after[held]).all(1).view(4, size).all(0)
    assert same[:count].all()
    assert not same[count:].any()
