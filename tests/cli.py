#!/usr/bin/env python3
"""cli.py PLEAT [TEST...] - the `pleat` command on good input: every command, both formats, resuming."""
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import tool  # noqa: E402
from tool import ToolTest, apply, escape, framed, lines, picture, rows  # noqa: E402

AWKWARD = [b"", b"\0", b"\0\0", b"\t", b"\n", b"\\", b"\\t", b"->", b":", b"a", b"a\0", b"a\0b", b"ab", b"a\xff",
           b"\xff", b"\xff\xff", b"\xff\xff\xff", bytes(range(256)), b"x" * 65535, b"x" * 65534]


def awkward_records():
    records = [("put", key, AWKWARD[-1 - i]) for i, key in enumerate(AWKWARD)]
    records += [("put", b"big", os.urandom(3 << 20)), ("put", b"gone", b"1"), ("del", b"gone"), ("del", b"never there"),
                ("put", b"twice", b"first"), ("put", b"twice", b"second"), ("commit", b"cur\tsor\n\\\0\xff")]
    return records


class Formats(ToolTest):
    def test_lines_round_trip(self):
        records = awkward_records()
        self.fold(lines(records))
        self.assertEqual(self.scan(), sorted(apply({}, records).items()))
        self.assertEqual(self.cursor(), b"cur\tsor\n\\\0\xff")

    def test_framed_round_trip(self):
        records = awkward_records()
        self.fold(framed(records), "--format", "framed")
        self.assertEqual(self.scan(), sorted(apply({}, records).items()))
        self.assertEqual(self.cursor(), b"cur\tsor\n\\\0\xff")

    def test_a_scan_reads_back_as_puts(self):
        self.fold(lines(awkward_records()))
        printed = self.run_tool("scan", self.store).stdout
        stream = b"".join(b"put\t" + line + b"\n" for line in printed.split(b"\n")[:-1]) + b"commit\tcopy\n"
        copy = self.work / "copy"
        self.fold(stream, store=copy)
        self.assertEqual(self.run_tool("scan", copy).stdout, printed)

    def test_records_cut_by_reads_at_every_place(self):
        records = [("put", b"k%d" % i, b"v" * i) for i in range(9)] + [("del", b"k3"), ("commit", b"c" * 30)]
        for encode, name in ((lines, "lines"), (framed, "framed")):
            stream = encode(records)
            self.store = self.work / name
            process = self.start_fold("--format", name)
            for at in range(0, len(stream), 7):
                process.stdin.write(stream[at:at + 7])
                process.stdin.flush()
                time.sleep(0.001)
            process.stdin.close()
            self.assertEqual(process.wait(60), 0)
            self.assertEqual(dict(self.scan()), apply({}, records))

    def test_from_a_file_and_across_buffer_ends(self):
        records = []
        for i in range(1, 400):
            value = random.randbytes(random.choice([10, 9000, 60000]))
            records += [("put", random.randbytes(8), value), ("commit", b"%d" % i)]
        for encode, name in ((lines, "lines"), (framed, "framed")):
            path = self.work / (name + ".stream")
            path.write_bytes(encode(records))
            self.store = self.work / name
            with open(path, "rb") as stream:
                subprocess.run([tool.PLEAT, "fold", self.store, "--format", name, "--quiet"], stdin=stream, check=True)
            self.assertEqual(self.scan(), sorted(apply({}, records).items()))

    def test_summary_counts(self):
        done = self.run_tool("fold", self.store, stdin=b"put\ta\t1\ndel\tb\ncommit\tc1\ncommit\tc2\n")
        self.assertIn(b"folded 2 updates in 2 batches", done.stderr)
        self.assertIn(b"cursor c2", done.stderr)


