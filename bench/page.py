"""page.py - one self-contained HTML page from the figures of bench/report.

What is shown is listed in SECTIONS: panels of bars, of latencies, of lines. A panel names the figures (course, stage,
name) that the driver writes. Figures marked `net` have the empty engine's taken off: CPU of updates and gets, where the
driver's own part is known and small. Reads of rows are left as measured: the check of a row runs beside the engine's
work in the processor, so that taking it off would flatter the fastest. So are wall times and latencies. Values are
medians of the runs; where there is more than one run, a thin line spans them from the least to the greatest.
"""
import html
import math
import os
import statistics

from svg import Frame, format_value, log_ticks

NAMES = {"pleat": "pleat", "rocksdb": "RocksDB", "leveldb": "LevelDB", "lmdb": "LMDB", "wiredtiger": "WiredTiger"}


def bar(title, course, stage, name, net=False, better="less", note=""):
    return {"kind": "bar", "title": title, "course": course, "stage": stage, "name": name, "net": net,
            "better": better, "note": note}


def latency(title, course, stage, name, note=""):
    return {"kind": "latency", "title": title, "course": course, "stage": stage, "name": name, "note": note}


SECTIONS = [
    ("Folding", "Puts in batches, each with its cursor, until the store is settled: flushed, with no work left in the "
     "background.", [
         bar("Random order, batches of 100: CPU of all threads", "routes", "fold", "cpu_all", net=True),
         bar("The same: CPU of the committing thread", "routes", "fold", "cpu_writer", net=True),
         bar("The same: time until settled", "routes", "fold", "wall_settled"),
         bar("Updates clustered by group: CPU of all threads", "routes", "update", "cpu_all", net=True,
             note="four rounds over a tenth of the groups each"),
         bar("Batches of 1: CPU of the committing thread", "batch1", "fold", "cpu_writer", net=True),
         bar("Batches of 1: CPU of all threads", "batch1", "fold", "cpu_all", net=True),
         bar("Batches of 1, overwriting: CPU of all threads", "batch1", "overwrite", "cpu_all", net=True),
         bar("Batches of 10: CPU of all threads", "batch10", "fold", "cpu_all", net=True),
         bar("Batches of 1,000: CPU of all threads", "batch1000", "fold", "cpu_all", net=True),
         bar("In order, batches of 100: CPU of all threads", "ordered", "fold", "cpu_all", net=True),
         bar("In order, 200 bytes, batches of 1,024: time until settled", "wide", "fold", "wall_settled"),
         bar("16-byte values: CPU of all threads", "tiny", "fold", "cpu_all", net=True),
         bar("Deleting a quarter: CPU of all threads", "routes", "churn", "delete_cpu_all", net=True),
         latency("How long a batch of 100 takes", "routes", "fold", "batch"),
         latency("How long a batch of 1 takes", "batch1", "fold", "batch"),
     ]),
    ("Reading, everything cached", "One reader, thread CPU, a cache that holds all. LSM peers were compacted by hand "
     "before. Reads of rows include the driver's check of every byte of every row, the same for all.", [
         bar("Get, uniform", "routes", "read", "get_uniform", net=True),
         bar("Get, hot 1 %", "routes", "read", "get_hot", net=True, note="of neighbouring groups"),
         bar("Get of a key that is not there", "routes", "read", "get_absent", net=True),
         bar("Exists", "routes", "read", "exists", net=True),
         bar("Multi-get of 100, a key", "routes", "read", "get_many", net=True),
         bar("Prefix of 40 rows, uniform", "routes", "read", "prefix_uniform"),
         bar("Prefix of 40 rows, hot 1 %", "routes", "read", "prefix_hot"),
         bar("Prefix of 1,000 rows of 200 bytes", "wide", "read", "prefix_uniform"),
         bar("Full scan, a row", "routes", "read", "scan_forward"),
         bar("Full scan backwards, a row", "routes", "read", "scan_back"),
         bar("Full scan, first after opening, a row", "routes", "read", "scan_first"),
         latency("How long a prefix read of 40 takes", "routes", "read", "prefix_uniform_wall"),
     ]),
    ("Reading with a cache of 32 MiB", "Files are in the page cache; the engine's own cache holds little. LMDB reads "
     "through the page cache alone and is not bound by it.", [
         bar("Get, uniform", "routes", "small", "get_uniform", net=True),
         bar("Get of a key that is not there", "routes", "small", "get_absent", net=True),
         bar("Prefix of 40 rows", "routes", "small", "prefix_uniform"),
         bar("Full scan, a row", "routes", "small", "scan_forward"),
         bar("Read by system calls, a get", "routes", "small", "read_calls_per_get", better="",
             note="from the page cache; mapped files need none"),
         latency("How long a prefix read of 40 takes", "routes", "small", "prefix_uniform_wall"),
     ]),
    ("Reading while a writer runs flat out", "One thread overwrites in random order without a pause, one reads. "
     "Look at both sides: who writes less leaves more to the reader.", [
         bar("The writer, time an update", "routes", "mixed", "writer_wall"),
         latency("How long a get takes", "routes", "mixed", "get"),
         latency("How long a prefix read of 40 takes", "routes", "mixed", "prefix"),
         latency("How long the writer's batches of 100 take", "routes", "mixed", "writer_batch"),
     ]),
    ("Deleted ranges, reopening, durability", "A quarter of the keys, one behind the other, is deleted. Synced commits "
     "wait for the disk one by one.", [
         bar("Scan of 100 rows over the gap, at once", "routes", "churn", "skip_unsettled"),
         bar("The same, settled", "routes", "churn", "skip_settled"),
         bar("Prefix read of a deleted group, at once", "routes", "churn", "empty_group_unsettled"),
         bar("The same, settled", "routes", "churn", "empty_group_settled"),
         bar("Open after close, to the first get", "routes", "reopen", "to_first_get"),
         bar("Open after kill -9 with a full memtable", "routes", "killed", "to_first_get"),
         bar("Synced commits of one writer, time a commit", "durable", "synced", "one_writer_wall"),
         bar("Synced commits of four writers, time a commit", "durable", "synced", "four_writers_wall"),
         latency("How long a synced commit takes, one writer", "durable", "synced", "one_writer",
                 note="The device: 4 KiB of a file written over, and fdatasync, with no engine between."),
     ]),
    ("YCSB", "One client, 1,000-byte records, Zipf 0.99, every update a batch of one with its cursor. CPU of all "
     "threads an operation; time on the wall is in the table below.", [
        bar("A: half reads, half updates", "ycsb", "run", "A_cpu_all", net=True),
        bar("B: 95 % reads", "ycsb", "run", "B_cpu_all", net=True),
        bar("C: reads", "ycsb", "run", "C_cpu_all", net=True),
        bar("D: reads of what is new", "ycsb", "run", "D_cpu_all", net=True),
        bar("E: scans of 1 to 100 rows", "ycsb", "run", "E_cpu_all", net=True),
        bar("F: read, change, write", "ycsb", "run", "F_cpu_all", net=True),
    ]),
    ("Space", "Sizes are allocated blocks. Bytes written are write_bytes of /proc/self/io: what went towards the "
     "device, pages dirtied through mappings included.", [
         bar("On disk, settled and closed", "routes", "fold", "disk_closed", note="WiredTiger keeps its log files"),
         bar("On disk, settled and open", "routes", "fold", "disk", note="log files made ahead included"),
         bar("Written per byte given, fold", "routes", "fold", "write_amplification"),
         bar("Written per byte given, updates", "routes", "update", "write_amplification"),
         bar("Anonymous memory after the fold", "routes", "fold", "memory_anonymous"),
         bar("Peak memory of the fold, mapped files included", "routes", "fold", "memory_peak"),
     ]),
]

