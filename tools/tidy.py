#!/usr/bin/env python3
"""tidy.py [--shared LIBRARY] [--static ARCHIVE] : the house rules that a machine can check. Run by `meson test`.

One line a breach, "path:line: what", and exit status 1 when there is any. What is checked:
  floors       a room includes itself and lower floors only (docs/tour.md has the floors)
  sizes        files, functions, columns
  calls        the allocator, system calls and printing stay where they belong
  words        no notes to self are merged
  heads        every module begins with a comment that names it
  docs         every path, link and function that they name exists; docs/tour.md names every source file;
               docs/invariants.md has the invariants of the module heads, each and no other; the README's example is
               the file that it names
  headers      compile alone as C11 and as C++17 (environment CC and CXX; a compiler that is not there is passed over)
  names        the libraries export pleat_* and nothing else (when they are given)
"""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

FLOORS = {"platform": 0, "base": 1, "cache": 2, "memtable": 3, "wal": 3, "sstable": 3, "version": 4, "compaction": 5,
          "db": 6, "fold": 7}
UPWARD = {("platform", "base/assert.h"), ("platform", "base/error.h"), ("platform", "base/mem.h"),
          ("platform", "base/mutation.h")}

FILE_LINES = {"src": 600, "include": 600, "tools": 600, "bench": 600, "examples": 600, "tests": 1000}
FUNCTION_LINES = 70
COLUMNS = 120

SUFFIXES_CODE = (".c", ".h")
SUFFIXES_LINES = (".c", ".h", ".py", ".build")
NOTES = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")

# What is banned, in which folder, but for which files.
BANS = [
    ("malloc calloc realloc free strdup strndup aligned_alloc posix_memalign mmap munmap", "src/",
     ("src/base/mem.c", "src/platform/"), "the allocator is behind base/mem.h"),
    ("open openat pread pwrite read write close fsync fdatasync syncfs rename renameat unlink unlinkat ftruncate "
     "fallocate mkdir msync", "src/", ("src/platform/",), "system calls on files are behind platform/vfs.h"),
    ("strcpy strcat sprintf vsprintf gets", "", (), "unbounded"),
    ("printf fprintf vprintf vfprintf dprintf puts fputs putchar fputc fwrite perror", "src/", (),
     "the library never prints"),
    ("assert", "src/", (), "ASSERT and DEBUG_ASSERT of base/assert.h, or static_assert"),
    # epoch.c needs a thread-local key with a destructor, and a mutex that exists before any store.
    ("pthread_mutex_lock pthread_create pthread_cond_wait", "src/", ("src/platform/", "src/base/epoch.c"),
     "threads are in platform/thread.h"),
]

breaches = []


def breach(path, line, what):
    breaches.append("%s:%d: %s" % (path, line, what))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def files(*folders, suffixes):
    for folder in folders:
        for home, subfolders, names in os.walk(os.path.join(ROOT, folder)):
            subfolders[:] = sorted(name for name in subfolders if name != "__pycache__")
            for name in sorted(names):
                if name.endswith(suffixes):
                    yield os.path.relpath(os.path.join(home, name), ROOT)


def bare(text):
    """C without the content of comments, strings and characters; lines stay where they are."""
    def blank(match):
        token = match.group(0)
        if token[0] in "\"'":
            return token[0] * 2
        return "\n" * token.count("\n") or " "
    pattern = r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    return re.sub(pattern, blank, text, flags=re.S)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


# ---- code ---------------------------------------------------------------------------------------------------------


def check_floors(path, text):
    room = path.split("/")[1]
    if room not in FLOORS:
        breach(path, 1, "room without a floor")
        return
    for match in re.finditer(r'^#include "([^"]+)"', text, re.M):
        other = match.group(1).split("/")[0]
        if other == "pleat" or other == room or (room, match.group(1)) in UPWARD:
            continue
        if other not in FLOORS:
            breach(path, line_of(text, match.start()), "included by another path than room/file: " + match.group(1))
        elif FLOORS[other] >= FLOORS[room]:
            breach(path, line_of(text, match.start()), "%s may not include %s" % (room, match.group(1)))


def check_sizes(path, text):
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    limit = FILE_LINES.get(path.split("/")[0])
    if limit is not None and len(lines) > limit:
        breach(path, len(lines), "%d lines, the limit is %d" % (len(lines), limit))
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMNS:
            breach(path, number, "%d columns, the limit is %d" % (len(line), COLUMNS))
        if line != line.rstrip():
            breach(path, number, "blanks at the end of the line")


