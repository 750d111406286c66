#!/usr/bin/env python3
"""cli_refusals.py PLEAT [TEST...] - the `pleat` command on what it must refuse: bad streams, stores that it may not or
cannot open, damaged files. Each time: the exit status, what the message names, and that nothing changed."""
import ctypes
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import tool  # noqa: E402
from tool import ToolTest, framed, lines, picture  # noqa: E402

NOBODY = 65534


class BadStreams(ToolTest):
    good = b"put\tkept\t1\ncommit\tgood\n"
    good_framed = b"+4,1:kept->1\n=4:good\n"

    def check_refused(self, name, stream, said, arguments=()):
        """The stream's first batch stays; nothing of the second, which holds the bad record, is applied."""
        store = self.work / name
        done = self.fold(stream, *arguments, store=store, status=3)
        for text in said:
            self.assertIn(text, done.stderr, name)
        self.assertEqual(self.scan(store=store), [(b"kept", b"1")], name)
        self.assertEqual(self.cursor(store=store), b"good", name)
        self.run_tool("verify", store)

    def test_a_bad_line_is_named_and_its_batch_not_applied(self):
        bad = {
            "unknown word": b"set\ta\tb", "empty line": b"", "no tab": b"put", "no value": b"put\tkey",
            "commit bare": b"commit", "third tab": b"put\ta\tb\tc", "tab in del": b"del\ta\tb",
            "tab in cursor": b"commit\ta\tb",
            "escape in key": b"put\ta\\x\tb", "escape in value": b"put\ta\tb\\r", "escape in cursor": b"commit\t\\q",
            "escape cut in value": b"put\ta\tb\\", "escape cut in key": b"put\ta\\\tb", "upper case": b"PUT\ta\tb",
            "spaces": b"put a b", "delete": b"delete\ta", "key too long": b"put\t" + b"k" * 65536 + b"\tv",
            "key to delete too long": b"del\t" + b"k" * 65536, "cursor too long": b"commit\t" + b"c" * 1025,
        }
        for name, line in bad.items():
            stream = self.good + b"put\tlost\t2\ndel\tkept\n" + line + b"\nput\tz\tz\ncommit\tafter\n"
            self.check_refused(name, stream, [b"line 5:"])

    def test_limits_name_the_actual_and_the_limit(self):
        for name, line, said in (("key", b"put\t" + b"k" * 70000 + b"\tv\n", [b"70000", b"65535"]),
                                 ("cursor", b"commit\t" + b"c" * 2000 + b"\n", [b"2000", b"1024"])):
            self.check_refused(name, self.good + line, [b"line 3:"] + said)

    def test_a_bad_frame_is_named_and_its_batch_not_applied(self):
        bad = {
            "letter": b"x3:abc", "no colon": b"+" + b"1" * 40, "no number": b"+,1:a->b", "one number": b"+3:abc",
            "two numbers": b"-3,3:abc", "no arrow": b"+1,1:a=>b", "key longer": b"+1,1:ab->b",
            "value longer": b"+1,1:a->bb", "cursor longer": b"=1:ab", "minus": b"+-1,1:a->b", "plus": b"-+1:a",
            "space": b"+ 1,1:a->b", "hex": b"-0x1:a",
            "overflow": b"-18446744073709551617:a", "key over the limit": b"-65536:" + b"a" * 65536,
            "cursor over the limit": b"=1025:" + b"c" * 1025, "value over the limit": b"+1,268435457:a->",
            "line format": b"put\ta\tb",
        }
        for name, record in bad.items():
            stream = self.good_framed + b"+4,1:lost->2\n-4:kept\n" + record + b"\n+1,1:z->z\n=5:after\n"
            self.check_refused(name, stream, [b"record 5:"], ("--format", "framed"))

    def test_a_tail_without_commit_is_not_applied_and_said(self):
        tails = {"lines": [b"put\ta\t1\n", b"put\ta\t1\ndel\tkept\n", b"put\ta\t1", b"p", b"commit\tcut",
                           b"commit\t"],
                 "framed": [b"+1,1:a->1\n", b"+1,1:a->1", b"+1,1:a-", b"+", b"=3:cut", b"=3:c",
                            b"-60000:" + b"k" * 50000]}
        for name, format_tails in tails.items():
            for i, tail in enumerate(format_tails):
                store = self.work / f"{name}-{i}"
                good = self.good if name == "lines" else self.good_framed
                done = self.fold(good + tail, "--format", name, store=store, status=4)
                self.assertIn(b"not applied", done.stderr, tail[:20])
                self.assertEqual(self.scan(store=store), [(b"kept", b"1")], tail[:20])
                self.assertEqual(self.cursor(store=store), b"good")

    def test_a_stream_of_nothing_is_no_error(self):
        self.fold(b"")
        self.assertEqual(self.scan(), [])
        self.assertIsNone(self.cursor())


