#!/usr/bin/env python3
"""cli_kill.py PLEAT [ROUNDS] - kills a real `pleat fold` with SIGKILL at random moments and resumes it, ROUNDS times.

After each kill the store must hold exactly the state behind the commit whose cursor it says, and no less than what it
said after the kill before. The expected states come from a dict to which the same stream is applied. Every life opens
the store with other options (durability, memtable, format), so that kills meet the log, flushes and compactions."""
import os
import random
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
    def life(self, streams, longest):
        """Folds on with random options and kills after a random while; returns the exit status."""
        name = random.choice(["lines", "framed"])
        arguments = ["--format", name, "--resume", "--quiet", "--memtable", str(random.choice([1, 2, 64])),
                     "--durability", random.choice(["interval", "interval", "none", "each"])]
        with open(streams[name], "rb") as stream:
            process = subprocess.Popen([tool.PLEAT, "fold", self.store, *arguments], stdin=stream,
                                       stderr=subprocess.PIPE)
            self.started.append(process)
            time.sleep(random.uniform(0, longest))
            process.kill()
            said = process.stderr.read()
        self.assertIn(process.wait(), (0, -9), said)
        return process.returncode

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
        kills = between = fresh = 0
        at, model, longest = 0, {}, 0.1
        for round_number in range(ROUNDS):
            ended = self.life(streams, longest)
            kills += ended == -9
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
        print(f"{ROUNDS} lives, {kills} killed, {between} of them between the first and the last batch", flush=True)
        self.assertGreater(between, 0)


if __name__ == "__main__":
    tool.main()
