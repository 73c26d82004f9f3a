"""The score of a take: the model's own opinion, measured against a plain forward pass, and more."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from synth.pipeline import Pipeline
from synth.protocol import (
    JobEvent,
    Progress,
    Rendition,
    Sampling,
    Stage,
    Streaming,
    Submit,
)
from synth.semantic import history_block, semantic_head
from synth.takes import score
from tests.synth.tiny import NARROW, RANDOM, history, tiny_model

TEXT = "The birds begin to sing before anybody is awake."  # 48 letters: 3.4 s


def made(audio_s: float = 3.5, log_prob: float | None = -2.0, *, ended: bool = True) -> Rendition:
    return Rendition(text=TEXT, seed=1, audio_s=audio_s, log_prob=log_prob, ended=ended)


def test_each_part_of_the_score_counts() -> None:
    good = score(TEXT, made())
    assert good == pytest.approx(-2.0)
    assert score(TEXT, made(log_prob=-1.0)) == pytest.approx(-1.0)
    assert score(TEXT, made(14.0)) == pytest.approx(good - 4)  # a tail
    assert score(TEXT, made(0.5)) == pytest.approx(good - 4)  # words are missing
    assert score(TEXT, made(ended=False)) == pytest.approx(good - 2)
    assert score(TEXT, made(14.0, ended=False)) == pytest.approx(good - 6)
    assert score(TEXT, made(log_prob=None)) == 0.0


# With low latency a clip that was heard is not begun anew any more; a draft may be.
@pytest.mark.parametrize(
    ("streaming", "rerolls"),
    [(Streaming.EXACT, 0), (Streaming.EXACT, 2), (Streaming.LOW_LATENCY, 0)],
)
def test_a_draft_ends_before_coarse_and_becomes_what_it_would_have_been(
    streaming: Streaming, rerolls: int
) -> None:
    pipeline = Pipeline(tiny_model(RANDOM))
    how = Sampling(seed=5)
    whole = Submit(job_id="j", text="A b", sampling=how, streaming=streaming, rerolls=rerolls)
    wanted, at_once = pipeline.run(whole, None)
    events: list[JobEvent] = []
    nothing, draft = pipeline.run(replace(whole, draft=True), None, events.append)
    assert pipeline.free == 1 and not len(nothing) and draft.audio_s == 0
    assert {event.stage for event in events if isinstance(event, Progress)} == {Stage.SEMANTIC}
    assert draft.timings.coarse_s == draft.timings.fine_s == draft.timings.codec_s == 0
    assert draft.history.coarse_codes.shape == (RANDOM.coarse.codebooks, 0)
    assert draft.renditions[0].audio_s == pytest.approx(at_once.audio_s)  # known before
    assert draft.renditions[0].rerolls == at_once.renditions[0].rerolls
    assert draft.notes == at_once.notes and draft.seed == at_once.seed
    tokens = tuple(draft.history.semantic.tolist())
    final = replace(
        whole, sampling=replace(how, seed=draft.seed), rerolls=0, semantic_tokens=tokens
    )
    samples, done = pipeline.run(final, None)
    np.testing.assert_array_equal(samples, wanted)
    np.testing.assert_array_equal(done.history.semantic, at_once.history.semantic)
    np.testing.assert_array_equal(done.history.fine_codes, at_once.history.fine_codes)
    assert done.timings.semantic_s == 0


@pytest.mark.parametrize("voice", [None, 60])
def test_the_log_probability_is_that_of_one_forward_pass(voice: int | None) -> None:
    model = tiny_model(NARROW, "fp64")
    prompt = None if voice is None else history(NARROW, voice)
    pipeline = Pipeline(model, slots=2)
    how = Sampling(seed=3, early_stop=False, max_seconds=4.0)  # more tokens than fit one pass
    submit = Submit(job_id="j", text="Hello there", sampling=how, draft=True)
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
    _, unasked = pipeline.run(replace(submit, draft=False), prompt)
    assert unasked.renditions[0].log_prob is None
    np.testing.assert_array_equal(unasked.history.semantic, finished.history.semantic)


def causal(length: int):
    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (each.transpose(0, 1)[None] for each in (q, k, v))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y[0].transpose(0, 1).reshape(length, -1)

    return attend