class Resuming(ToolTest):
    stream = b"put\ta\t1\ncommit\tone\nput\tb\t2\ncommit\ttwo\nput\tc\t3\ndel\ta\ncommit\tthree\n"

    def test_skips_up_to_and_including_the_stored_cursor(self):
        self.fold(b"put\tmark\tx\ncommit\ttwo\n")
        self.fold(self.stream, "--resume")
        self.assertEqual(self.scan(), [(b"c", b"3"), (b"mark", b"x")])
        self.assertEqual(self.cursor(), b"three")

    def test_without_a_stored_cursor_takes_all(self):
        self.fold(self.stream, "--resume")
        self.assertEqual(self.scan(), [(b"b", b"2"), (b"c", b"3")])

    def test_at_the_end_there_is_nothing_left_to_do(self):
        self.fold(self.stream)
        before = self.run_tool("stat", self.store, "--json").stdout
        self.fold(self.stream, "--resume")
        self.assertEqual(json.loads(before)["applied_sequence"],
                         json.loads(self.run_tool("stat", self.store, "--json").stdout)["applied_sequence"])

    def test_a_cursor_that_never_comes_is_an_error_and_applies_nothing(self):
        for cursor in (b"elsewhere", b"tw", b"twoo", b""):
            store = self.work / ("never" + cursor.decode())
            self.fold(b"put\tmark\tx\ncommit\t" + cursor + b"\n", store=store)
            done = self.fold(self.stream, "--resume", status=3, store=store)
            self.assertIn(b"never came in 3 commits", done.stderr)
            self.assertEqual(self.scan(store=store), [(b"mark", b"x")])
            self.assertEqual(self.cursor(store=store), cursor)

    def test_an_empty_cursor_is_a_cursor(self):
        self.fold(b"put\ta\t1\ncommit\t\n")
        self.assertEqual(self.cursor(), b"")
        self.fold(b"put\ta\t2\ncommit\t\nput\tb\t1\ncommit\tnext\n", "--resume")
        self.assertEqual(self.scan(), [(b"a", b"1"), (b"b", b"1")])

    def test_named_cursors_are_apart(self):
        self.fold(self.stream, "--cursor", "left\\t")
        self.assertIsNone(self.cursor())
        self.assertEqual(self.cursor("--name", "left\\t"), b"three")
        self.fold(b"commit\tr\n", "--cursor", "right")
        self.assertEqual(self.run_tool("cursor", self.store, "--all").stdout, b"left\\t\tthree\nright\tr\n")
        self.assertEqual(self.cursor("--name", "right", "--durable"), b"r")

    def test_a_signal_ends_behind_a_commit(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self.store = self.work / number.name
            process = self.start_fold("--quiet")
            process.stdin.write(b"put\ta\t1\ncommit\tone\nput\tb\t2\n")
            process.stdin.flush()
            self.wait_consumed(process)
            process.send_signal(number)
            self.assertEqual(process.wait(60), 128 + number)
            self.assertEqual(self.scan(), [(b"a", b"1")])
            self.assertEqual(self.cursor("--durable"), b"one")

    def test_progress_is_shown_on_a_terminal_only(self):
        import pty
        ours, theirs = pty.openpty()
        process = self.start_fold(stderr=theirs)
        os.close(theirs)
        process.stdin.write(b"put\ta\t1\ncommit\tone\n")
        process.stdin.flush()
        shown = b""
        deadline = time.monotonic() + 20
        while b"applied one" not in shown and time.monotonic() < deadline:
            shown += os.read(ours, 4096)
        process.stdin.close()
        process.wait(60)
        os.close(ours)
        self.assertIn(b"1 updates, 1 batches", shown)
        self.assertIn(b"durable ", shown)
        process = self.start_fold()
        time.sleep(1.2)
        process.stdin.close()
        self.assertNotIn(b"\r", process.stderr.read())


class Reading(ToolTest):
    def test_get_prints_the_bytes_as_they_are(self):
        records = awkward_records()
        self.fold(framed(records), "--format", "framed")
        model = apply({}, records)
        for key in (b"a\0b", b"big", b"", b"\t", b"\\", b"\xff\xff", b"twice"):
            self.assertEqual(self.run_tool("get", self.store, escape(key)).stdout, model[key])
        self.assertEqual(self.run_tool("get", self.store, "gone", status=1).stdout, b"")
        self.assertEqual(self.run_tool("get", self.store, "--", "-dash", status=1).stdout, b"")

    def test_scan_options_against_a_model(self):
        keys = {bytes(random.choices(b"ab\xff\0", k=random.randrange(6))) for _ in range(300)}
        model = {key: random.randbytes(3) for key in keys}
        self.fold(framed([("put", k, v) for k, v in model.items()] + [("commit", b"1")]), "--format", "framed")
        for _ in range(60):
            arguments, expected = [], sorted(model.items())
            bound = lambda: bytes(random.choices(b"ab\xff\0", k=random.randrange(4)))  # noqa: E731
            if random.random() < 0.5:
                prefix = bound()
                arguments += ["--prefix", escape(prefix)]
                expected = [row for row in expected if row[0].startswith(prefix)]
            if random.random() < 0.5:
                lower = bound()
                arguments += ["--from", escape(lower)]
                expected = [row for row in expected if row[0] >= lower]
            if random.random() < 0.5:
                upper = bound()
                arguments += [b"--to=" + escape(upper)]
                expected = [row for row in expected if row[0] < upper]
            if random.random() < 0.5:
                arguments.append("--reverse")
                expected.reverse()
            if random.random() < 0.5:
                limit = random.randrange(1, 30)
                arguments += ["--limit", str(limit)]
                expected = expected[:limit]
            if random.random() < 0.3:
                arguments.append("--keys")
                expected = [row[:1] for row in expected]
            self.assertEqual(self.scan(*arguments), expected, arguments)

    def test_spaces_are_apart(self):
        self.fold(b"put\ta\tdefault\ncommit\t1\n")
        self.fold(b"put\ta.b.c\troutes\nput\ta.b.d\tx\ncommit\t2\n", "--space", "routes\\n", "--group-delimiter", ".",
                  "--group-delimiters", "2", "--settle")
        self.assertEqual(self.scan(), [(b"a", b"default")])
        self.assertEqual(self.scan("--space", "routes\\n", "--prefix", "a.b."),
                         [(b"a.b.c", b"routes"), (b"a.b.d", b"x")])
        self.run_tool("get", self.store, "a.b.c", status=1)
        self.run_tool("get", self.store, "a.b.c", "--space", "none", status=3)
        stat = json.loads(self.run_tool("stat", self.store, "--json").stdout)
        self.assertEqual(stat["spaces"], ["default", "routes\n"])
        done = self.fold(b"", "--space", "routes\\n", "--group-delimiter", "/", "--group-delimiters", "2", status=3)
        self.assertIn(b"PLEAT_ERR_", done.stderr)

    def test_stat_as_json_and_text(self):
        name, cursor = bytes(range(256))[:255], bytes(range(255, -1, -1)) * 4
        self.fold(framed([("put", b"k", b"v"), ("del", b"x"), ("commit", cursor)]), "--format", "framed", "--cursor",
                  escape(name))
        stat = json.loads(self.run_tool("stat", self.store, "--json").stdout)
        found = stat["cursors_applied"][0]
        self.assertEqual((found["name"].encode("latin-1"), found["cursor"].encode("latin-1")), (name, cursor))
        self.assertEqual(stat["cursors_applied"], stat["cursors_durable"])
        self.assertEqual((stat["applied_sequence"], stat["durable_sequence"], stat["debt_bytes"]), (1, 1, 0))
        self.assertEqual(len(stat["levels"]), 7)
        tables = [path.stat().st_size for path in self.store.glob("*.tbl")]
        self.assertEqual((stat["files"]["tables"], stat["files"]["table_bytes"]), (len(tables), sum(tables)))
        self.assertEqual(sum(level["tables"] for level in stat["levels"]), len(tables))
        text = self.run_tool("stat", self.store).stdout
        for word in (b"sequence", b"cursor applied", b"cursor durable", b"level ", b"cache", b"debt", b"space "):
            self.assertIn(word, text)

    def test_reading_commands_change_nothing_also_behind_a_killed_writer(self):
        self.killed_store([("put", b"k%d" % i, b"v") for i in range(50)] + [("commit", b"50")])
        self.assertTrue(list(self.store.glob("*.wal")))
        before = picture(self.store)
        self.assertEqual(len(self.scan()), 50)
        self.assertEqual(self.cursor(), b"50")
        self.run_tool("get", self.store, "k7")
        self.run_tool("stat", self.store)
        stat = json.loads(self.run_tool("stat", self.store, "--json").stdout)
        self.assertEqual(stat["memtables"]["entries"], 50)
        self.assertIn(b"1 segments, 1 commits", self.run_tool("verify", self.store).stdout)
        for path in self.store.iterdir():
            self.run_tool("dump", self.store, path.name, "--entries")
        self.assertEqual(picture(self.store), before)

    def test_output_that_cannot_be_written_is_an_error(self):
        self.fold(b"put\ta\t1\ncommit\tone\n")
        for command in (["scan", self.store], ["get", self.store, "a"], ["stat", self.store], ["cursor", self.store]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([tool.PLEAT, *command], stdout=full, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 3, command)
            self.assertIn(b"standard output", done.stderr)


class Inspecting(ToolTest):
    def tile(self, name, *arguments):
        """Checks that the parts that a dump prints tile the file; returns its text."""
        text = self.run_tool("dump", self.store, name, *arguments).stdout
        at = 0
        for line in text.split(b"\n"):
            fields = line.split()
            if len(fields) > 2 and fields[0].isdigit() and fields[1].isdigit() and line[:1] == b" ":
                self.assertEqual(int(fields[0]), at, line)
                at += int(fields[1])
        return text, at

    def test_verify_says_what_it_checked(self):
        self.fold(lines([("put", b"%05d" % i, b"v" * 50) for i in range(5000)] + [("commit", b"1")]))
        text = self.run_tool("verify", self.store).stdout.decode()
        self.assertRegex(text, r"manifest +\d+ edits")
        self.assertRegex(text, r"tables +1 with \d\d+ blocks and 5000 entries")
        self.assertRegex(text, r"sound +\d+ bytes")

    def test_dump_of_every_file_with_offsets(self):
        puts = [("put", b"key%05d" % i, b"v" * 50) for i in range(3000)]
        self.fold(lines(puts + [("del", b"a\\"), ("commit", b"1")]))
        (table,) = self.store.glob("*.tbl")
        text, end = self.tile(table.name, "--entries")
        self.assertEqual(end, table.stat().st_size)
        for word in (b"index", b"filter", b"properties", b"footer", b"put key00017  value 50 bytes"):
            self.assertIn(word, text)
        text, end = self.tile("MANIFEST")
        self.assertEqual(end, (self.store / "MANIFEST").stat().st_size)
        self.assertIn(b"last sequence 1", text)
        text = self.run_tool("dump", self.store, "LOCK").stdout
        self.assertIn(b"given up", text)
        self.assertIn(b"noted: MANIFEST at edition", text)
        self.assertEqual(self.run_tool("dump", self.store, table.name).stdout,
                         self.run_tool("dump", self.store, table).stdout)
        self.run_tool("dump", self.store, "000999.tbl", status=3)
        self.run_tool("dump", self.store, "README", status=3)

    def test_dump_of_a_log_segment(self):
        self.killed_store([("put", b"one", b"1"), ("commit", b"c1"), ("put", b"two", b"22"), ("del", b"one"),
                           ("commit", b"c\t2")])
        segment = max(self.store.glob("*.wal"))
        text, end = self.tile(segment.name, "--entries")
        for word in (b"created at edition", b"sequence 1: 1 entries, 1 cursors", b"sequence 2: 2 entries",
                     b"put two  value 2 bytes", b"del one", b'cursor "" = c\\t2',
                     b"%d           end behind sequence 2" % end):
            self.assertIn(word, text)
        self.assertIn(b"last held by process", self.run_tool("dump", self.store, "LOCK").stdout)

    def test_compact_drops_what_is_not_visible(self):
        self.fold(lines([("put", b"%05d" % i, random.randbytes(90)) for i in range(4000)] + [("commit", b"1")]))
        self.fold(lines([("del", b"%05d" % i) for i in range(3990)] + [("commit", b"2")]))
        text = self.run_tool("compact", self.store).stdout
        self.assertIn(b"compacted", text)
        stat = json.loads(self.run_tool("stat", self.store, "--json").stdout)
        self.assertEqual(sum(level["entries"] for level in stat["levels"]), 10)
        self.assertEqual(sum(level["tombstones"] for level in stat["levels"]), 0)
        self.assertEqual(len(self.scan()), 10)


class Usage(ToolTest):
    def test_every_command_has_help(self):
        text = self.run_tool("help").stdout.decode()
        for name in ("fold", "cursor", "get", "scan", "stat", "verify", "dump", "compact"):
            self.assertIn(f"pleat {name}", text)
            self.assertIn(f"pleat {name} DIR".encode(), self.run_tool("help", name).stdout)
            self.assertEqual(self.run_tool("help", name).stdout, self.run_tool(name, "--help").stdout)
        self.assertIn("Exit status", text)
        self.assertRegex(self.run_tool("--version").stdout, rb"^pleat \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_status_2_and_does_nothing(self):
        store = self.store
        for arguments in ([], ["nonsense"], ["help", "nonsense"], ["get", store], ["scan"], ["scan", store, "x"],
                          ["scan", store, "--nonsense"], ["scan", store, "--limit", "x"],
                          ["scan", store, "--limit", "0"],
                          ["scan", store, "--limit", "99999999999999999999"], ["scan", store, "--limit"],
                          ["scan", store, "--reverse=1"], ["scan", store, "--from", "\\x"], ["get", store, "a\\"],
                          ["fold", store, "--format", "xml"], ["fold", store, "--durability", "maybe"],
                          ["fold", store, "--memtable", "0"], ["fold", store, "--group-delimiter", "."],
                          ["fold", store, "--group-delimiter", ".", "--group-delimiters", "2"],
                          ["fold", store, "--space", "s", "--group-delimiter", "..", "--group-delimiters", "2"]):
            done = self.run_tool(*arguments, stdin=b"put\ta\t1\ncommit\tx\n", status=2)
            self.assertTrue(done.stderr, arguments)
            self.assertEqual(done.stdout, b"")
        self.assertFalse(store.exists())


if __name__ == "__main__":
    tool.main()
