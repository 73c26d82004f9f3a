"""A pitch oscillator and a source of noise inside the decoder's LSTM, set by hand before training.

Frames carry F0 but no phase, and convolutions are the same at every frame: for constant frames they
can only make sound that repeats with the frames, 50 times a second. Voiced sound needs a state that
turns by F0 a frame. Training did not find one; without it nothing above 1 kHz had harmonics. An
LSTM cell multiplies a gate that sees its state with an input, and four such products are what the
rotation of a phasor takes:

    cos(a + b) = cos a cos b - sin a sin b,   sin(a + b) = sin a cos b + cos a sin b

a is the phase at the end of the last frame, b the turn that the frame's pitch stands for. The
first LSTM layer makes cos b and sin b of the pitch (units that do not remember are a network of one
hidden layer), the second multiplies. Twenty turns a frame, a twentieth of it apart, give the phase
at 1 kHz; the last is handed on. Gates saturate a little, so the phasor neither dies nor grows.

Unvoiced sound needs numbers that do not repeat: pairs of units that turn by angles of their own,
none a rational part of another. All of this is neutral: an error neither dies away nor grows, so a
decode in pieces stays equal to the whole.

Since the phase is known before training, so is the sound that the decoder should make, sample by
sample: see `aligned.py`.
"""

import numpy as np
import torch
from torch import Tensor, nn

from synth.nano.features import PITCH_WEIGHT, Scaler
from synth.nano.recipe import CODEC

STEPS = 20  # turns a frame
_BINS = 96  # of pitch, in the first layer
_UNITS = 8 * STEPS  # products, in the second
SEEDS = 24  # pairs that turn by themselves, behind them
_HELD = _UNITS + 2 * SEEDS
_PITCH = _HELD  # channel in front of the LSTM that carries the pitch; held, as those below it
_SEES, _HEARS = 1.6, 0.3  # slopes of the gate that sees the state and of the input
_START = _BINS  # unit of the first layer that rises from 0 to 1 in the first frames
_KICK = 1.0  # what a silent phasor sees until then
_OPEN, _SHUT = 12.0, -12.0
_LOWEST, _HIGHEST = 60.0, 400.0  # Hz
_SEED_GAIN, _SEED_KICK, _SEED_SIZE = 1.3, 0.5, 0.63
_SMALL = 0.3  # size at which a value and its negative pass an ELU almost straight
assert CODEC.lstm == 2 and CODEC.ratios[0] * CODEC.ratios[1] == STEPS


def pitch_of(feature: Tensor, scaler: Scaler) -> Tensor:
    """The pitch feature of a frame (0: unvoiced, or the mean) -> Hz."""
    return 2 ** (feature / PITCH_WEIGHT * scaler.pitch_spread + scaler.pitch_mean)


def _gain() -> float:
    """What brings products of a phasor of size one and a turn of size one back to size one."""
    angle = torch.arange(1, 129) / 128 * 2 * torch.pi
    a = torch.stack([angle.cos(), angle.sin()])  # (2, 128)
    b = torch.tensor([0.6, 0.8])

    def products(sign: float) -> Tensor:
        gate = torch.sigmoid(sign * _SEES * a)[:, None]
        return torch.tanh(gate * torch.tanh(_HEARS * b)[None, :, None])

    both = products(1.0) - products(-1.0)
    real, imaginary = both[0, 0] - both[1, 1], both[1, 0] + both[0, 1]
    return float(1 / torch.hypot(real, imaginary).mean())


_GAIN = _gain()


def _get(module: nn.Module) -> Tensor:
    """A convolution's weight, its norm folded in."""
    v, g = module.weight_v, module.weight_g
    return (v * (g / v.flatten(1).norm(dim=1).reshape(g.shape))).detach().clone()  # type: ignore


def _set(module: nn.Module, weight: Tensor) -> None:
    """The same the other way; a filter of zeros keeps a direction to leave zero by."""
    norm = weight.flatten(1).norm(dim=1).reshape(module.weight_g.shape)  # type: ignore
    module.weight_v.copy_(torch.where(norm > 0, weight, torch.randn_like(weight)))  # type: ignore
    module.weight_g.copy_(norm)  # type: ignore


def _parts(decoder: nn.Module) -> dict[str, nn.Module]:
    return dict(decoder.named_modules())


def install(decoder: nn.Module, scaler: Scaler) -> None:
    """Set it all into an untrained decoder in encodec's layout with weight norm."""
    restore(decoder, scaler)
    _install_readout(_parts(decoder))


@torch.no_grad()
def restore(decoder: nn.Module, scaler: Scaler) -> None:
    """Set what training holds fixed to its exact values, which an export has rounded."""
    parts = _parts(decoder)
    conv, lstm = parts["model.0.conv.conv"], parts["model.1.lstm"]
    weight = _get(conv)
    weight[: _PITCH + 1] = 0
    weight[_PITCH, -1, -1] = 1  # the newest frame's last feature
    _set(conv, weight)
    conv.bias[: _PITCH + 1] = 0  # type: ignore
    _install_turns(lstm, scaler)
    _install_rotation(lstm, scaler)
    _install_seeds(lstm)


