import torch

from synth.nano.discriminators import Jury, fooling_loss, jury_loss


def test_the_jury_learns_to_tell_tones_from_noise():
    torch.manual_seed(0)
    jury = Jury()
    optimizer = torch.optim.AdamW(jury.parameters(), 2e-3)
    t = torch.arange(4800) / 24_000
    tones = torch.stack([0.2 * torch.sin(2 * torch.pi * f * t) for f in (180.0, 240.0, 310.0)])
    losses = []
    for _ in range(25):
        loss = jury_loss(jury(tones), jury(0.15 * torch.randn_like(tones)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_same_sound_is_nowhere_apart():
    torch.manual_seed(0)
    jury, audio = Jury(), 0.1 * torch.randn(2, 2400)
    _, same = fooling_loss(jury(audio), jury(audio))
    _, other = fooling_loss(jury(audio), jury(0.5 * audio))
    assert same.item() == 0
    assert other.item() > 0


def test_the_decoder_hears_the_verdict():
    torch.manual_seed(0)
    jury, made = Jury(), (0.1 * torch.randn(1, 2400)).requires_grad_()
    fooled, apart = fooling_loss(jury(torch.zeros(1, 2400) + 0.05), jury(made))
    (fooled + apart).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