class BadPlaces(ToolTest):
    def every_command(self, store, status, said, writing_only=False, **more):
        reading = [["cursor"], ["scan"], ["stat"], ["stat", "--json"], ["verify"], ["get", "--", "k"]]
        reading = [] if writing_only else reading
        for command in [["fold"], ["compact"]] + reading:
            done = self.run_tool(command[0], store, *command[1:], stdin=b"put\ta\t1\ncommit\tx\n", status=status,
                                 **more)
            for text in said:
                self.assertIn(text, done.stderr, command)

    def test_a_file(self):
        path = self.work / "file"
        path.write_bytes(b"text")
        self.every_command(path, 3, [b"PLEAT_ERR_INVALID"])
        self.assertEqual(path.read_bytes(), b"text")

    def test_a_foreign_directory(self):
        path = self.work / "home"
        path.mkdir()
        (path / "letter.txt").write_bytes(b"text")
        before = picture(path)
        self.every_command(path, 3, [b"letter.txt", b"PLEAT_ERR_INVALID"])
        self.assertEqual(picture(path), before)

    def test_nothing_there(self):
        for command in ("cursor", "scan", "stat", "verify", "compact"):
            done = self.run_tool(command, self.store, status=3)
            self.assertIn(b"PLEAT_ERR_NOT_FOUND", done.stderr)
        self.assertFalse(self.store.exists())
        self.store.mkdir()
        self.run_tool("scan", self.store, status=3)
        self.assertEqual(list(self.store.iterdir()), [])
        self.run_tool("fold", self.work / "no" / "parent", status=3)

    def test_a_store_that_another_process_holds_names_its_pid(self):
        process = self.start_fold()
        process.stdin.write(b"put\ta\t1\n")
        process.stdin.flush()
        self.wait_consumed(process)
        self.every_command(self.store, 3, [b"process %d" % process.pid, b"PLEAT_ERR_BUSY"])
        process.stdin.write(b"commit\tx\n")
        process.stdin.close()
        self.assertEqual(process.wait(60), 0)
        self.assertEqual(self.scan(), [(b"a", b"1")])

    def test_a_killed_process_leaves_no_lock(self):
        self.killed_store([("put", b"a", b"1"), ("commit", b"x")])
        self.fold(b"put\tb\t2\ncommit\ty\n")
        self.assertEqual(self.scan(), [(b"a", b"1"), (b"b", b"2")])

    def as_nobody(self):
        """What makes a child of this test an ordinary user; skips where that user cannot run the command."""
        if os.geteuid() != 0:
            return {}
        more = {"preexec_fn": lambda: (os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY))}
        try:
            runs = subprocess.run([tool.PLEAT, "--version"], capture_output=True, **more).returncode == 0
        except (PermissionError, subprocess.SubprocessError):
            runs = False
        if not runs:
            self.skipTest("the command is not where an ordinary user can run it")
        os.chmod(self.work, 0o755)
        return more

    def test_without_permission(self):
        more = self.as_nobody()
        self.fold(b"put\tk\tv\ncommit\tx\n")
        os.chmod(self.store, 0)
        self.every_command(self.store, 3, [b"PLEAT_ERR_DENIED"], **more)
        os.chmod(self.store, 0o755)
        os.chmod(self.store / "MANIFEST", 0)
        self.every_command(self.store, 3, [b"PLEAT_ERR_DENIED"], **more)

    def test_a_read_only_directory_is_read_and_not_written(self):
        more = self.as_nobody()
        self.killed_store([("put", b"k", b"v"), ("commit", b"x")])
        (self.store / "LOCK").unlink()  # as when the files were copied to the medium without it
        for path in self.store.iterdir():
            os.chmod(path, 0o444)
        os.chmod(self.store, 0o555)
        before = picture(self.store)
        self.assertEqual(self.run_tool("scan", self.store, **more).stdout, b"k\tv\n")
        self.assertEqual(self.run_tool("get", self.store, "k", **more).stdout, b"v")
        self.assertEqual(self.run_tool("cursor", self.store, **more).stdout, b"x\n")
        self.run_tool("verify", self.store, **more)
        self.run_tool("stat", self.store, **more)
        self.every_command(self.store, 3, [b"PLEAT_ERR_DENIED"], writing_only=True, **more)
        self.assertEqual(picture(self.store), before)

    def test_read_only_media(self):
        self.fold(b"put\tk\tv\ncommit\tx\n")
        script = ('mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 77; '
                  '"$2" scan "$1" || exit 1; "$2" verify "$1" >/dev/null || exit 1; '
                  '"$2" fold "$1" </dev/null; [ $? -eq 3 ]')
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", self.store, tool.PLEAT], capture_output=True)
        if done.returncode == 77 or b"unshare" in done.stderr:
            self.skipTest("no private mounts here")
        self.assertEqual((done.returncode, done.stdout), (0, b"k\tv\n"), done.stderr)
        self.assertIn(b"PLEAT_ERR_READ_ONLY", done.stderr)