def check_functions(path, code):
    """A brace at the outermost level behind a closing parenthesis opens a function."""
    code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda match: "\n" * match.group(0).count("\n"), code, flags=re.M)
    code = re.sub(r'extern ""\s*\{', lambda match: " " * len(match.group(0)), code)
    depth, begin = 0, None
    for match in re.finditer(r"[{}]", code):
        if match.group(0) == "{":
            if depth == 0 and code[:match.start()].rstrip().endswith(")"):
                begin = match.start()
            depth += 1
        else:
            depth -= 1
            if depth == 0 and begin is not None:
                lines = code.count("\n", begin, match.start()) + 1
                if lines > FUNCTION_LINES:
                    name = re.findall(r"(\w+)\s*\(", code[:begin].rsplit(";", 1)[-1].rsplit("}", 1)[-1])
                    breach(path, line_of(code, begin), "%s() has %d lines, the limit is %d" %
                           (name[0] if name else "?", lines, FUNCTION_LINES))
                begin = None


def check_calls(path, code):
    for names, folder, allowed, why in BANS:
        if not path.startswith(folder) or path.startswith(allowed or ("\0",)):
            continue
        for match in re.finditer(r"(?<![\w.>])(%s)\s*\(" % names.replace(" ", "|"), code):
            breach(path, line_of(code, match.start()), "%s(): %s" % (match.group(1), why))


def check_head(path, text):
    name = os.path.basename(path)
    if not re.match(r"/\*\s*(?:\* )?" + re.escape(name) + r" - ", text):
        breach(path, 1, "does not begin with a comment \"%s - what it is\"" % name)


def check_code():
    for path in files("src", "include", "tools", "bench", "examples", "tests", suffixes=SUFFIXES_LINES):
        text = read(path)
        check_sizes(path, text)
        for match in NOTES.finditer(text):
            breach(path, line_of(text, match.start()), "a note to self: " + match.group(0))
        if not path.endswith(SUFFIXES_CODE):
            continue
        code = bare(text)
        check_calls(path, code)
        if path.startswith("src/"):
            check_floors(path, text)
            check_functions(path, code)
        if path.startswith(("src/", "include/", "tools/", "bench/")):
            check_head(path, text)
        elif path.startswith("tests/") and not text.startswith("/*"):
            breach(path, 1, "does not begin with a comment")


# ---- docs ---------------------------------------------------------------------------------------------------------


