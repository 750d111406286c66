#!/usr/bin/env python3
"""disk_full.py DISK_FULL [--seconds N] [--rounds N] [--seed S] - runs disk_full on small real file systems.

They are mounted in a mount namespace of their own, so that nothing is left however this ends:

    tmpfs 12 MiB      logs are mapped; by-write once more
    ext4 image        reserves on a real allocator with a journal
    ext2 image        knows no reservation: logs are written, and run into the full disk themselves

What cannot be mounted here is said in one line; exit status 77 (skipped) when nothing can."""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

NAMESPACE = "PLEAT_DISK_FULL_NAMESPACE"


def run(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def enter_namespace():
    """Runs this again in a mount namespace; None when that is not allowed here."""
    for extra in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *extra, "--mount", "--propagation", "private"]
        if shutil.which("unshare") and run(*command, "true").returncode == 0:
            environment = dict(os.environ, **{NAMESPACE: "1"})
            return subprocess.run([*command, sys.executable, *sys.argv], env=environment).returncode
    return None


def mount_image(kind, mib, work, place):
    """Makes and mounts an image; returns what went wrong, or None."""
    maker = shutil.which("mkfs." + kind, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if maker is None:
        return f"no mkfs.{kind}"
    image = work / kind
    with open(image, "wb") as file:
        file.truncate(mib << 20)
    made = run(maker, "-q", "-m", "0", "-F", str(image))
    if made.returncode != 0:
        return made.stderr.strip()
    mounted = run("mount", "-o", "loop", "-t", kind, str(image), str(place))
    return None if mounted.returncode == 0 else mounted.stderr.strip()


def mount_tmpfs(mib, place):
    mounted = run("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place))
    return None if mounted.returncode == 0 else mounted.stderr.strip()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--seconds", type=int, default=8, help="for all of the file systems together")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed")
    parser.add_argument("--only", help="one of the names that are printed")
    options = parser.parse_args()
    if NAMESPACE not in os.environ:
        status = enter_namespace()
        if status is None:
            print("disk_full: skipped, no mount namespace can be made here")
            return 77
        return status
    kinds = {
        "tmpfs": (lambda work, place: mount_tmpfs(12, place), []),
        "tmpfs-by-write": (lambda work, place: mount_tmpfs(12, place), ["--by-write"]),
        "ext4": (lambda work, place: mount_image("ext4", 24, work, place), []),
        "ext2": (lambda work, place: mount_image("ext2", 12, work, place), []),
    }
    if options.only:
        kinds = {options.only: kinds[options.only]}
    limits = ["--rounds", str(options.rounds), "--seconds", "86400"] if options.rounds else \
        ["--seconds", str(max(1, options.seconds // len(kinds)))]
    limits += ["--seed", options.seed] if options.seed else []
    ran = failed = 0
    with tempfile.TemporaryDirectory(prefix="pleat-disk-full-") as name:
        for kind, (mount, extra) in kinds.items():
            work = pathlib.Path(name)
            place = work / ("on-" + kind)
            place.mkdir()
            problem = mount(work, place)
            if problem is not None:
                print(f"{kind}: not mounted: {problem}", flush=True)
                continue
            os.chmod(place, 0o700)
            print(f"{kind}:", flush=True)
            status = subprocess.run([options.program, str(place), *limits, *extra]).returncode
            ran += 1
            failed += status != 0
            if status != 0:
                print(f"FAILED: disk_full.py --only {kind}: exit status {status}", flush=True)
            run("umount", "-l", str(place))
    if ran == 0:
        print("disk_full: skipped, no small file system could be mounted here")
        return 77
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
