"""A plain chart as SVG: axes, lines, bars, dots. Nothing in it runs, and nothing is fetched.

Colours and sizes are presentation attributes, not styles: a page that is served under a policy
without inline styles shows its plots all the same. The two sides differ in lightness of filling
and in dashes, not in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup, escape

from loadtest.evidence.figures import printable

WIDTH: Final = 860
DIRECT: Final = "#2f7fc1"  # blue and orange of middling lightness: both show on white and on black
FIREWALL: Final = "#d9660b"
OTHER: Final = "#9a5fb5"
GREY: Final = "#8a8f98"
_FONT: Final = 13
_GLYPH: Final = 7.2  # the mean width of a letter at that size, generously

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to pixels.

    Attributes:
        low, high: values at the ends; both positive where it is logarithmic.
        start, end: their pixels.
        ticks: values with their labels.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False
    ticks: Sequence[tuple[float, str]] = ()

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(value, self.low))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def nice(highest: float, count: int = 5) -> list[float]:
    """Round values from 0 to at least the highest."""
    if not highest > 0 or not math.isfinite(highest):
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(highest / count))
    step *= next(f for f in (1, 2, 5, 10) if f * step * count >= highest)
    return [step * i for i in range(math.ceil(highest / step - 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten, around both."""
    if not (0 < low <= high) or not math.isfinite(high):
        return [1.0, 10.0]
    steps = (1, 2, 5) if high / low < 2000 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [f * 10.0**power for power in range(first, last + 1) for f in steps]
    below = [value for value in values if value <= low * 1.001]
    above = [value for value in values if value >= high * 0.999]
    begin = below[-1] if below else values[0]
    end = above[0] if above else values[-1]
    if begin == end:
        end = begin * 10
    return [value for value in values if begin <= value <= end] or [begin, end]


@dataclass(slots=True)
class Chart:
    """One drawing; everything written on it is escaped here.

    Attributes:
        key: unique on the page: its title and description are known by it.
        title, words: what it shows, for those who do not see it.
    """

    key: str
    title: str
    words: str
    height: int
    width: int = WIDTH
    parts: list[Markup] = field(default_factory=list)

    def line(self, points: Iterable[Point], colour: str, *, dashed: bool = False) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dash = Markup(' stroke-dasharray="6 4"') if dashed else Markup("")
        self._add(
            '<polyline points="{}" fill="none" stroke="{}" stroke-width="2" '
            'stroke-linejoin="round"{}/>', path, colour, dash,
        )  # fmt: skip

    def rule(self, begin: Point, end: Point, colour: str = GREY, width: float = 1, *,
             faint: bool = False, dashed: bool = False) -> None:  # fmt: skip
        """A straight line."""
        dash = Markup(' stroke-dasharray="2 4"') if dashed else Markup("")
        self._add(
            '<line x1="{}" y1="{}" x2="{}" y2="{}" stroke="{}" stroke-width="{}" '
            'stroke-opacity="{}"{}/>',
            *(f"{place:.1f}" for place in (*begin, *end)), colour, width,
            0.3 if faint else 1, dash,
        )  # fmt: skip

    def box(self, x: float, y: float, width: float, height: float, colour: str, *,
            hollow: bool = False, faint: bool = False, words: str = "") -> None:  # fmt: skip
        """A filled rectangle, or the outline of one, with words that show on pointing at it."""
        fill = (0.15 if hollow else 0.14) if hollow or faint else 0.9
        self._add(
            '<rect x="{}" y="{}" width="{}" height="{}" fill="{}" fill-opacity="{}" '
            'stroke="{}" stroke-width="{}">{}</rect>',
            f"{x:.1f}", f"{y:.1f}", f"{max(0.0, width):.1f}", f"{height:.1f}", colour, fill,
            colour, 0 if faint else 1.5, self._words(words),
        )  # fmt: skip

    def dot(
        self, x: float, y: float, colour: str, *, hollow: bool = False, words: str = ""
    ) -> None:
        """A point."""
        self._add(
            '<circle cx="{}" cy="{}" r="3.5" fill="{}" fill-opacity="{}" stroke="{}" '
            'stroke-width="1.2">{}</circle>',
            f"{x:.1f}", f"{y:.1f}", colour, 0 if hollow else 0.55, colour, self._words(words),
        )  # fmt: skip

    def text(self, x: float, y: float, words: str, *, anchor: str = "start", room: float = 0,
             strong: bool = False) -> None:  # fmt: skip
        """Words, cut to the room in pixels that they have; whole on pointing at them."""
        words = printable(words)
        shown = words
        if room and len(words) * _GLYPH > room:
            shown = words[: max(1, int(room / _GLYPH) - 1)] + "…"
        self._add(
            '<text x="{}" y="{}" text-anchor="{}" fill="currentColor" font-size="{}"{}>{}{}</text>',
            f"{x:.1f}", f"{y:.1f}", anchor, _FONT,
            Markup(' font-weight="600"') if strong else Markup(""),
            shown, self._words(words if shown != words else ""),
        )  # fmt: skip

    def legend(self, y: float, entries: Sequence[tuple[str, str, bool]], x: float = 0) -> None:
        """Names beside a sample: (name, colour, dashed or hollow)."""
        for name, colour, plain in entries:
            self.box(x, y - 10, 22, 10, colour, hollow=plain)
            if plain:
                self.rule((x, y - 5), (x + 22, y - 5), colour, 2, dashed=True)
            self.text(x + 28, y, name)
            x += 28 + len(name) * _GLYPH + 24

    def axes(self, across: Scale, up: Scale, name: str, side: str) -> None:
        """Both axes with their grid, and what they are."""
        for value, label in up.ticks:
            y = up(value)
            self.rule((across.start, y), (across.end, y), faint=True)
            self.text(across.start - 8, y + 4, label, anchor="end")
        for value, label in across.ticks:
            x = across(value)
            self.rule((x, up.start), (x, up.start + 5))
            self.text(x, up.start + 20, label, anchor="middle")
        self.rule((across.start, up.start), (across.end, up.start))
        self.text((across.start + across.end) / 2, up.start + 40, name, anchor="middle")
        self.text(across.start - 60, up.end - 14, side)

    def render(self) -> Markup:
        """The element."""
        self.text(0, 14, self.title, room=self.width, strong=True)
        return Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" '
            'height="{h}" role="img" aria-labelledby="{k}-title {k}-words" '
            'font-family="system-ui, sans-serif">'
            '<title id="{k}-title">{title}</title><desc id="{k}-words">{words}</desc>{parts}</svg>'
        ).format(
            w=self.width, h=self.height, k=self.key, title=printable(self.title),
            words=printable(self.words, 2000), parts=Markup("").join(self.parts),
        )  # fmt: skip

    def _add(self, template: str, *values: object) -> None:
        self.parts.append(Markup(template).format(*values))  # noqa: S704 - templates are ours, values are escaped

    @staticmethod
    def _words(words: str) -> Markup:
        return Markup("<title>{}</title>").format(printable(words)) if words else escape("")