def slug(heading):
    """The anchor of a heading, as the usual renderers make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower().replace("`", "")).replace(" ", "-")


def check_links(path, text):
    for match in re.finditer(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = match.group(1).partition("#")
        if "://" in target:
            continue
        line = line_of(text, match.start())
        full = os.path.normpath(os.path.join(os.path.dirname(path), target)) if target else path
        if not os.path.exists(os.path.join(ROOT, full)):
            breach(path, line, "link to %s, which is not there" % full)
        elif anchor and anchor not in {slug(h) for h in re.findall(r"^#+ (.*)$", read(full), re.M)}:
            breach(path, line, "link to %s#%s, a heading that is not there" % (full, anchor))


def check_named(path, text, names, functions):
    """Paths and functions in backticks, and name() anywhere."""
    text = re.sub(r"^```.*?^```", lambda match: "\n" * match.group(0).count("\n"), text, flags=re.M | re.S)
    for match in re.finditer(r"`([^`\n]+)`|\b(\w+)\(\)", text):
        line = line_of(text, match.start())
        token = match.group(1) or match.group(2) + "()"
        function = re.fullmatch(r"(\w+)\(\)", token)
        if function:
            if function.group(1) not in functions:
                breach(path, line, "there is no function %s" % token)
        elif re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", token) and not re.match(r"N+\.|build|subprojects/", token):
            first = token.split("/")[0]
            if "/" in token and (os.path.isdir(os.path.join(ROOT, first)) or first in FLOORS):
                if not any(os.path.exists(os.path.join(ROOT, base, token)) for base in ("", "src")):
                    breach(path, line, "there is no %s" % token)
            elif "/" not in token and token.endswith(SUFFIXES_CODE + (".py",)) and token not in names:
                breach(path, line, "there is no %s" % token)


HEAD = re.compile(r"/\*.*?\*/", re.S)
TAG_IN_HEAD = re.compile(r"^ \* {1,4}([A-Z]{1,2}\d{1,2})  ", re.M)


def check_invariants(path):
    """Sections `### path` with rows `| tag |`: the same tags as in the heads."""
    heads = {}
    for source in files("src", suffixes=SUFFIXES_CODE):
        head = HEAD.match(read(source))
        tags = TAG_IN_HEAD.findall(head.group(0)) if head else []
        if len(tags) != len(set(tags)):
            breach(source, 1, "an invariant tag twice in one head")
        heads[source] = set(tags)
    said, section = {}, None
    for number, line in enumerate(read(path).split("\n"), 1):
        heading = re.match(r"#+ `?([\w/.]+)`?$", line)
        row = re.match(r"\| ([A-Z]{1,2}\d{1,2}) \|", line)
        if heading and heading.group(1).startswith("src/"):
            section = heading.group(1)
            said.setdefault(section, set())
        elif row and section is not None:
            if row.group(1) not in heads.get(section, set()):
                breach(path, number, "%s is in no head of %s" % (row.group(1), section))
            said[section].add(row.group(1))
    for source, tags in sorted(heads.items()):
        for tag in sorted(tags - said.get(source, set())):
            breach(source, 1, "%s is not in %s" % (tag, path))


def check_example(path):
    text = read(path)
    for match in re.finditer(r"<!-- example: (\S+) -->\n```c\n(.*?)```\n<!-- /example -->", text, re.S):
        if not os.path.exists(os.path.join(ROOT, match.group(1))) or read(match.group(1)) != match.group(2):
            breach(path, line_of(text, match.start()), "the example is not %s" % match.group(1))


def check_docs():
    functions, names = set(), set()
    for path in files("src", "include", "tools", "tests", "examples", "bench", suffixes=SUFFIXES_CODE):
        functions.update(re.findall(r"\b([A-Za-z_]\w*)\s*\(", bare(read(path))))
    for path in files("src", "include", "tools", "tests", "examples", "bench", "docs", suffixes=("",)):
        names.add(os.path.basename(path))
    pages = [name for name in ("README.md", "CONTRIBUTING.md") if os.path.exists(os.path.join(ROOT, name))]
    for path in pages + list(files("docs", "examples", suffixes=(".md",))):
        text = read(path)
        check_links(path, text)
        check_named(path, text, names, functions)
        for match in NOTES.finditer(text):
            breach(path, line_of(text, match.start()), "a note to self: " + match.group(0))
    check_example("README.md")
    check_invariants("docs/invariants.md")
    tour = read("docs/tour.md")
    for path in files("src", "include", "tools", suffixes=SUFFIXES_CODE):
        if not re.search(r"(?<![\w.])" + re.escape(os.path.basename(path)) + r"(?![\w.])", tour):
            breach("docs/tour.md", 1, "does not name " + path)


# ---- what is built ------------------------------------------------------------------------------------------------


def check_headers():
    kinds = (("CC", "cc", "c", "c11"), ("CXX", "c++", "c++", "c++17"))
    for variable, preset, language, standard in kinds:
        compiler = shlex.split(os.environ.get(variable) or preset)
        if shutil.which(compiler[0]) is None:
            print("tidy: no %s: headers are not compiled as %s" % (compiler[0], standard))
            continue
        for path in files("include", suffixes=(".h",)):
            with tempfile.NamedTemporaryFile("w", suffix="." + language) as source:
                source.write('#include "%s"\n' % os.path.relpath(path, "include"))
                source.flush()
                run = subprocess.run(compiler + ["-x", language, "-std=" + standard, "-Wall", "-Wextra", "-Wpedantic",
                                                 "-Werror", "-fsyntax-only", "-I", os.path.join(ROOT, "include"),
                                                 source.name], stderr=subprocess.PIPE, text=True, check=False)
            if run.returncode != 0:
                breach(path, 1, "does not compile as %s: %s" % (standard, run.stderr.split("\n")[0]))


OWN_NAMES = re.compile(r"pleat_|_init$|_fini$|_edata$|_end$|__bss_start$|__\w*(asan|tsan|ubsan|sancov)")


def check_names(library, arguments):
    """Global names that the library defines. A sanitizer's own are its business."""
    run = subprocess.run(["nm", "--defined-only", "-g"] + arguments + [library], stdout=subprocess.PIPE, text=True,
                         check=True)
    for line in run.stdout.split("\n"):
        fields = line.split()
        if len(fields) == 3 and not OWN_NAMES.match(fields[2]):
            breach(os.path.basename(library), 0, "exports %s" % fields[2])


def main():
    parser = argparse.ArgumentParser(description="Checks the house rules; see the head of this file.")
    parser.add_argument("--shared", help="the shared library, whose exported names are checked")
    parser.add_argument("--static", help="the static library, the same")
    arguments = parser.parse_args()
    check_code()
    check_docs()
    check_headers()
    if arguments.shared:
        check_names(arguments.shared, ["-D"])
    if arguments.static:
        check_names(arguments.static, [])
    for line in breaches:
        print(line)
    print("tidy: %d breaches" % len(breaches) if breaches else "tidy: all rules hold")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
