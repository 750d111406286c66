#!/usr/bin/env python3
"""mutations.py BUILD_DIR [--jobs N] [--only NAME]... [--repeat N] [--markdown FILE]: the tests are tested.

BUILD_DIR was made with -Dmutations=true. src/base/mutation.h lists deliberate defects: each is one step that a promise
rests on, left out. For each of them the test that the table of docs/mutations.md names runs, and when that passes the
test programs, likeliest first, a few seconds each, until one fails: that one has caught the defect. A defect that
every program passes is one that nothing would notice: exit status 1. In the end the programs that have caught one run
without a defect: all must pass, or their failures would mean nothing.

  --jobs      defects at once (default: 2)
  --only      only the defects whose name begins so; may be given several times
  --program   only this program may catch: what a campaign sees alone; may be given several times
  --repeat    the program that caught the defect runs so often in all, and must fail each time: for the seeds that
              programs draw afresh at every start
  --markdown  the page (docs/mutations.md) whose table is replaced by what this run found

A program that does not end in time catches nothing: its defect goes on to the next one, and the table says so.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAM_SECONDS_MAX = 120

# Programs over random histories, and how long each may look for a defect. All others run once.
ARGUMENTS = {
    "crash_store": ["--seconds", "5"],
    "fault_store": ["--seconds", "5"],
    "model_store": ["--seconds", "3"],
    "stress/position_stress": ["--seconds", "8"],
}
# Every program that may catch something, quick ones first: the order for a defect that CATCHERS does not settle.
PROGRAMS = ["test_syscalls", "test_memtable", "test_wal_damage", "test_wal", "test_wal_crash", "test_version",
            "test_version_disk", "test_table", "test_table_damage", "test_table_pages", "test_table_files",
            "test_recovery", "test_recovery_tail", "test_store_disk", "test_store_open",
            "test_store_cursor", "test_jobs", "test_merge", "test_compaction", "test_platform",
            "test_store", "crash_store", "fault_store", "model_store", "stress/position_stress"]
# Which programs are asked first, by the beginning of a defect's name; the longest beginning counts.
CATCHERS = {
    "posix": "test_syscalls test_platform",
    "posix_publish": "test_platform",
    "posix_reserve": "test_platform",
    "posix_lock": "test_store_open",
    "posix_lock_directory": "test_store_open",
    "wal": "test_wal_damage test_wal test_wal_crash",
    "wal_append_failed": "test_wal",
    "memtable": "test_memtable",
    "recover": "test_recovery crash_store",
    "recover_begun": "test_recovery_tail",
    "recover_rough": "test_recovery_tail",
    "sync": "test_recovery crash_store",
    "sync_record": "test_store_disk",
    "spare": "test_store_disk",
    "flush_half": "test_jobs",
    "compact_part": "test_jobs",
    "commit": "test_recovery fault_store",
    "commit_cursors": "stress/position_stress",
    "commit_visible": "stress/position_stress",
    "flush": "test_recovery crash_store",
    "compact": "test_recovery crash_store",
    "compact_counts": "test_compaction",
    "compact_filter": "test_compaction",
    "compact_survive": "test_compaction",
    "merge": "test_merge",
    "clear": "test_recovery crash_store",
    "open": "test_recovery",
    "edition": "test_version_disk",
    "edition_segment": "test_store_open",
    "manifest": "test_version_disk test_version",
    "manifest_frame_key": "test_version",
    "manifest_header": "test_version",
    "manifest_cursor": "test_version",
    "manifest_frame_behind": "test_version",
    "registry": "test_version_disk",
    "table": "test_table_damage test_table",
    "table_page_missing": "test_table_pages",
    "table_files": "test_table_files",
    "table_sync": "test_table",
}


class Mutation:
    def __init__(self, name, promise, what):
        self.name, self.promise, self.what = name, promise, what
        self.caught_by, self.seconds, self.how, self.notes = None, 0.0, "", []

    def programs(self, known):
        begins = [begin for begin in CATCHERS if self.name.startswith(begin)]
        first = CATCHERS[max(begins, key=len)].split() if begins else []
        return [name for name in first + [name for name in PROGRAMS if name not in first] if name in known]


def mutations_read():
    """The list of the header is the only one."""
    with open(os.path.join(ROOT, "src", "base", "mutation.h"), encoding="utf-8") as file:
        text = file.read()
    rows = re.findall(r'^    X\((\w+), "([^"]*)", "([^"]*)"\)', text, re.M)
    return [Mutation(*row) for row in rows]


def caught_before():
    """What the page's table says: mutation -> (program, test of it, or None where it was found at random)."""
    with open(os.path.join(ROOT, "docs", "mutations.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| `([\w/]+)`: ([^|]*) \|", file.read(), re.M)
    return {name: (program, None if test == "at random" else test.replace(" ", "_")) for name, program, test in rows}


def run(build, program, mutation, scratch, test=None):
    """(exit status, seconds, output); status None: it did not end in time. A Criterion program ends with the first test
    that fails; test: only that one of it, by name."""
    environment = {key: value for key, value in os.environ.items() if key != "PLEAT_TEST_SEED"}
    environment["TMPDIR"] = scratch
    environment["PLEAT_MUTATION"] = mutation
    arguments = ARGUMENTS.get(program, [])
    if program.startswith("test_"):
        arguments = ["--fail-fast"] + (["--filter", "*/" + test] if test is not None else [])
    begin = time.monotonic()
    try:
        done = subprocess.run([os.path.join(build, "tests", program)] + arguments, env=environment,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PROGRAM_SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return None, time.monotonic() - begin, ""
    return done.returncode, time.monotonic() - begin, done.stdout.decode("utf-8", "replace")


def how(output):
    """What was said first: the name of the failed test, or the line of a campaign."""
    for pattern in (r"^\[.*FAIL.*\] (\w+::\w+)", r"^\[.*\] (\w+::\w+): (?:CRASH|Test)", r"(FAILED: .*)"):
        found = re.search(pattern, re.sub(r"\x1b\[[\d;]*m", "", output), re.M)
        if found:
            return found.group(1).split("::")[-1]
    lines = [line for line in output.split("\n") if line.strip()]
    return lines[-1][:200] if lines else "no output"


def convict(build, mutation, known, before, repeat, scratch):
    begin = time.monotonic()
    asked = [(program, None) for program in mutation.programs(known)]
    if mutation.name in before and before[mutation.name][0] in known:
        asked.insert(0, before[mutation.name])
    for program, test in asked:
        status, _, output = run(build, program, mutation.name, scratch, test)
        if status is None:
            mutation.notes.append("%s did not end in %d s" % (program, PROGRAM_SECONDS_MAX))
        elif status == 99:
            raise RuntimeError("%s does not know the mutation %s: an old build?" % (program, mutation.name))
        elif status != 0:
            mutation.caught_by, mutation.how = program, how(output)
            mutation.seconds = time.monotonic() - begin
            again = [run(build, program, mutation.name, scratch, test)[0] for _ in range(repeat - 1)]
            missed = sum(status in (0, None) for status in again)
            if missed:
                mutation.notes.append("%s missed it %d times in %d" % (program, missed, repeat))
            return mutation
        elif repeat > 1 or test is not None:
            mutation.notes.append("%s passed" % (test or program))
    mutation.seconds = time.monotonic() - begin
    return mutation


def sound(build, known, jobs, scratch):
    """Without a defect every program passes."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        runs = {name: pool.submit(run, build, name, "none", scratch) for name in known}
    bad = [name for name in known if runs[name].result()[0] != 0]
    for name in bad:
        print("%s fails without a mutation:\n%s" % (name, runs[name].result()[2][-2000:]))
    return not bad


def markdown(path, mutations):
    """Replaces what stands between the two marks of the page."""
    rows = ["| mutation | what it leaves out | promise or invariant | caught by | seconds |", "|---|---|---|---|---|"]
    for mutation in mutations:
        test = mutation.how if re.fullmatch(r"\w+", mutation.how) else "at random"
        caught = "`%s`: %s" % (mutation.caught_by, test.replace("_", " ")) if mutation.caught_by else "nothing"
        rows.append("| `%s` | %s | %s | %s | %.1f |" % (
            mutation.name, mutation.what, mutation.promise.replace(" ", ", "), caught, mutation.seconds))
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin, end = "<!-- mutations -->\n", "<!-- /mutations -->"
    head, tail = text.index(begin) + len(begin), text.index(end)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text[:head] + "\n".join(rows) + "\n" + text[tail:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?")
    parser.add_argument("--programs", action="store_true", help="prints the targets that a build needs for this")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--program", action="append", default=[])
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--markdown")
    arguments = parser.parse_args()
    if arguments.programs:
        print(*("tests/" + name for name in PROGRAMS))
        return 0
    if arguments.build is None:
        parser.error("which build?")
    mutations = [mutation for mutation in mutations_read()
                 if not arguments.only or mutation.name.startswith(tuple(arguments.only))]
    known = [name for name in arguments.program or PROGRAMS
             if os.access(os.path.join(arguments.build, "tests", name), os.X_OK)]
    scratch = tempfile.mkdtemp(prefix="pleat-mutations-")
    begin = time.monotonic()
    try:
        if run(arguments.build, "crash_store", "no_such_mutation", scratch)[0] != 99:
            print("%s is not a build with -Dmutations=true" % arguments.build)
            return 1
        if not mutations:
            return 1
        before = caught_before()
        print("%-24s %-22s %6s" % ("mutation", "caught by", "after"))
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            runs = [pool.submit(convict, arguments.build, mutation, known, before, arguments.repeat,
                                scratch)
                    for mutation in mutations]
            for mutation, future in zip(mutations, runs):
                future.result()
                print("%-24s %-22s %5.1fs  %s" % (
                    mutation.name, mutation.caught_by or "SURVIVES", mutation.seconds,
                    "; ".join([mutation.how[:90]] + mutation.notes)), flush=True)
        catchers = [name for name in known if any(mutation.caught_by == name for mutation in mutations)]
        if not sound(arguments.build, catchers, arguments.jobs, scratch):
            return 1
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    survivors = [mutation.name for mutation in mutations if mutation.caught_by is None]
    unsure = [mutation.name for mutation in mutations if mutation.caught_by and any(
        "missed" in note for note in mutation.notes)]
    print("%d mutations, %d caught, in %.0f s" % (len(mutations), len(mutations) - len(survivors),
                                                  time.monotonic() - begin))
    for name in survivors:
        print("survives: " + name)
    for name in unsure:
        print("not caught every time: " + name)
    if arguments.markdown:
        markdown(arguments.markdown, mutations)
    return 1 if survivors or unsure else 0


if __name__ == "__main__":
    sys.exit(main())
