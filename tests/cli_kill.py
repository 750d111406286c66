#!/usr/bin/env python3
"""cli_kill.py PLEAT [ROUNDS] - kills a real `pleat fold` with SIGKILL at random moments and resumes it, round by round.

After each kill the store must hold exactly the state behind the commit whose cursor it says, and no less than what it
said after the kill before. The expected states come from a dict to which the same stream is applied. Every life opens
the store with other options (durability, memtable, format), so that kills meet the log, flushes and compactions. In a
third of the rounds the next lives are killed shortly after their start, while they recover, before anyone looks. One
life is stopped instead while another wants its store."""
import os
import random
import signal
import subprocess
import sys
import time
import unittest
import pathlib

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "support"))
import tool  # noqa: E402
from tool import ToolTest, apply, framed, lines  # noqa: E402

ROUNDS = int(sys.argv.pop(2)) if len(sys.argv) > 2 and sys.argv[2].isdigit() else 20
BATCHES = 6000


def history():
    """Batches of a few updates over a few thousand keys, some of them large; cursors count up."""
    batches = []
    for i in range(BATCHES):
        batch = []
        for _ in range(random.randrange(30)):
            key = b"k\0%d\n" % int(random.paretovariate(0.3) % 4000)
            if random.random() < 0.25:
                batch.append(("del", key))
            else:
                batch.append(("put", key, b"%d:" % i + b"\\v\t" * random.randrange(40)))
        if i % 997 == 5:
            batch.append(("put", b"large", random.randbytes(700000)))
        batch.append(("commit", b"%d" % i))
        batches.append(batch)
    return batches


class Kill(ToolTest):
    def start(self, streams):
        """Folds on with random options."""
        name = random.choice(["lines", "framed"])
        arguments = ["--format", name, "--resume", "--quiet", "--memtable", str(random.choice([1, 2, 64])),
                     "--durability", random.choice(["interval", "interval", "none", "each"])]
        with open(streams[name], "rb") as stream:
            process = subprocess.Popen([tool.PLEAT, "fold", self.store, *arguments], stdin=stream,
                                       stderr=subprocess.PIPE)
        self.started.append(process)
        return process

    def life(self, streams, longest):
        """Folds on and is killed after a random while; returns the exit status."""
        process = self.start(streams)
        time.sleep(random.uniform(0, longest))
        process.kill()
        said = process.stderr.read()
        self.assertIn(process.wait(), (0, -9), said)
        process.stderr.close()
        self.started.remove(process)
        return process.returncode

    def test_a_stopped_fold_keeps_its_store(self):
        batches = history()
        stream = {name: self.work / name for name in ("lines", "framed")}
        stream["lines"].write_bytes(b"".join(lines(batch) for batch in batches))
        stream["framed"].write_bytes(b"".join(framed(batch) for batch in batches))
        process = self.start(stream)
        while not (self.store / "MANIFEST").exists():
            time.sleep(0.001)
        time.sleep(random.uniform(0.01, 0.05))
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        for command in (["fold", self.store], ["scan", self.store], ["verify", self.store]):
            refused = self.run_tool(*command, status=3)
            self.assertIn(b"process %d" % process.pid, refused.stderr)
            self.assertIn(b"PLEAT_ERR_BUSY", refused.stderr)
        process.send_signal(signal.SIGCONT)
        said = process.stderr.read()
        self.assertEqual(process.wait(120), 0, said)
        self.assertEqual(self.check(batches, 0, {}), BATCHES)

    def check(self, batches, at, model):
        """Brings the model from behind `at` batches to the stored cursor and compares; returns where that is."""
        if not (self.store / "MANIFEST").exists():
            self.assertEqual(at, 0)
            return 0
        cursor = self.cursor()
        reached = 0 if cursor is None else int(cursor) + 1
        self.assertGreaterEqual(reached, at, "commits that had been seen are gone")
        for batch in batches[at:reached]:
            apply(model, batch)
        self.assertEqual(self.scan(), sorted(model.items()), f"the state is not that behind batch {reached}")
        return reached

    def test_killed_folds_resume_to_the_same_state(self):
        batches = history()
        streams = {}
        for name, encode in (("lines", lines), ("framed", framed)):
            streams[name] = self.work / name
            streams[name].write_bytes(b"".join(encode(batch) for batch in batches))
        kills = again = between = fresh = 0
        at, model, longest = 0, {}, 0.1
        for round_number in range(ROUNDS):
            ended = self.life(streams, longest)
            kills += ended == -9
            while ended == -9 and random.random() < 0.33:
                ended = self.life(streams, 0.01)
                again += ended == -9
            reached = self.check(batches, at, model)
            between += ended == -9 and at < reached < BATCHES
            # So that most kills come in the middle on slow and on fast machines alike.
            longest = longest * 1.5 if reached == at else longest / 1.5 if reached - at > BATCHES / 3 else longest
            at = reached
            if round_number % 5 == 4 and (self.store / "MANIFEST").exists():
                self.run_tool("verify", self.store)
            if ended == 0:
                self.assertEqual(at, BATCHES)
                fresh += 1
                self.store = self.work / f"store{fresh}"
                at, model = 0, {}
        with open(streams["lines"], "rb") as stream:
            subprocess.run([tool.PLEAT, "fold", self.store, "--resume", "--quiet"], stdin=stream, check=True)
        self.assertEqual(self.check(batches, at, model), BATCHES)
        self.run_tool("verify", self.store)
        print(f"{ROUNDS} rounds, {kills} lives killed, {between} of them between the first and the last batch, and "
              f"{again} more shortly after their start", flush=True)
        self.assertGreater(between, 0)


if __name__ == "__main__":
    tool.main()
