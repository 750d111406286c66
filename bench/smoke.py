#!/usr/bin/env python3
"""smoke.py BUILD : the whole benchmark, small: every engine that was built, every course, and the page; then the lies.

So that neither the driver nor the report rots. No figure is looked at, only that there are some: times are not tested.
"""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIES = ["get", "absent", "many", "scan", "order", "missing", "cursor"]


def fail(text):
    sys.exit("smoke: " + text)


def check_report(build, home):
    """Peers do the main course; all courses are done by pleat and the empty engine."""
    for engines, courses, more in (("all", "routes", []), ("pleat", "all", ["--sizes", "1k,2k"])):
        out = os.path.join(home, engines)
        command = [sys.executable, os.path.join(HERE, "report"), "--build", build, "--out", out, "--keys", "5k",
                   "--runs", "1", "--seconds", "0.02", "--touch", "16", "--courses", courses, "--engines",
                   engines] + more
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode != 0:
            fail("%s: status %d\n%s" % (" ".join(command), run.returncode, run.stdout))
        with open(os.path.join(out, "raw.json"), encoding="utf-8") as file:
            raw = json.load(file)
        with open(os.path.join(out, "index.html"), encoding="utf-8") as file:
            page = file.read()
        if not raw["complete"] or os.listdir(os.path.join(out, "work")):
            fail("%s: not complete, or a store is left" % out)
        for engine in raw["engines"]:
            stages = {(f["course"], f["stage"]) for f in raw["figures"] if f["engine"] == engine["name"]}
            for stage in ("fold", "reopen", "read", "small", "update", "mixed", "churn", "kill", "killed"):
                if ("routes", stage) not in stages:
                    fail("%s has no figures of routes, stage %s" % (engine["name"], stage))
        if page.count("<svg") < 20 or "Batches of 100 over the time" not in page or "http" in page:
            fail("%s: the page lacks drawings, or asks for something outside" % out)
        names = ", ".join(engine["name"] for engine in raw["engines"])
        print("smoke: %s, %s: %d figures" % (names, courses, len(raw["figures"])))


def check_lies(build, home):
    """The driver finds each wrong answer of an engine that lies once."""
    for lie in LIES:
        command = [os.path.join(build, "bench", "bench"), "empty", "--dir", os.path.join(home, "lie-" + lie), "--keys",
                   "20000", "--seconds", "0.02", "--library", "lie:" + lie]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        if run.returncode != 1 or "WRONG ANSWER" not in run.stderr:
            fail("a wrong answer of kind %s was not found: status %d" % (lie, run.returncode))
    print("smoke: %d lies found" % len(LIES))


def check_cold(build, home):
    """cold_bench reads what route_bench leaves, and finds that a key is not there."""
    store = os.path.join(home, "cold")
    programs = [os.path.join(build, "bench", name) for name in ("route_bench", "cold_bench")]
    for command, status in (([programs[0], store, "--routes", "4000", "--fold-only"], 0),
                            ([programs[1], store, "--keys", "4000", "--cache", "1", "--gets", "200"], 0),
                            ([programs[1], store, "--keys", "400000", "--cache", "1", "--gets", "200"], 1)):
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if run.returncode != status or (status == 1 and "a wrong answer" not in run.stdout):
            fail("%s: status %d\n%s" % (" ".join(command), run.returncode, run.stdout))
    found = sorted(os.listdir(home))
    print("smoke: cold reads of 4,000 keys")
    wrong = [[programs[0], "--help"], [programs[0], "--routes", "4000"], [programs[1], "--keys", "4000"],
             [programs[0], store + "2", "--durability", "never"], [programs[0], store + "2", "--routes", "many"]]
    for command in wrong:
        run = subprocess.run(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        if run.returncode != (0 if "--help" in command else 2) or sorted(os.listdir(home)) != found:
            fail("%s: status %d, left %s" % (" ".join(command), run.returncode, os.listdir(home)))
    print("smoke: %d wrong calls leave nothing" % len(wrong))


def main():
    if len(sys.argv) != 2:
        fail("usage: smoke.py BUILD")
    with tempfile.TemporaryDirectory(prefix="pleat-smoke-") as home:
        check_report(sys.argv[1], home)
        check_lies(sys.argv[1], home)
        check_cold(sys.argv[1], home)


if __name__ == "__main__":
    main()