SCALING = [
    ("Fold: CPU of all threads", "fold", "cpu_all", True), ("Get, uniform, cached", "read", "get_uniform", True),
    ("Prefix of 40, cached", "read", "prefix_uniform", False), ("Get, 32 MiB cache", "small", "get_uniform", True),
    ("Prefix of 40, 32 MiB cache", "small", "prefix_uniform", False),
    ("Full scan, a row", "read", "scan_forward", False),
]


class Figures:
    """The figures of a report by engine, course, keys, stage and name; medians and spans."""

    def __init__(self, raw):
        self.values, self.units, self.timelines, self.texts = {}, {}, {}, {}
        self.engines = [engine["name"] for engine in raw["engines"] if engine["name"] != "empty"]
        self.course_keys = {}
        for figure in raw["figures"]:
            where = (figure["engine"], figure["course"], figure["keys"], figure["stage"], figure["name"])
            if figure["course"] != "scale":
                self.course_keys[figure["course"]] = figure["keys"]
            if "text" in figure:
                self.texts[figure["engine"]] = figure["text"]
            elif "max_ns" in figure:
                self.timelines.setdefault(where, figure)
            else:
                self.values.setdefault(where, []).append(figure["value"])
                self.units[where[3:]] = figure["unit"]

    def span(self, engine, course, stage, name, net=False, keys=None):
        """(median, least, greatest) or None."""
        keys = keys or self.course_keys.get(course)
        values = self.values.get((engine, course, keys, stage, name))
        if not values:
            return None
        off = 0
        if net:
            driver = self.values.get(("empty", course, keys, stage, name))
            off = statistics.median(driver) if driver else 0
        return tuple(max(0.0, value - off) for value in (statistics.median(values), min(values), max(values)))

    def unit(self, stage, name):
        return self.units.get((stage, name), "")


