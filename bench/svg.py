"""svg.py - the few shapes that the page of bench/report is drawn with, and numbers for people."""
import html
import math


def scaled(value, steps):
    """The value in the largest unit that leaves at least 1, with three digits."""
    factor, unit = steps[0]
    for step, name in steps:
        if abs(value) >= step:
            factor, unit = step, name
    number = value / factor
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    text = "%.*f" % (digits, number)
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return ("%s %s" % (text, unit)).strip()


TIME = [(1, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")]
BYTES = [(1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB")]
COUNT = [(1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G")]


def format_value(value, unit):
    if unit == "ns" or unit.startswith("ns/"):
        return scaled(value, TIME)
    if unit == "ms":
        return scaled(value * 1e6, TIME)
    if unit == "s":
        return scaled(value * 1e9, TIME)
    if unit == "bytes":
        return scaled(value, BYTES)
    if unit == "1/s":
        return scaled(value, COUNT) + "/s"
    if unit == "count":
        return scaled(value, COUNT).replace(" ", "")
    return ("%.2f" % value).rstrip("0").rstrip(".")


def log_ticks(low, high):
    ticks, tick = [], low
    while tick <= high * 1.0001:
        ticks.append(tick)
        tick *= 10
    return ticks


class Frame:
    """A drawing of a fixed size; shapes carry classes, and the page's style gives them colours."""

    def __init__(self, width, height):
        self.width, self.height, self.parts = width, height, []

    def text(self, x, y, text, css):
        self.parts.append('<text x="%.1f" y="%.1f" class="%s">%s</text>' % (x, y, css, html.escape(text)))

    def line(self, x1, y1, x2, y2, css):
        self.parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>' % (x1, y1, x2, y2, css))

    def rect(self, x, y, width, height, css):
        self.parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="1.5" class="%s"/>' %
                          (x, y, width, height, css))

    def area(self, points, css):
        self.parts.append('<polygon points="%s" class="%s"/>' % (" ".join("%.1f,%.1f" % p for p in points), css))

    def path(self, points, css):
        self.parts.append('<polyline points="%s" class="%s"/>' % (" ".join("%.1f,%.1f" % p for p in points), css))

    def point(self, x, y, kind, css, title):
        """A mark a percentile: full, ring, small ring, bar."""
        tip = "<title>%s</title>" % html.escape(title) if title else ""
        if kind == "max":
            self.parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="dot%s">%s</line>' %
                              (x, y - 6, x, y + 6, css, tip))
            return
        radius = {"p50": 4.5, "p99": 4.5, "p999": 3}[kind]
        hollow = "" if kind == "p50" else " hollow"
        self.parts.append('<circle cx="%.1f" cy="%.1f" r="%.1f" class="dot%s%s">%s</circle>' %
                          (x, y, radius, hollow, css, tip))

    def svg(self, label):
        return '<svg viewBox="0 0 %d %d" role="img" aria-label="%s">%s</svg>' % (self.width, self.height, label,
                                                                                 "".join(self.parts))
