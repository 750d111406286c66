"""tool.py - what the tests of the `pleat` command share: running it, streams, the escapes, pictures of a directory."""
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

PLEAT = ""  # set by main()
ESCAPES = {b"\t": b"\\t", b"\n": b"\\n", b"\\": b"\\\\", b"\0": b"\\0"}


def escape(data):
    return b"".join(ESCAPES.get(bytes([byte]), bytes([byte])) for byte in data)


def unescape(text):
    return re.sub(rb"\\(.)", lambda m: {b"t": b"\t", b"n": b"\n", b"\\": b"\\", b"0": b"\0"}[m.group(1)], text,
                  flags=re.DOTALL)


def lines(records):
    """The line format of ("put", key, value), ("del", key), ("commit", cursor)."""
    return b"".join(b"\t".join([r[0].encode()] + [escape(field) for field in r[1:]]) + b"\n" for r in records)


def framed(records):
    out = []
    for r in records:
        if r[0] == "put":
            out.append(b"+%d,%d:%s->%s\n" % (len(r[1]), len(r[2]), r[1], r[2]))
        else:
            out.append(b"%s%d:%s\n" % (b"-" if r[0] == "del" else b"=", len(r[1]), r[1]))
    return b"".join(out)


def apply(model, records):
    for r in records:
        if r[0] == "put":
            model[r[1]] = r[2]
        elif r[0] == "del":
            model.pop(r[1], None)
    return model


def rows(text):
    """What a scan printed, as (key, value) in its order."""
    return [tuple(unescape(field) for field in line.split(b"\t")) for line in text.split(b"\n")[:-1]]


def picture(path, contents=True):
    """Names, sizes, times and bytes of all that a directory holds, LOCK's contents apart."""
    found = {}
    for entry in sorted(pathlib.Path(path).iterdir()):
        info = entry.stat()
        if entry.name == "LOCK":
            found[entry.name] = None
        else:
            found[entry.name] = (info.st_size, info.st_mtime_ns, entry.read_bytes() if contents else None)
    return found


class ToolTest(unittest.TestCase):
    def setUp(self):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="pleat-test-"))
        self.store = self.work / "store"
        self.started = []

    def tearDown(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for directory, names, _ in os.walk(self.work):
            for name in names:
                os.chmod(os.path.join(directory, name), 0o700)
        shutil.rmtree(self.work)

    def run_tool(self, *arguments, stdin=b"", status=0, **more):
        """Runs the command; checks its exit status; returns the finished process (bytes)."""
        done = subprocess.run([PLEAT, *map(os.fspath, arguments)], input=stdin, capture_output=True, timeout=120,
                              **more)
        self.assertEqual(done.returncode, status, (arguments, done.stderr[-2000:]))
        return done

    def fold(self, stream, *arguments, status=0, store=None, **more):
        return self.run_tool("fold", store or self.store, "--quiet", *arguments, stdin=stream, status=status, **more)

    def scan(self, *arguments, store=None):
        return rows(self.run_tool("scan", store or self.store, *arguments).stdout)

    def cursor(self, *arguments, store=None):
        """The cursor, or None."""
        done = subprocess.run([PLEAT, "cursor", store or self.store, *arguments], capture_output=True, timeout=120)
        if done.returncode == 1:
            return None
        self.assertEqual(done.returncode, 0, done.stderr)
        return unescape(done.stdout[:-1])

    def start_fold(self, *arguments, **more):
        """A fold that reads from a pipe, which the caller feeds."""
        process = subprocess.Popen([PLEAT, "fold", os.fspath(self.store), *arguments], stdin=subprocess.PIPE,
                                   **{"stderr": subprocess.PIPE, **more})
        self.started.append(process)
        return process

    def wait_consumed(self, process):
        """Until the process has read all that is in its pipe, and then a moment for what it does with it."""
        import fcntl
        import termios
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            left = struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0\0\0\0"))[0]
            if left == 0 and (self.store / "LOCK").exists() and (self.store / "MANIFEST").exists():
                time.sleep(0.25)
                return
            time.sleep(0.005)
        self.fail("the fold does not read its input")

    def killed_store(self, records):
        """A store whose writer was killed behind these records: its log is not in tables, all of it is durable."""
        process = self.start_fold("--durability", "each", "--memtable", "1", "--quiet")
        process.stdin.write(lines(records))
        process.stdin.flush()
        self.wait_consumed(process)
        process.send_signal(signal.SIGKILL)
        process.wait()


def main():
    global PLEAT
    PLEAT = os.path.abspath(sys.argv[1])
    seed = int(os.environ.get("PLEAT_SEED", random.randrange(1 << 30)))
    random.seed(seed)
    print(f"replay with PLEAT_SEED={seed}", flush=True)
    unittest.main(module="__main__", argv=sys.argv[:1] + sys.argv[2:], verbosity=1)