def ratio_to_best(spans, better="less"):
    """(ratio, peer): how many times better pleat is than the best peer; below 1 it is worse."""
    peers = {engine: span[0] for engine, span in spans.items() if engine != "pleat"}
    if "pleat" not in spans or not peers or not better:
        return None
    best = min(peers, key=peers.get) if better == "less" else max(peers, key=peers.get)
    own, other = spans["pleat"][0], peers[best]
    if own <= 0 or other <= 0:
        return None
    return (other / own if better == "less" else own / other), best


def ratio_text(ratio):
    if ratio is None:
        return ""
    value, peer = ratio
    number = value if value >= 1 else 1 / value
    shown = "%.0f" % number if number >= 20 else "%.1f" % number
    if shown == "1.0":
        return '<span class="even">level with %s</span>' % NAMES.get(peer, peer)
    return '<span class="%s">%s× %s than %s</span>' % ("ahead" if value > 1 else "behind", shown,
                                                     "less" if value > 1 else "more", NAMES.get(peer, peer))


def spans_of(figures, panel):
    spans = {}
    for engine in figures.engines:
        span = figures.span(engine, panel["course"], panel["stage"], panel["name"], panel["net"])
        if span:
            spans[engine] = span
    return spans


def draw_bars(figures, panel):
    spans = spans_of(figures, panel)
    if not spans:
        return ""
    unit = figures.unit(panel["stage"], panel["name"])
    rows = sorted(spans)
    rows.sort(key=lambda engine: figures.engines.index(engine))
    frame = Frame(380, 22 * len(rows) + 6)
    greatest = max(span[2] for span in spans.values()) or 1
    for index, engine in enumerate(rows):
        median, low, high = spans[engine]
        y = 4 + index * 22
        width = 198 * median / greatest
        frame.text(86, y + 13, NAMES.get(engine, engine), "label end" + (" own" if engine == "pleat" else ""))
        frame.rect(94, y + 2, max(width, 1), 14, "bar own" if engine == "pleat" else "bar")
        end = width
        if high > low:
            frame.line(94 + 198 * low / greatest, y + 9, 94 + 198 * high / greatest, y + 9, "whisker")
            end = 198 * high / greatest
        frame.text(94 + max(end, width) + 6, y + 13, format_value(median, unit), "value")
    per = unit.split("/")[1] if "/" in unit else ""
    notes = [text for text in ("an " + per if per == "update" else "", panel["note"]) if text]
    return figure_block(panel["title"], ratio_text(ratio_to_best(spans, panel["better"])), frame, ", ".join(notes))