def _gates(lstm: nn.Module, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views by gate (input, forget, cell, output) of a layer's weights and biases."""
    size: int = lstm.hidden_size  # type: ignore
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w = [getattr(lstm, f"{name}_l{layer}") for name in names]
    return (*(x.view(4, size, size) for x in w[:2]), *(x.view(4, size) for x in w[2:]))  # type: ignore


def _bins(scaler: Scaler) -> tuple[Tensor, Tensor]:
    """Centre (as a pitch feature) and slope of each pitch unit, evenly spaced in Hz."""
    at = torch.linspace(_LOWEST, _HIGHEST, _BINS, dtype=torch.float64)
    octaves = (torch.stack([at, at + (at[1] - at[0])]).log2() - scaler.pitch_mean) / (
        scaler.pitch_spread / PITCH_WEIGHT
    )
    return octaves[0], 1.2 / (octaves[1] - octaves[0])


def _turn_weights(scaler: Scaler) -> tuple[Tensor, Tensor]:
    """(2 * STEPS, BINS) and (2 * STEPS,): from the pitch units to cosines, then sines, of turns."""
    centre, slope = _bins(scaler)
    reach = 2.5 * PITCH_WEIGHT
    p = torch.linspace(-reach, reach, 4001, dtype=torch.float64)
    units = ((p[:, None] - centre) * slope).tanh().tanh()
    basis = torch.cat([units, torch.ones(len(p), 1)], 1)
    steps = torch.arange(1, STEPS + 1) / STEPS
    angle = 2 * torch.pi * pitch_of(p, scaler)[:, None] / CODEC.frame_rate * steps
    wanted = torch.cat([angle.cos(), angle.sin()], 1)
    square = basis.T @ basis + 1e-2 * torch.eye(_BINS + 1, dtype=torch.float64)
    found = torch.linalg.solve(square, basis.T @ wanted).T
    return found[:, :-1].float(), found[:, -1].float()


def _install_turns(lstm: nn.Module, scaler: Scaler) -> None:
    w_in, w_state, b_in, b_state = _gates(lstm, 0)
    units = slice(0, _BINS)
    centre, slope = _bins(scaler)
    for x in (w_in, w_state, b_in, b_state):
        x[:, units] = 0
    w_in[2, units, _PITCH] = slope.float()
    b_in[2, units] = (-centre * slope).float()
    b_in[0, units], b_in[1, units], b_in[3, units] = _OPEN, _SHUT, _OPEN
    for x in (w_in, w_state, b_in, b_state):
        x[:, _START] = 0
    b_in[:, _START] = torch.tensor([_OPEN, _OPEN, 0.5, _OPEN])


def _products() -> list[tuple[int, int, int, int]]:
    """(step, component of the state, component of the turn, sign) of each unit, in order."""
    return [(j, a, b, s) for j in range(STEPS) for a in (0, 1) for b in (0, 1) for s in (1, -1)]


def readout() -> Tensor:
    """(2 * STEPS, UNITS): from the products to cosines, then sines, of the phase at each step."""
    out = torch.zeros(2 * STEPS, _UNITS)
    for unit, (j, a, b, sign) in enumerate(_products()):
        # cos cos - sin sin; sin cos + cos sin
        row, factor = (j, -1 if a else 1) if a == b else (STEPS + j, 1)
        out[row, unit] = _GAIN * factor * sign
    return out


def _install_rotation(lstm: nn.Module, scaler: Scaler) -> None:
    w_in, w_state, b_in, b_state = _gates(lstm, 1)
    units = slice(0, _UNITS)
    for x in (w_in, w_state, b_in, b_state):
        x[:, units] = 0
    state = readout()[[STEPS - 1, 2 * STEPS - 1]]  # the phasor at the end of the last frame
    turn, level = _turn_weights(scaler)
    for unit, (j, a, b, sign) in enumerate(_products()):
        w_state[0, unit, units] = sign * _SEES * state[a]  # input gate
        if a == 0:
            b_in[0, unit] = sign * _SEES * _KICK
            w_in[0, unit, _START] = -sign * _SEES * _KICK
        w_in[2, unit, :_BINS] = _HEARS * turn[b * STEPS + j]  # cell input
        b_in[2, unit] = _HEARS * level[b * STEPS + j]
    b_in[1, units], b_in[3, units] = _SHUT, _OPEN


def _install_seeds(lstm: nn.Module) -> None:
    w_in, w_state, b_in, b_state = _gates(lstm, 1)
    units = slice(_UNITS, _HELD)
    for x in (w_in, w_state, b_in, b_state):
        x[:, units] = 0
    b_in[0, units], b_in[1, units], b_in[3, units] = _OPEN, _SHUT, _OPEN
    angles = np.random.default_rng(1).uniform(0.3, 1.3, SEEDS)
    for k, angle in enumerate(angles):
        at = _UNITS + 2 * k
        cosine, sine = _SEED_GAIN * np.cos(angle), _SEED_GAIN * np.sin(angle)
        w_state[2, at : at + 2, at : at + 2] = torch.tensor([[cosine, -sine], [sine, cosine]])
        b_in[2, at] = _SEED_KICK
        w_in[2, at, _START] = -_SEED_KICK


@torch.no_grad()
def _install_readout(parts: dict[str, nn.Module]) -> None:
    """Phases of a part of a frame as channels behind the first upsampling, then one phasor.

    Each goes with its negative, so that the activations in between let both halves through.
    """
    shares, each = CODEC.ratios[:2]
    stage = 2 + CODEC.n_residual_layers  # modules from one upsampling to the next
    first, second, third = (parts[f"model.{3 + i * stage}.convtr.convtr"] for i in range(3))
    weight = _get(first)
    weight[:, : 4 * each] = 0
    rows = readout().view(2, shares, each, _UNITS)  # (cos or sin, share, step of it, unit)
    for share in range(shares):
        signals = _SMALL * rows[:, share].flatten(0, 1).T  # (unit, 2 * each)
        weight[:_UNITS, : 4 * each, share] = torch.cat([signals, -signals], 1)
    weight[:_UNITS, 4 * each :] *= _SMALL
    _set(first, weight)
    first.bias[: 4 * each] = 0  # type: ignore
    for block in range(CODEC.n_residual_layers):
        _pass_through(parts, f"model.{4 + block}", 4 * each)
        _pass_through(parts, f"model.{4 + stage + block}", 4)
    weight = _get(second)
    weight[:, :4] = 0
    for i in range(each):
        for part in range(2):
            plus, minus = part * each + i, part * each + i + 2 * each
            for out, sign in ((part, 0.5 / _SMALL), (part + 2, -0.5 / _SMALL)):
                weight[plus, out, i], weight[minus, out, i] = sign, -sign
    _set(second, weight)
    second.bias[:4] = 0  # type: ignore
    weight = _get(third)
    weight[:4] = torch.randn_like(weight[:4]) * weight[4:].std()
    _set(third, weight)


def _pass_through(parts: dict[str, nn.Module], block: str, count: int) -> None:
    """Let a residual block hand its first channels on unchanged."""
    inside, around = parts[f"{block}.block.3.conv.conv"], parts[f"{block}.shortcut.conv.conv"]
    weight = _get(inside)
    weight[:count] = 0
    _set(inside, weight)
    weight = _get(around)
    weight[:count] = 0
    weight[:count, :count, 0] = torch.eye(count)
    _set(around, weight)
    inside.bias[:count] = 0  # type: ignore
    around.bias[:count] = 0  # type: ignore


def hold(decoder: nn.Module) -> None:
    """Keep training from changing any of it: the gradients are zero."""
    parts = _parts(decoder)
    conv, lstm = parts["model.0.conv.conv"], parts["model.1.lstm"]
    size: int = lstm.hidden_size  # type: ignore
    channels = torch.arange(size)
    first = channels <= _START
    for parameters, held in (
        (conv.parameters(), channels <= _PITCH),
        ([p for n, p in lstm.named_parameters() if n.endswith("l0")], first.repeat(4)),
        ([p for n, p in lstm.named_parameters() if n.endswith("l1")], (channels < _HELD).repeat(4)),
    ):
        for parameter in parameters:
            parameter.register_hook(_keeper(held))


def _keeper(held: Tensor):
    masks: dict[torch.device, Tensor] = {}  # a copy at every step would make a GPU wait

    def keep(gradient: Tensor) -> Tensor:
        if gradient.device not in masks:
            masks[gradient.device] = held.to(gradient.device)
        mask = masks[gradient.device].reshape(-1, *[1] * (gradient.dim() - 1))
        return gradient.masked_fill(mask, 0.0)

    return keep


@torch.no_grad()
def phasors(decoder: nn.Module, entries: Tensor) -> tuple[Tensor, Tensor]:
    """(T, dimension) summed rows of a whole clip -> what the oscillator does there.

    (T * STEPS,) complex phasors, each at the end of its step, and (T, 8) hidden values of the units
    that hand the phase on: `start` takes a row of them to go on from the frame behind it.
    """
    parts = _parts(decoder)
    hidden, _ = parts["model.1.lstm"](parts["model.0"](entries.T[None]).permute(2, 0, 1))
    products = hidden[:, 0, :_UNITS]
    real, imaginary = (products @ readout().T).view(-1, 2, STEPS).unbind(1)
    return torch.complex(real, imaginary).flatten(), products[:, -8:].clone()


def start(handed: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 8) of `phasors`, (B, SEEDS) angles -> (h, c) of the LSTM to begin a crop with."""
    size = CODEC.n_filters * 2 ** len(CODEC.ratios)
    h, c = handed.new_zeros(2, 2, len(handed), size).unbind(0)
    h[1, :, _UNITS - 8 : _UNITS] = handed
    h[1, :, _UNITS:_HELD] = _SEED_SIZE * torch.stack([turned.cos(), turned.sin()], -1).flatten(1)
    h[0, :, _START], c[0, :, _START] = 1.0, 20.0
    return h.contiguous(), c.contiguous()
