#!/usr/bin/env python3
"""Kept stores of every format version, which every later version must open, read, write and compact.

    golden.py PROGRAM                 checks all stores of tests/golden/ with PROGRAM (tests/format_store.c)
    golden.py --make PROGRAM VERSION  writes what is missing in tests/golden/VERSION/: only for a format version that no
                                      release has

A store is kept as NAME.tar.xz, what it holds as NAME.txt.xz, a line each as PROGRAM prints it. Kept stores never
change: files of every released version open for ever, and these show it. Between them they have all that a format has:
stores that were closed and that were killed with commits in two log segments, LZ4 and raw blocks, narrow and wide ones,
Bloom and fuse filters, groups by length and by delimiter, the longest and the empty key, empty values, versions, flags,
several spaces (one dropped, one cleared), cursors with incarnations; and, in those called noted, LOCK with its notes,
which the others lack."""
import hashlib
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile

HOME = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden")
STORES = {"closed-1": ("closed", 101), "closed-2": ("closed", 102), "killed-1": ("killed", 103),
          "killed-2": ("killed", 104), "noted-closed": ("closed", 105), "noted-killed": ("killed", 106)}


def run(program, *arguments):
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def make(program, version):
    home = os.path.join(HOME, version)
    os.makedirs(home, exist_ok=True)
    for name, (mode, seed) in sorted(STORES.items()):
        if os.path.exists(os.path.join(home, name + ".tar.xz")):
            continue  # never over kept ones
        with tempfile.TemporaryDirectory() as work:
            store = os.path.join(work, "store")
            text = run(program, store, mode, str(seed))
            if not name.startswith("noted"):
                os.unlink(os.path.join(store, "LOCK"))
            with tarfile.open(os.path.join(home, name + ".tar.xz"), "w:xz", preset=9) as tar:
                for file in sorted(os.listdir(store)):
                    info = tar.gettarinfo(os.path.join(store, file), file)
                    info.uid = info.gid = info.mtime = 0
                    info.uname = info.gname = ""
                    with open(os.path.join(store, file), "rb") as content:
                        tar.addfile(info, content)
            with lzma.open(os.path.join(home, name + ".txt.xz"), "wt", preset=9) as kept:
                kept.write(text)


def digest(path):
    sums = {}
    for name in sorted(os.listdir(path)):
        with open(os.path.join(path, name), "rb") as file:
            sums[name] = hashlib.sha256(file.read()).hexdigest()
    return sums


def unpack(archive, path):
    os.mkdir(path)
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            assert member.isfile() and "/" not in member.name, member.name
            with open(os.path.join(path, member.name), "wb") as file:
                file.write(tar.extractfile(member).read())


def difference(found, expected):
    for a, b in zip(found.splitlines(), expected.splitlines()):
        if a != b:
            return "found %.120s, expected %.120s" % (a, b)
    return "%d lines, %d expected" % (found.count("\n"), expected.count("\n"))


def check_store(program, home, name):
    with lzma.open(os.path.join(home, name + ".txt.xz"), "rt") as kept:
        expected = kept.read()
    with tempfile.TemporaryDirectory() as work:
        store = os.path.join(work, "store")
        unpack(os.path.join(home, name + ".tar.xz"), store)
        before = digest(store)
        found = run(program, store, "read")
        assert found == expected, "read-only: " + difference(found, expected)
        assert digest(store) == before, "a read-only open changed the directory"
        found = run(program, store, "write")
        # Writing and taking back takes sequence numbers, which the first line says, and leaves nothing else.
        assert found.split("\n", 1)[1] == expected.split("\n", 1)[1], "written: " + difference(found, expected)
        assert found.split("\n", 1)[0] != expected.split("\n", 1)[0], "nothing was written"
    return expected.count("\n")


def check(program):
    count = 0
    for version in sorted(os.listdir(HOME)):
        home = os.path.join(HOME, version)
        for name in sorted(os.listdir(home)):
            if name.endswith(".tar.xz"):
                lines = check_store(program, home, name[:-len(".tar.xz")])
                print("format %s, %s: %d lines" % (version, name, lines))
                count += 1
    assert count >= len(STORES), "stores are missing"
    return 0


def main(arguments):
    if len(arguments) == 1:
        return check(os.path.abspath(arguments[0]))
    if len(arguments) == 3 and arguments[0] == "--make":
        make(os.path.abspath(arguments[1]), arguments[2])
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