def figure_block(title, right, frame, note="", wide=False):
    return '<figure%s><figcaption><b>%s</b>%s</figcaption>%s%s</figure>' % (
        ' class="wide"' if wide else "", html.escape(title), right, frame.svg(html.escape(title)),
        '<p class="note">%s</p>' % html.escape(note) if note else "")


POINTS = ["p50", "p99", "p999", "max"]
POINT_NAMES = {"p50": "median", "p99": "99 %", "p999": "99.9 %", "max": "longest"}


def draw_latency(figures, panel):
    rows = {}
    for engine in figures.engines:
        spans = [figures.span(engine, panel["course"], panel["stage"], "%s_%s" % (panel["name"], point))
                 for point in POINTS]
        if all(spans):
            rows[engine] = [max(span[0], 1) for span in spans]
    device = [figures.span("pleat", "durable", panel["stage"], "device_sync_%s" % point) for point in POINTS]
    if rows and panel["course"] == "durable" and all(device):
        rows["the device"] = [span[0] for span in device]
    if not rows:
        return ""
    low = 10 ** math.floor(math.log10(min(row[0] for row in rows.values())))
    high = 10 ** math.ceil(math.log10(max(row[-1] for row in rows.values())))
    frame = Frame(780, 24 * len(rows) + 46)
    left, right = 96, 748

    def at(value):
        return left + (right - left) * math.log(value / low) / math.log(max(high / low, 10))

    bottom = 24 * len(rows) + 8
    for tick in log_ticks(low, high):
        frame.line(at(tick), 4, at(tick), bottom, "grid")
        frame.text(at(tick), bottom + 14, format_value(tick, "ns"), "tick middle")
    for index, (engine, row) in enumerate(rows.items()):
        y, own = 18 + index * 24, " own" if engine == "pleat" else ""
        frame.text(86, y + 4, NAMES.get(engine, engine), "label end" + own)
        frame.line(at(row[0]), y, at(row[-1]), y, "range" + own)
        for point, value in zip(POINTS, row):
            frame.point(at(value), y, point, own, "%s, %s: %s" % (NAMES.get(engine, engine), POINT_NAMES[point],
                                                                format_value(value, "ns")))
    x = left
    for point in POINTS:
        frame.point(x + 4, bottom + 30, point, "", "")
        frame.text(x + 14, bottom + 34, POINT_NAMES[point], "tick")
        x += 80
    ratios = []
    for index, point in ((1, "99 %"), (2, "99.9 %")):
        ratio = ratio_to_best({engine: (row[index],) for engine, row in rows.items() if engine in NAMES})
        if ratio:
            ratios.append("%s: %s" % (point, ratio_text(ratio)))
    return figure_block(panel["title"], "<span>%s</span>" % " · ".join(ratios), frame, panel["note"], wide=True)


