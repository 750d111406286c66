#!/usr/bin/env python3
"""examples.py PLEAT EXAMPLES_DIR [TEST...] - the programs in examples/ do what their heads say."""
import gzip
import os
import pathlib
import re
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import tool  # noqa: E402
from tool import ToolTest, apply, unescape  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = pathlib.Path(sys.argv.pop(2)).resolve()
MARKER = "<!-- example: examples/quickstart.c -->"


def records(stream):
    return [(fields[0].decode(), *map(unescape, fields[1:])) for fields in
            (line.split(b"\t") for line in stream.split(b"\n")[:-1])]


class Examples(ToolTest):
    def example(self, name, *arguments, stdin=b"", status=0):
        done = subprocess.run([EXAMPLES / name, *map(str, arguments)], input=stdin, capture_output=True, cwd=self.work,
                              timeout=120)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_quickstart_runs_and_its_store_is_one(self):
        for _ in range(2):
            self.assertEqual(self.example("quickstart"),
                             b"svc.a.1 = 10.0.0.1\nsvc.a.2 = 10.0.0.2\nsvc.a.2 is at 10.0.0.2\n")
        self.assertEqual(self.cursor(store=self.work / "quickstart.db"), b"offset 17")
        self.example("quickstart", "no/such/parent", status=1)

    def test_the_readme_shows_quickstart_as_it_is(self):
        readme = ROOT / "README.md"
        if not readme.exists() or MARKER not in readme.read_text(encoding="utf-8"):
            self.skipTest("README.md does not show it")
        text = readme.read_text(encoding="utf-8").split(MARKER, 1)[1]
        shown = re.match(r"\s*```c\n(.*?)```", text, re.DOTALL)
        self.assertIsNotNone(shown, "no ```c block behind the marker")
        self.assertEqual(shown.group(1), (ROOT / "examples" / "quickstart.c").read_text(encoding="utf-8"))

    def git(self, *arguments):
        people = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**os.environ, **people, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(["git", *arguments], cwd=self.work / "repository", env=environment, check=True,
                              capture_output=True).stdout

    def test_git_stream_is_the_history(self):
        if shutil.which("git") is None:
            self.skipTest("no git here")
        tree = self.work / "repository"
        tree.mkdir()
        self.git("init", "-q", "-b", "main")
        names = [b"a", b"a.d/x", b"a-b", b"tab\there", b"new\nline", b"back\\slash", b"\xc3\xbc \xff", b"d/e/f",
                 b"-dash"]
        for i, name in enumerate(names):
            path = os.path.join(os.fsencode(tree), name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(b"%d" % i)
            if i == 4:
                self.git("rm", "-q", "a")
                os.symlink("d", tree / "a")
            if i == 6:
                self.git("checkout", "-q", "-b", "side")
            if i == 7:
                self.git("add", "-A")
                self.git("commit", "-qm", "on the side")
                self.git("checkout", "-q", "main")
                self.git("merge", "-q", "--no-ff", "-m", "merge", "side")
                self.git("commit", "-q", "--allow-empty", "-m", "empty")
                os.remove(tree / "back\\slash")
            self.git("add", "-A")
            self.git("commit", "-q", "--allow-empty", "-m", str(i))
        log = self.git("-c", "log.showRoot=true", "log", "-m", "--first-parent", "--reverse", "--raw", "-z",
                       "--no-renames", "--no-abbrev", "--format=commit %H")
        stream = self.example("git_stream", stdin=log)
        commits = self.git("rev-list", "--first-parent", "--reverse", "HEAD").split()
        self.assertEqual([r[1] for r in records(stream) if r[0] == "commit"], commits)
        self.fold(stream)
        self.assertEqual(self.cursor(), commits[-1])
        expected = self.example("git_stream", "--tree", stdin=self.git("ls-tree", "-r", "-z", "--full-tree", "HEAD"))
        self.assertEqual(self.run_tool("scan", self.store).stdout, expected)
        self.assertEqual(len(expected.split(b"\n")) - 1, len(names) - 1)

    def test_git_stream_refuses_other_input(self):
        for arguments, text in (([], b"hello\0"), ([], b"commit abc\0:100644 x\0"), ([], b"commit abc"),
                                (["--tree"], b"x\0"), ([], b"commit abc\0:1 2 3 4 M\0")):
            self.example("git_stream", *arguments, stdin=text, status=1)
        self.example("git_stream", "--nonsense", status=2)

    def test_pace_passes_everything_on(self):
        stream = b"put\ta\t1\ncommit\tone\nput\tb\t2\ncommit\ttwo\nput\tc"
        for arguments in (["10"], ["10", "one"], ["10", "never"], ["10", ""]):
            self.assertEqual(self.example("pace", *arguments, stdin=stream), stream)

    def test_routes_and_their_prefix_reads(self):
        stream = self.example("routes_stream", 4000, 30)
        expected = apply({}, records(stream))
        self.assertEqual(len(expected), 4000)
        self.assertEqual(stream, self.example("routes_stream", 4000, 30))
        self.fold(stream, "--space", "routes", "--group-delimiter", ".", "--group-delimiters", "2", "--settle")
        self.assertEqual(self.scan("--space", "routes"), sorted(expected.items()))
        self.assertEqual(self.example("prefix_latency", self.store, "routes", 4000, 500).count(b"p99"), 2)
        self.example("prefix_latency", self.store, "routes", 8000, 500, status=1)  # half of them are not there
        self.example("prefix_latency", self.work / "none", "routes", 4000, status=1)

    def test_the_recorded_history_is_a_stream(self):
        stream = gzip.decompress((ROOT / "examples" / "history.txt.gz").read_bytes())
        history = records(stream)
        cursors = [r[1] for r in history if r[0] == "commit"]
        self.assertEqual((len(cursors), len(set(cursors)), cursors), (7492, 7492, sorted(cursors)))
        self.fold(stream)
        self.assertEqual(self.scan(), sorted(apply({}, history).items()))


if __name__ == "__main__":
    tool.main()
