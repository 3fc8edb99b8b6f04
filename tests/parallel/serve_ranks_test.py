#!/usr/bin/env python3
"""`minimo launch -n N -- serve` from outside: answers, lost ranks, late ranks, mismatched checkpoints, restarts.

    serve_ranks_test.py BUILD/apps/minimo [CLASS[.TEST] ...]
    Standard library only; exits 77 where mpirun is missing.
    STOPS in the environment: how many stops under load, 3 else.
"""
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

REPO = pathlib.Path(__file__).resolve().parents[2]
MODEL = REPO / "models" / "nano-minimax-m2"
MINIMO = ""
STOPS = int(os.environ.get("STOPS", 3))


def free_port():
    """Below those that Linux gives to who asks for any: mpirun, which starts later, would be given it."""
    while True:
        port = random.randrange(12000, 32768)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def processes_of(port):
    """(pid, rank) of the server's processes, which all carry its port on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" not in command or str(port).encode() not in command or b"launch" in command:
            continue
        for variable in environment:
            if variable.startswith(b"OMPI_COMM_WORLD_RANK="):
                found.append((int(entry.name), int(variable.split(b"=")[1])))
    return found


class Group:
    """The ranks of one `minimo launch`."""

    def __init__(self, ranks, *flags, launch=(), model=MODEL, environment=None):
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile("r")
        command = [MINIMO, "launch", "-n", str(ranks), *launch, "--", "serve", "--model", str(model), "--port",
                   str(self.port), "--threads", "1", "--log-level", "info", *flags]
        environment = {**os.environ, **(environment or {})}
        with open(self.log.name, "ab") as log:  # appended to, wherever text() has come to
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def text(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def wait_ready(self, seconds=60):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.get("/health") == 200:
                    return self
            except OSError:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError("not ready:\n" + self.text())

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status

    def complete(self, prompt, tokens=16, timeout=60):
        """(HTTP status, text or error)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        body = {"model": MODEL.name, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        if response.status != 200:
            return response.status, json.dumps(answer)
        choice = answer["choices"][0]
        return (500 if choice["finish_reason"] == "error" else 200), choice["text"]

    def complete_at_once(self, prompts):
        """complete() of each prompt, all in flight together."""
        answers = [None] * len(prompts)

        def ask(i):
            answers[i] = self.complete(prompts[i])

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def rank(self, rank):
        pids = [pid for pid, r in processes_of(self.port) if r == rank]
        assert len(pids) == 1, (pids, self.text())
        return pids[0]

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for pid, _ in processes_of(self.port):
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
                self.process.wait()
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self.log.close()


def serve_with_mismatched_checkpoints(*flags):
    """What two ranks come to, one of which has other bytes in its files."""
    with tempfile.TemporaryDirectory() as folder:
        other = pathlib.Path(folder) / MODEL.name
        shutil.copytree(MODEL, other)
        shard = sorted(other.glob("*.safetensors"))[0]
        data = bytearray(shard.read_bytes())
        for at in range(len(data) // 2, len(data)):
            data[at] ^= 1
        shard.write_bytes(data)
        # Every rank reads what its own link points to.
        script = pathlib.Path(folder) / "minimo"
        script.write_text(f'#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = 1 ] && M={other} || M={MODEL}\n'
                          f'exec {MINIMO} serve --model $M --port {free_port()} --threads 1 {" ".join(flags)}\n')
        script.chmod(0o755)
        return subprocess.run(["mpirun", "-n", "2", "--oversubscribe", "--allow-run-as-root", str(script)],
                              capture_output=True, text=True, timeout=60)


class Load:
    """Clients that ask all the time; what each got, and when."""

    def __init__(self, group, clients=4, tokens=1500):
        self.answers = []
        self.ends = []  # of each request: when it was asked, and the HTTP status
        self.stop = False
        self.threads = [threading.Thread(target=self.ask, args=(group, i, tokens)) for i in range(clients)]
        for thread in self.threads:
            thread.start()

    def ask(self, group, i, tokens):
        while not self.stop:
            begin = time.monotonic()
            try:
                status, text = group.complete(f"Count: {i} and", tokens)
            except (OSError, http.client.HTTPException) as error:
                status, text = 0, str(error)
            self.answers.append((time.monotonic(), status, text))
            self.ends.append((begin, status))
            if status != 200:
                return

    def wait_for(self, answers, seconds=60):
        deadline = time.monotonic() + seconds
        while len(self.answers) < answers:
            assert time.monotonic() < deadline and any(t.is_alive() for t in self.threads), self.answers
            time.sleep(0.01)

    def join(self):
        self.stop = True
        for thread in self.threads:
            thread.join(60)
        return self.answers


def expect_errors(test, load, lose):
    """Calls `lose` under load: every request under way is answered with an error within 10 s. What the first is told,
    and when all had been answered."""
    begin = time.monotonic()
    lose()
    for thread in load.threads:
        thread.join(60)
    answers = [(at - begin, status, text) for at, status, text in load.join() if at >= begin]
    failed = [a for a in answers if a[1] != 200]
    test.assertEqual(len(failed), len(load.threads), answers)
    for seconds, status, text in failed:
        test.assertLess(seconds, 10)
        test.assertGreaterEqual(status, 500, text)
        test.assertIn("rank", text)
    return failed[0][2], max(seconds for seconds, _, _ in failed)


def expect_loss_answered(test, group, load, lose):
    """After `lose` every request under way is answered with an error within 10 s, and soon nothing is left of the
    group."""
    begin = time.monotonic()
    text, answered = expect_errors(test, load, lose)
    test.assertNotEqual(group.process.wait(40), 0)
    ended = time.monotonic() - begin
    test.assertEqual(processes_of(group.port), [])
    print(f"answered after {answered:.1f} s: {text}; ended after {ended:.1f} s", file=sys.stderr)


def lose_and_wait_until_back(group, lost):
    """Kills a rank of a group that is started again."""
    first = group.rank(lost)
    os.kill(first, signal.SIGKILL)
    begin = time.monotonic()
    while time.monotonic() < begin + 60:
        pids = [pid for pid, rank in processes_of(group.port) if rank == lost]
        if pids and pids != [first]:
            break
        time.sleep(0.2)
    group.wait_ready()
    print(f"rank {lost} lost: back after {time.monotonic() - begin:.1f} s", file=sys.stderr)


def stop_under_load(test, make_group, stops, tokens=100):
    """Stops a group while four clients ask without a pause, at another moment each time: what had been asked is
    answered in full, nothing after it, and no process is left. Seconds that each stop took."""
    took = []
    for i in range(stops):
        with make_group() as group:
            group.wait_ready()
            load = Load(group, tokens=tokens)
            load.wait_for(1)
            time.sleep(0.06 + i % 7 * 0.03)
            begin = time.monotonic()
            test.assertEqual(group.stop(), 0, group.text())
            took.append(time.monotonic() - begin)
            answers = load.join()
            taken = [status for asked, status in load.ends if asked < begin - 0.05]
            test.assertGreaterEqual(len(taken), 1, load.ends)
            test.assertEqual(set(taken), {200}, load.ends)
            whole = {text for _, status, text in answers if status == 200}
            test.assertLessEqual(len(whole), 4, whole)  # each client asks the same again: one cut off would be another
            test.assertEqual(processes_of(group.port), [])
    print(f"{stops} stops under load: {min(took):.2f} to {max(took):.2f} s", file=sys.stderr)
    return took


def be_late_under_load(test, group):
    """Rank 1 does nothing for 5 s while two clients ask without a pause: every answer is the one given before."""
    late = group.rank(1)
    load = Load(group, clients=2, tokens=100)
    load.wait_for(4)
    os.kill(late, signal.SIGSTOP)
    before = len(load.answers)
    time.sleep(5)
    during = len(load.answers) - before
    os.kill(late, signal.SIGCONT)
    load.wait_for(before + during + 4)
    answers = load.join()
    test.assertEqual({status for _, status, _ in answers}, {200}, answers)
    test.assertLessEqual(len({text for _, _, text in answers}), 2, answers)  # each client asks the same again
    test.assertLessEqual(during, 2)  # what was on its way


class Serve(unittest.TestCase):
    def test_answers_are_those_of_one_rank_and_a_stop_drains(self):
        prompts = ["The capital of France is", "What is 17 plus 25?", "Once upon a time"]
        with Group(1) as one:
            one.wait_ready()
            expected = [one.complete(p) for p in prompts]
        self.assertTrue(all(status == 200 for status, _ in expected))
        for flags in ([], ["--enable-expert-parallel"], ["--moe-prefill", "ep", "--moe-decode", "tp"],
                      ["--data-parallel-size", "3"]):
            with Group(3, *flags) as group:
                group.wait_ready()
                self.assertEqual(group.complete_at_once(prompts), expected)
                self.assertEqual(group.stop(), 0, group.text())

    def test_stops_under_load_each_end_soon(self):
        self.assertLess(max(stop_under_load(self, lambda: Group(2), STOPS)), 10)

    def test_mismatched_checkpoints_are_refused_in_words(self):
        ended = serve_with_mismatched_checkpoints()
        self.assertNotEqual(ended.returncode, 0)
        self.assertRegex(ended.stderr, "the checkpoint of rank 1 is not that of rank 0")

    def test_a_rank_count_that_cannot_work_is_refused_in_words(self):
        with Group(2, "--tensor-parallel-size", "3") as group:
            self.assertNotEqual(group.process.wait(15), 0)  # mpirun itself takes 24 s
            self.assertRegex(group.text(), "--tensor-parallel-size is 3, but 2 processes were started")

    def test_replicas_that_do_not_divide_the_ranks_are_refused_in_words(self):
        with Group(3, "--data-parallel-size", "2") as group:
            self.assertNotEqual(group.process.wait(30), 0)
            self.assertRegex(group.text(),
                             "--data-parallel-size is 2, but 3 processes were started: they do not divide")

    def test_a_stop_drains_under_an_mpirun_that_does_not_forward_signals(self):
        with tempfile.TemporaryDirectory() as folder:
            script = pathlib.Path(folder) / "mpirun"
            script.write_text('#!/bin/sh\ntrap "" USR1\nmpirun "$@" &\nwait $!\nexit $?\n')
            script.chmod(0o755)
            with Group(2, launch=["--mpirun", str(script)]) as group:
                group.wait_ready()
                begin = time.monotonic()
                self.assertEqual(group.stop(), 0, group.text())
                self.assertLess(time.monotonic() - begin, 10)

    def test_a_second_stop_does_not_wait_for_a_rank_that_hangs(self):
        with Group(2, "--rank-timeout", "60") as group:
            group.wait_ready()
            hung = group.rank(0)
            os.kill(hung, signal.SIGSTOP)
            group.process.terminate()
            time.sleep(1)
            self.assertIsNone(group.process.poll())
            group.process.terminate()
            self.assertNotEqual(group.process.wait(30), 0)
            self.assertEqual(processes_of(group.port), [])


class Lost(unittest.TestCase):
    def test_a_killed_rank_is_noticed_within_10_s_and_every_request_answered(self):
        with Group(3) as group:
            group.wait_ready()
            load = Load(group, tokens=300)
            load.wait_for(1)
            expect_loss_answered(self, group, load, lambda: os.kill(group.rank(1), signal.SIGKILL))

    def test_a_rank_that_hangs_is_noticed_within_10_s(self):
        with Group(2) as group:
            group.wait_ready()
            hung = group.rank(1)
            try:
                load = Load(group, tokens=300)
                load.wait_for(1)
                _, answered = expect_errors(self, load, lambda: os.kill(hung, signal.SIGSTOP))
            finally:
                os.kill(hung, signal.SIGKILL)
            self.assertNotEqual(group.process.wait(40), 0)
            print(f"hung: answered after {answered:.1f} s", file=sys.stderr)

    def test_an_idle_group_notices_too(self):
        with Group(2, "--rank-timeout", "4") as group:
            group.wait_ready()
            os.kill(group.rank(1), signal.SIGKILL)
            self.assertNotEqual(group.process.wait(30), 0)

    def test_a_rank_5_s_late_is_waited_for(self):
        with Group(2) as group:
            group.wait_ready()
            be_late_under_load(self, group)
            self.assertRegex(group.text(), r"rank 0 of 2 has waited")


class Restart(unittest.TestCase):
    def test_restart_brings_a_lost_group_back(self):
        with Group(2, "--rank-timeout", "4", launch=["--restart"]) as group:
            group.wait_ready()
            expected = group.complete("The capital of France is")
            for lost in (1, 0):  # the leader too
                lose_and_wait_until_back(group, lost)
                self.assertEqual(group.complete("The capital of France is"), expected)
            self.assertEqual(group.stop(), 0, group.text())


if __name__ == "__main__":
    if shutil.which("mpirun") is None:
        print("mpirun is not installed")
        sys.exit(77)
    MINIMO = os.path.abspath(sys.argv.pop(1))
    helps = subprocess.run([MINIMO, "serve", "--help"], capture_output=True, text=True).stdout
    if "--tensor-parallel-size" not in helps:
        print("this minimo serves on one rank only")
        sys.exit(77)
    unittest.main(verbosity=2)