def draw_timelines(figures, keys):
    """Small multiples on common axes: the longest batch of each moment, and the rate."""
    found = [(engine, figures.timelines.get((engine, "routes", keys, "fold", "batches"))) for engine in figures.engines]
    found = [(engine, line) for engine, line in found if line]
    if not found:
        return ""
    seconds = max(len(line["max_ns"]) * line["slot_ns"] for _, line in found) / 1e9
    high = max(max(line["max_ns"]) for _, line in found)
    rate_high = max(max(line["updates"]) / line["slot_ns"] for _, line in found) * 1e9
    low, high = 1e4, 10 ** math.ceil(math.log10(high))
    height, left, right = 92, 116, 736
    frame = Frame(780, height * len(found) + 34)

    def x_at(second):
        return left + (right - left) * second / seconds

    def y_at(top, ns):
        return top + 66 - 62 * max(0, math.log(max(ns, low) / low) / math.log(high / low))

    for index, (engine, line) in enumerate(found):
        top, own = 6 + index * height, " own" if engine == "pleat" else ""
        slot = line["slot_ns"] / 1e9
        frame.text(106, top + 12, NAMES.get(engine, engine), "label end" + own)
        for tick in (1e5, 1e6, 1e7, 1e8, 1e9):
            if low < tick <= high:
                frame.line(left, y_at(top, tick), right, y_at(top, tick), "grid")
                frame.text(right + 3, y_at(top, tick) + 3, format_value(tick, "ns"), "tick small")
        points = [(x_at((i + 0.5) * slot), top + 66 - 62 * (count / slot) / rate_high)
                  for i, count in enumerate(line["updates"])]
        frame.area([(x_at(0), top + 66)] + points + [(points[-1][0], top + 66)], "rate" + own)
        for i, ns in enumerate(line["max_ns"]):
            if ns > 0:
                frame.line(x_at((i + 0.5) * slot), top + 66, x_at((i + 0.5) * slot), y_at(top, ns), "spike" + own)
        frame.line(left, top + 66, right, top + 66, "axis")
        total = sum(line["updates"]) / (len(line["updates"]) * slot)
        frame.text(106, top + 28, format_value(total, "1/s"), "tick end")
        frame.text(106, top + 42, "longest " + format_value(max(line["max_ns"]), "ns"), "tick end")
    bottom = 6 + height * len(found)
    step = 10 ** math.floor(math.log10(max(seconds / 4, 0.001)))
    step *= next(m for m in (1, 2, 5, 10) if seconds / (step * m) <= 8)
    tick = 0.0
    while tick <= seconds:
        frame.text(x_at(tick), bottom + 12, "%g s" % round(tick, 3), "tick middle")
        tick += step
    return figure_block("Batches of 100 over the time of the fold", "<span>lines: the longest batch of each moment "
                        "(right axis, logarithmic) · area: updates a second, to %s</span>" %
                        format_value(rate_high, "1/s"), frame,
                        "From the first batch to the last; flushes and stalls show as tall lines. First run.",
                        wide=True)


def draw_scaling(figures):
    sizes = sorted({where[2] for where in figures.values if where[1] == "scale"})
    if len(sizes) < 2:
        return ""
    blocks = []
    for title, stage, name, net in SCALING:
        lines = {engine: [(size, figures.span(engine, "scale", stage, name, net, size)) for size in sizes]
                 for engine in figures.engines}
        lines = {engine: [(size, span[0]) for size, span in line if span and span[0] > 0]
                 for engine, line in lines.items()}
        lines = {engine: line for engine, line in lines.items() if line}
        if not lines:
            continue
        frame = Frame(380, 210)
        values = [value for line in lines.values() for _, value in line]
        low, high = 10 ** math.floor(math.log10(min(values))), 10 ** math.ceil(math.log10(max(values)))
        x_low, x_high = math.log(sizes[0]), math.log(sizes[-1])

        def x_at(size):
            return 52 + 230 * (math.log(size) - x_low) / (x_high - x_low)

        def y_at(value):
            return 174 - 160 * math.log(value / low) / math.log(max(high / low, 10))

        for tick in log_ticks(low, high):
            frame.line(52, y_at(tick), 282, y_at(tick), "grid")
            frame.text(46, y_at(tick) + 3, format_value(tick, "ns"), "tick end")
        for size in sizes:
            frame.text(x_at(size), 190, format_value(size, "count"), "tick middle")
        frame.text(167, 204, "keys", "tick middle")
        labels = []
        for engine, line in lines.items():
            own = " own" if engine == "pleat" else ""
            frame.path([(x_at(size), y_at(value)) for size, value in line], "line" + own)
            for size, value in line:
                frame.point(x_at(size), y_at(value), "p50", own, format_value(value, "ns"))
            labels.append([y_at(line[-1][1]) + 4, engine])
        labels.sort()
        for index, label in enumerate(labels):
            label[0] = max(label[0], labels[index - 1][0] + 13) if index else label[0]
            frame.text(292, label[0], NAMES.get(label[1], label[1]), "label" + (" own" if label[1] == "pleat" else ""))
        blocks.append(figure_block(title, "", frame))
    return section("Scaling", "The same fold and the same reads at several sizes.", "".join(blocks))


