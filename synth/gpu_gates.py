"""What a GPU has to reach with the large size, and whether it did: one line for each figure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """A bound for a figure: the most it may be, or with `at_least` the least."""

    what: str
    bound: float
    unit: str
    at_least: bool = False

    def line(self, figure: float) -> str:
        met = figure >= self.bound if self.at_least else figure <= self.bound
        side = "at least" if self.at_least else "at most"
        said = "met" if met else "MISSED"
        return f"gate {said}: {self.what}: {figure:.2f} {self.unit}, {side} {self.bound:g}"


STEPS = {  # clips at once -> a step of them all
    clips: Gate(f"a decode step of {clips}", bound, "ms") for clips, bound in ((1, 0.9), (8, 1.5))
}
CLIP_SECONDS = 10.0  # what the gate of a single clip is for
CLIP = Gate(f"a clip of {CLIP_SECONDS:g} s alone", 2.5, "s")
FIRST_SOUND = Gate("its first sound, low latency", 0.5, "s")
TOGETHER = Gate("many clips at once", 25.0, "s of audio a second", at_least=True)
TAKES = Gate("the best of four takes", 2.0, "times as long as one")
RATIO = Gate("as fast as transformers", 10.0, "times", at_least=True)
