"""How long texts take: even pace in all scripts, and a bound that only a runaway passes."""

import pytest

from synth.pace import is_plausible, longest_s, typical_s, weight

# The same thing said in each language, read aloud in some 4 to 7 seconds.
SENTENCES = {
    "en": "The sun rises in the east, and the birds begin to sing before anybody is awake.",
    "de": "Die Sonne geht im Osten auf, und die Vögel singen, bevor irgendjemand wach ist.",
    "es": "El sol sale por el este y los pájaros cantan antes de que nadie se despierte.",
    "fr": "Le soleil se lève à l'est et les oiseaux chantent avant que quiconque soit réveillé.",
    "hi": "सूरज पूरब में उगता है, और किसी के जागने से पहले पक्षी गाना शुरू कर देते हैं।",
    "it": "Il sole sorge a est e gli uccelli cantano prima che qualcuno sia sveglio.",
    "ja": "太陽は東から昇り、誰も起きないうちに鳥たちが歌い始めます。",
    "ko": "해는 동쪽에서 뜨고, 아무도 깨기 전에 새들이 노래를 시작합니다.",
    "pl": "Słońce wschodzi na wschodzie, a ptaki śpiewają, zanim ktokolwiek się obudzi.",
    "pt": "O sol nasce no leste e os pássaros cantam antes que alguém acorde.",
    "ru": "Солнце встаёт на востоке, и птицы начинают петь, пока никто не проснулся.",
    "tr": "Güneş doğudan doğar ve kimse uyanmadan önce kuşlar şarkı söylemeye başlar.",
    "zh": "太阳从东方升起，在任何人醒来之前，鸟儿就开始歌唱。",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_takes_as_long_in_every_language(language: str) -> None:
    assert 4.0 < typical_s(SENTENCES[language]) < 7.0


@pytest.mark.parametrize("language", SENTENCES)
def test_slow_speech_is_plausible_and_a_runaway_is_not(language: str) -> None:
    text = SENTENCES[language]
    assert all(is_plausible(text, seconds) for seconds in (3.0, 5.0, 7.5, 9.0))
    assert not any(is_plausible(text, seconds) for seconds in (0.5, 1.5, 14.9))


def test_a_word_leaves_room_for_breath_and_nothing_more() -> None:
    assert is_plausible("Hi!", 3.0) and not is_plausible("Hi!", 6.0)


def test_music_lasts_as_long_as_it_likes() -> None:
    for text in ("♪ La la ♪", "[music]", "Listen: [Music]"):
        assert longest_s(text) is None and is_plausible(text, 15.0)


def test_a_cue_is_a_sound_and_not_its_letters() -> None:
    assert weight("[laughs]") == weight("[clears throat]") == 20
    assert weight("a[sighs]b") == 22
    assert weight("1999") > weight("abcd")