def plain_ratio(ratio):
    if ratio < 0.1:
        return "1/{:,.0f}".format(1 / ratio)
    return "%.0f" % ratio if ratio >= 20 else "%.2g" % ratio


def draw_summary(figures):
    """Every bar panel as one dot: how many times less pleat needs than the best peer."""
    rows = []
    for title, _, panels in SECTIONS:
        for panel in panels:
            ratio = ratio_to_best(spans_of(figures, panel), panel["better"]) if panel["kind"] == "bar" else None
            if ratio:
                rows.append((title, panel["title"], ratio[0], ratio[1]))
    if not rows:
        return ""
    ratios = [row[2] for row in rows]
    low, high = (0.01 if min(ratios) < 0.1 else 0.1), (100 if max(ratios) > 10 else 10)
    frame = Frame(780, 20 * len(rows) + 18 * len({row[0] for row in rows}) + 40)
    left, right, y, last = 372, 640, 20, None

    def at(ratio):  # beyond the axis: at its end, and the number tells
        return left + (right - left) * math.log(min(max(ratio, low), high) / low) / math.log(high / low)

    bottom = frame.height - 26
    for tick in log_ticks(low, high):
        frame.line(at(tick), 8, at(tick), bottom, "axis" if abs(tick - 1) < 1e-9 else "grid")
        frame.text(at(tick), bottom + 14, "%g×" % round(tick, 4), "tick middle")
    for title, panel, ratio, peer in rows:
        if title != last:
            frame.text(8, y + 6, title, "group")
            y, last = y + 18, title
        side = " own" if ratio >= 0.95 else " behind"
        frame.text(360, y + 4, panel, "label end")
        frame.line(at(1), y, at(ratio), y, "range" + side)
        frame.point(at(ratio), y, "p50", side, "%.2f× to %s" % (ratio, NAMES.get(peer, peer)))
        frame.text(650, y + 4, "%s× to %s" % (plain_ratio(ratio), NAMES.get(peer, peer)), "value")
        y += 20
    ahead = sum(ratio > 1.05 for ratio in ratios)
    behind = sum(ratio < 0.95 for ratio in ratios)
    note = "Ahead of the best peer in %d of %d columns, level in %d, behind in %d." % (
        ahead, len(ratios), len(ratios) - ahead - behind, behind)
    return figure_block("How many times less pleat needs than the best peer of each column",
                        "<span>right of 1×: less; left: more</span>", frame, note, wide=True)


def section(title, text, body):
    return "<section><h2>%s</h2><p>%s</p><div class=\"panels\">%s</div></section>" % (title, text, body) if body else ""


def draw_table(figures):
    """Every figure of every engine, as measured."""
    rows, places = [], {}
    for engine, course, keys, stage, name in figures.values:
        places.setdefault((course, keys, stage, name), None)
    for course, keys, stage, name in places:
        unit = figures.unit(stage, name)
        cells = []
        for engine in ["empty"] + figures.engines:
            span = figures.span(engine, course, stage, name, False, keys)
            text = format_value(span[0], unit) if span else "–"
            if span and span[2] > span[1]:
                text += '<small>%s–%s</small>' % (format_value(span[1], unit), format_value(span[2], unit))
            cells.append("<td>%s</td>" % text)
        rows.append("<tr><th>%s %s</th><th>%s</th><th>%s</th>%s</tr>" %
                    (course, format_value(keys, "count"), stage, name, "".join(cells)))
    heads = "".join("<th>%s</th>" % NAMES.get(engine, engine) for engine in ["empty"] + figures.engines)
    return ("<details><summary>Every figure, as it was measured: the driver's cost not taken off; median, and least to "
            "greatest of the runs</summary><div class=\"scroll\"><table><tr><th>course</th><th>stage</th>"
            "<th>figure</th>%s</tr>%s</table></div></details>" % (heads, "".join(rows)))


