#!/usr/bin/env python3
"""`minimo launch --hostfile` serving over two hosts: answers, a drain, a rank or the cable lost, restarts.

    two_hosts.sh 2 --first serve_two_hosts_test.py BUILD/apps/minimo [TEST ...]      two ranks on each
"""
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import serve_ranks_test as ranks  # noqa: E402
from serve_ranks_test import Group, Load  # noqa: E402

PROMPTS = ["The capital of France is", "What is 17 plus 25?", "Once upon a time"]


def two_hosts(*flags, launch=()):
    return Group(4, *flags, launch=["--mpirun", os.environ["MPIRUN"], "--hostfile", os.environ["HOSTS"], *launch])


def cable(state):
    subprocess.run(["ip", "link", "set", os.environ["CABLE"], state], check=True)
    if state == "up":
        wait_for_other_host()


def wait_for_other_host(seconds=30):
    """Until it refuses a connection. Right after the cable is back hosts may still hold each other unreachable
    (EHOSTUNREACH of an address whose look-up failed), and mpirun's daemon does not try twice."""
    address = pathlib.Path(os.environ["HOSTS"]).read_text().split()[2]
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, 9), 1).close()
        except ConnectionRefusedError:
            return
        except OSError as error:
            assert time.monotonic() < deadline, f"{address}: {error}"
        time.sleep(0.05)


def parent(pid):
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


class ServeTwoHosts(unittest.TestCase):
    def test_answers_are_those_of_one_rank_and_a_stop_drains(self):
        with Group(1) as one:
            one.wait_ready()
            expected = [one.complete(p) for p in PROMPTS]
        with two_hosts() as group:
            group.wait_ready()
            self.assertEqual(group.complete_at_once(PROMPTS), expected)
            self.assertEqual(group.stop(), 0, group.text())
            self.assertEqual(ranks.processes_of(group.port), [])

    def lose(self, how):
        with two_hosts() as group:
            group.wait_ready()
            load = Load(group, tokens=200)
            load.wait_for(4)
            ranks.expect_loss_answered(self, group, load, lambda: how(group))

    def test_a_killed_rank_of_the_other_host_is_noticed_within_10_s_and_every_request_answered(self):
        self.lose(lambda group: os.kill(group.rank(3), signal.SIGKILL))

    def test_a_cut_cable_is_noticed_within_10_s_and_every_request_answered(self):
        self.addCleanup(cable, "up")
        self.lose(lambda group: cable("down"))

    def test_a_launcher_that_does_not_answer_keeps_no_request_waiting(self):
        """Open MPI tells mpirun of a connection that breaks, in whichever call, and waits for the receipt. On busy cores
        rank 0 may be past its own time limit first, which is an answer, too."""
        with two_hosts() as group:
            group.wait_ready()
            lost = group.rank(3)
            mpirun = parent(group.rank(0))
            load = Load(group, tokens=200)
            load.wait_for(4)

            def stop_and_lose():
                os.kill(mpirun, signal.SIGSTOP)
                os.kill(lost, signal.SIGKILL)

            try:
                text, answered = ranks.expect_errors(self, load, stop_and_lose)
            finally:
                os.kill(mpirun, signal.SIGKILL)
            self.assertRegex(text, "does not return|did not reach")
            print(f"answered after {answered:.1f} s: {text}", file=sys.stderr)
            self.assertNotEqual(group.process.wait(30), 0)

    def test_restart_brings_the_group_back(self):
        with two_hosts("--rank-timeout", "4", launch=["--restart"]) as group:
            group.wait_ready()
            expected = group.complete(PROMPTS[0])
            ranks.lose_and_wait_until_back(group, 3)
            self.assertEqual(group.complete(PROMPTS[0]), expected)
            self.assertEqual(group.stop(), 0, group.text())


if __name__ == "__main__":
    ranks.MINIMO = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
