"""The score of a take: the model's own opinion, measured against a plain forward pass, and more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.pipeline import Pipeline
from synth.protocol import Done, HistoryPrompt, Rendition, Sampling, Submit, Timings
from synth.semantic import history_block, semantic_head
from synth.takes import score
from tests.synth.tiny import NARROW, history, tiny_model

RATE = 24_000
TEXT = "The birds begin to sing before anybody is awake."  # 48 letters: 3.4 s


def tone(seconds: float, level: float = 0.2) -> np.ndarray:
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * times)).astype(np.float32)


def done(log_prob: float | None = -2.0, *, ended: bool = True) -> Done:
    nothing = HistoryPrompt(np.zeros(0), np.zeros((2, 0)), np.zeros((8, 0)), "x")  # pyright: ignore[reportArgumentType]
    made = Rendition(text=TEXT, seed=1, audio_s=1.0, log_prob=log_prob, ended=ended)
    return Done(
        job_id="j", audio_s=1.0, seed=1, timings=Timings(), history=nothing, renditions=(made,)
    )


def test_each_part_of_the_score_counts() -> None:
    good = score(TEXT, tone(3.5), RATE, done())
    assert good == pytest.approx(-2.0)
    assert score(TEXT, tone(3.5), RATE, done(-1.0)) == pytest.approx(-1.0)
    assert score(TEXT, tone(14.0), RATE, done()) == pytest.approx(good - 4)  # a tail
    assert score(TEXT, tone(0.5), RATE, done()) == pytest.approx(good - 4)  # words are missing
    assert score(TEXT, tone(3.5), RATE, done(ended=False)) == pytest.approx(good - 2)
    half_silent = np.concatenate([tone(1.5), np.zeros(3 * RATE, np.float32), tone(1.5)])
    assert score(TEXT, half_silent, RATE, done()) == pytest.approx(good - 4 * 0.25, abs=0.1)
    clipped = np.clip(tone(3.5, 1.4), -1, 1)
    assert score(TEXT, clipped, RATE, done()) < good - 3
    assert score(TEXT, np.zeros(0, np.float32), RATE, done()) < good - 4
    assert score(TEXT, tone(3.5), RATE, replace(done(), renditions=())) == 0.0


def test_silence_at_the_ends_makes_no_length_plausible() -> None:
    padded = np.concatenate([tone(0.5), np.zeros(3 * RATE, np.float32)])
    assert score(TEXT, padded, RATE, done()) < score(TEXT, tone(3.5), RATE, done()) - 4


@pytest.mark.parametrize("voice", [None, 60])
def test_the_log_probability_is_that_of_one_forward_pass(voice: int | None) -> None:
    model = tiny_model(NARROW, "fp64")
    prompt = None if voice is None else history(NARROW, voice)
    pipeline = Pipeline(model, slots=2)
    how = Sampling(seed=3, early_stop=False, max_seconds=4.0)  # more tokens than fit one pass
    submit = Submit(job_id="j", text="Hello there", sampling=how, scored=True)
    pipeline.admit(replace(submit, job_id="beside"), None)
    _, finished = pipeline.run(submit, prompt)
    tokens = torch.from_numpy(finished.history.semantic)
    transformer, config = model.semantic, model.config
    text = torch.from_numpy(model.tokenizer.encode("Hello there").text_tokens)
    past = torch.from_numpy(history_block(prompt, config))
    wte = transformer.wtes[0]
    x = torch.cat([wte[text] + wte[past], wte[config.text.infer][None], wte[tokens[:-1]]])
    hidden = transformer(x + transformer.wpe[: len(x)], causal(len(x)))
    logits = hidden[config.text.block :] @ semantic_head(transformer, config).T
    wanted = logits.log_softmax(-1).gather(1, tokens[:, None]).mean()
    assert finished.renditions[0].log_prob == pytest.approx(float(wanted), abs=1e-9)
    _, unasked = pipeline.run(replace(submit, scored=False), prompt)
    assert unasked.renditions[0].log_prob is None
    np.testing.assert_array_equal(unasked.history.fine_codes, finished.history.fine_codes)


def causal(length: int):
    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y[0].transpose(0, 1).reshape(length, -1)

    return attend