def draw_driver(figures):
    """The driver's own cost: the empty engine's figures."""
    wanted = [("routes", "fold", "cpu_writer", "an update"), ("routes", "read", "get_uniform", "a get"),
              ("routes", "read", "scan_forward", "a row of a scan")]
    parts = []
    for course, stage, name, what in wanted:
        span = figures.span("empty", course, stage, name)
        if span:
            parts.append("%s %s" % (format_value(span[0], "ns"), what))
    return ", ".join(parts) or "not measured in this run"


def draw_head(raw, figures):
    machine = raw["machine"]
    asserts = [NAMES.get(engine, engine) for engine, text in figures.texts.items() if "assertions on" in text]
    lines = [
        "%s · %s cores · %s · kernel %s · %s · %s" % (machine["cpu"], machine["cores"], machine["memory"],
                                                      machine["kernel"], machine["file_system"], machine["compiler"]),
        "pleat %s, %s build%s · load of the machine %.1f before, %.1f after" % (
            machine["commit"] or "?", machine["build"], ", invariants on" if machine["invariants"] else "",
            machine["load_before"], machine.get("load_after", 0)),
        "%s · %s · %d run%s, %d s in all%s" % (raw["began"], raw["command"], raw["runs"], "s" * (raw["runs"] > 1),
                                               raw.get("seconds", 0), "" if raw["complete"] else " · INTERRUPTED"),
        "Durability mode: %s (what that is for each engine is below) · driver's own cost: %s · memory touched before "
        "each engine began: %d MiB" % (raw["durability"], draw_driver(figures), raw.get("touched_mib", 0)),
    ]
    if asserts:
        lines.append("Built with assertions on, as Debian does: %s. It costs them some of their speed." %
                     " and ".join(asserts))
    if machine["build"] != "release":
        lines.append("THIS IS NO RELEASE BUILD: its times mean nothing.")
    return "<header><h1>pleat and its peers</h1><p class=\"lead\">The route fold: %s keys of 25 bytes in groups of " \
           "40, half-compressible values of 100 bytes. The same work and the same checks in one run.</p><ul>%s</ul>" \
           "</header>" % (format_value(raw["keys"], "count"), "".join("<li>%s</li>" % html.escape(x) for x in lines))


def draw_tuning(raw, figures):
    rows = "".join("<dt>%s</dt><dd>%s<br><i>%s</i></dd>" %
                   (NAMES.get(engine["name"], engine["name"]), html.escape(engine["tuning"]),
                    html.escape(figures.texts.get(engine["name"], ""))) for engine in raw["engines"])
    return """<section><h2>How it was measured</h2>
<p>Each engine runs in a process of its own, stage by stage; engines take turns. Every answer is compared with what it
must be: gets byte by byte, scans by a hash chain over all rows in order. One wrong answer fails the run. CPU of all
threads is getrusage of the process. From CPU of updates and of gets the driver's own cost, measured with an engine that
stores nothing, is taken off; reads of rows, wall times and latencies are as they were. Means of reads are the least of
three rounds. Medians of the runs; thin lines span the runs.</p>
<h2>Tuning and modes</h2><dl>%s</dl></section>""" % rows


def draw(raw):
    figures = Figures(raw)
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.css"), encoding="utf-8") as file:
        style = file.read()
    body = [draw_head(raw, figures), '<div class="panels">%s</div>' % draw_summary(figures)]
    for title, text, panels in SECTIONS:
        blocks = [draw_bars(figures, panel) for panel in panels if panel["kind"] == "bar"]
        if title == "Folding":
            blocks.append(draw_timelines(figures, figures.course_keys.get("routes")))
        blocks += [draw_latency(figures, panel) for panel in panels if panel["kind"] == "latency"]
        body.append(section(title, text, "".join(blocks)))
    body += [draw_scaling(figures), draw_tuning(raw, figures), draw_table(figures)]
    return "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=" \
           "device-width, initial-scale=1\"><title>pleat and its peers</title><style>%s</style></head><body><main>%s" \
           "</main></body></html>\n" % (style, "".join(body))