class Damage(ToolTest):
    def check_damage(self, name, commands, said):
        """Each command fails, its message says all of `said`, and the directory is as it was."""
        before = picture(self.store)
        for command in commands:
            done = self.run_tool(command[0], self.store, *command[1:], stdin=b"put\ta\t1\ncommit\tx\n", status=3)
            for text in said:
                self.assertIn(text, done.stderr, (name, command))
            self.assertEqual(picture(self.store), before, (name, command))

    def flip(self, path, at):
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    def each_damage(self, path, places, commands, said):
        sound = self.work / "sound"
        shutil.copytree(self.store, sound)
        for at in places:
            self.flip(path, at)
            self.check_damage(at, commands, said)
            shutil.rmtree(self.store)
            shutil.copytree(sound, self.store)
        self.run_tool("verify", self.store)

    every = [["cursor"], ["scan"], ["stat"], ["verify"], ["fold"], ["compact"]]

    def test_of_the_manifest(self):
        self.fold(b"put\tk\tv\ncommit\tx\n")
        size = (self.store / "MANIFEST").stat().st_size
        # Header and frame 0, which is all that the manifest of a closed store has.
        places = [0, 9, 20, 33, 41, 50, 57, 61, 70, 100, 110, size - 1]
        self.assertGreater(size, 120)
        self.each_damage(self.store / "MANIFEST", places, self.every, [b"MANIFEST", b"offset", b"PLEAT_ERR_CORRUPT"])

    def test_of_a_manifest_that_is_cut_or_gone(self):
        self.fold(b"put\tk\tv\ncommit\tx\n")
        whole = (self.store / "MANIFEST").read_bytes()
        for size in (0, 1, 55, 56, 60, 100):
            (self.store / "MANIFEST").write_bytes(whole[:size])
            self.check_damage(size, self.every, [b"MANIFEST", b"offset", b"PLEAT_ERR_CORRUPT"])
        (self.store / "MANIFEST").unlink()
        self.check_damage("gone", self.every, [b"MANIFEST", b"PLEAT_ERR_CORRUPT"])

    def test_of_a_table(self):
        self.fold(lines([("put", b"key%05d" % i, os.urandom(40)) for i in range(2000)] + [("commit", b"x")]))
        (table,) = self.store.glob("*.tbl")
        size = table.stat().st_size
        places = [0, 8, 30, size // 3, size // 2, size - 400, size - 152, size - 140, size - 100, size - 16, size - 1]
        self.each_damage(table, places, [["verify"]], [table.name.encode(), b"offset", b"PLEAT_ERR_CORRUPT"])
        self.each_damage_scan(table)

    def each_damage_scan(self, table):
        self.flip(table, 40)
        self.check_damage("block 0", [["scan"], ["get", "key00000"]], [table.name.encode(), b"offset"])
        self.assertEqual(len(self.run_tool("get", self.store, "key01999").stdout), 40)  # the rest is still readable
        done = self.run_tool("dump", self.store, table.name, status=3)
        self.assertIn(b"offset", done.stderr)

    def test_of_a_table_that_is_cut_foreign_or_gone(self):
        stream = lines([("put", b"key%05d" % i, os.urandom(40)) for i in range(200)] + [("commit", b"x")])
        self.fold(stream)
        (table,) = self.store.glob("*.tbl")
        whole = table.read_bytes()
        other = self.work / "other"
        self.fold(stream, store=other)
        (foreign,) = other.glob("*.tbl")
        said = [table.name.encode(), b"PLEAT_ERR_CORRUPT"]
        for name, data in (("empty", b""), ("cut", whole[:-1]), ("longer", whole + b"\0"),
                           ("half", whole[:len(whole) // 2]), ("of another store", foreign.read_bytes()),
                           ("zeros", bytes(len(whole)))):
            table.write_bytes(data)
            self.check_damage(name, [["verify"], ["scan"]], said + [b"offset"])
        table.unlink()
        self.check_damage("gone", self.every, said)

    def test_of_the_log_before_its_durable_end(self):
        self.killed_store([r for i in range(20) for r in (("put", b"k%d" % i, b"v" * 100), ("commit", b"%d" % i))])
        segment = max(self.store.glob("*.wal"))
        places = [0, 20, 40, 70, 124, 160, 168, 182, 192, 202, 232, 1000, 2000]
        self.each_damage(segment, places, self.every, [segment.name.encode(), b"offset", b"PLEAT_ERR_CORRUPT"])
        before = segment.read_bytes()
        segment.write_bytes(before[:100] + bytes(len(before) - 100))
        self.run_tool("dump", self.store, segment.name, status=3)

    def test_a_newer_format_of_each_kind_is_refused_by_name(self):
        xxh3 = ctypes.CDLL("libxxhash.so.0").XXH3_64bits_withSeed
        xxh3.restype = ctypes.c_uint64
        xxh3.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
        self.killed_store([("put", b"k", b"v"), ("commit", b"x")])
        for path, checked in ((self.store / "MANIFEST", 48), (max(self.store.glob("*.wal")), 120)):
            sound = path.read_bytes()
            head = sound[:8] + struct.pack("<I", 2) + sound[12:checked]
            path.write_bytes(head + struct.pack("<Q", xxh3(head, checked, 0)) + sound[checked + 8:])
            self.check_damage(path.name, self.every, [path.name.encode(), b"PLEAT_ERR_NEWER"])
            path.write_bytes(sound)
        self.assertEqual(self.scan(), [(b"k", b"v")])


class Surroundings(ToolTest):
    """What the process finds open, and stores that were made with other limits."""

    @staticmethod
    def close_standard():
        for number in (0, 1, 2):
            os.close(number)

    def test_messages_to_a_closed_standard_error_reach_no_file_of_the_store(self):
        self.fold(lines([("put", b"k", b"v"), ("commit", b"x")]))
        before = picture(self.store)
        for command in (["scan", self.store, "--space", "nope"], ["get", self.store, "absent"], ["fold", self.store]):
            done = subprocess.run([tool.PLEAT] + command, preexec_fn=self.close_standard, timeout=60)
            self.assertNotEqual(done.returncode, 0, command)
        self.assertEqual(before.keys(), picture(self.store).keys())
        self.run_tool("verify", self.store)
        self.assertEqual(self.scan(), [(b"k", b"v")])

    def test_a_log_longer_than_the_largest_memtable_is_read(self):
        self.killed_store([("put", b"k", b"v"), ("commit", b"x")])
        log = max(self.store.glob("*.wal"))
        with open(self.store / ("%06d.wal" % (int(log.stem) + 1)), "wb") as file:  # never begun, and hardly there
            file.truncate(8 << 30)
        self.assertEqual(self.scan(), [(b"k", b"v")])
        self.run_tool("fold", self.store, "--memtable", "7169", status=2)

    def test_verify_says_how_many_tables_were_sound(self):
        for i in range(3):
            self.fold(lines([("put", b"%d" % i, b"v" * 100), ("commit", b"%d" % i)]))
        tables = sorted(self.store.glob("*.tbl"))
        self.assertEqual(len(tables), 3)
        sound = tables[-1].read_bytes()
        tables[-1].write_bytes(sound[:20] + bytes([sound[20] ^ 1]) + sound[21:])
        done = self.run_tool("verify", self.store, status=3)
        self.assertIn(b"2 tables were sound", done.stderr)


if __name__ == "__main__":
    tool.main()
