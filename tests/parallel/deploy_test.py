#!/usr/bin/env python3
"""The examples in deploy/ with stand-ins for what this machine lacks: Slurm's srun, a pod's ssh.

    deploy_test.py BUILD/apps/minimo      Standard library only; exits 77 where mpirun is missing.
"""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import serve_ranks_test as ranks  # noqa: E402

DEPLOY = ranks.REPO / "deploy"

# As Slurm's: starts the tasks, tells each its place, hands signals on, ends with the tasks' code.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do echo "$1" >> "$FAKE/options"; shift; done
mpirun --oversubscribe --allow-run-as-root -n "$SLURM_NTASKS" "$@" &
trap 'kill -USR1 $!' USR1
until wait $!; code=$?; ! kill -0 $! 2> /dev/null; do :; done
exit $code
"""


def write(path, text):
    path.write_text(text)
    path.chmod(0o755)


class Deploy(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.fake = pathlib.Path(self.folder.name)
        self.environment = {**os.environ, "PATH": f"{self.fake}:{os.environ['PATH']}", "FAKE": str(self.fake)}

    @contextlib.contextmanager
    def group(self, script, *arguments, **environment):
        """A script of deploy/ that serves, ready; PORT in its arguments is the port's number."""
        (self.fake / "minimo").symlink_to(ranks.MINIMO)
        group = ranks.Group.__new__(ranks.Group)
        group.port, group.log = ranks.free_port(), open(self.fake / "log", "a+")
        self.addCleanup(group.log.close)
        arguments = [str(group.port) if a == "PORT" else str(a) for a in arguments]
        group.process = subprocess.Popen(["bash", str(DEPLOY / script), *arguments], stdout=group.log, stderr=group.log,
                                         env={**self.environment, "PORT": str(group.port), **environment})
        try:
            group.wait_ready()
            yield group
        finally:
            for pid, _ in ranks.processes_of(group.port):
                os.kill(pid, signal.SIGKILL)
            group.process.kill()

    def test_the_slurm_job_serves_and_drains(self):
        write(self.fake / "srun", SRUN)
        with self.group("slurm/minimo.sbatch", MODEL=str(ranks.MODEL), SLURM_NTASKS="2", SLURM_CPUS_PER_TASK="1",
                        SLURM_NTASKS_PER_NODE="2", SLURM_JOB_ID="7") as group:
            self.assertEqual(len(ranks.processes_of(group.port)), 2)
            self.assertEqual(group.complete("The capital of France is")[0], 200)
            self.assertIn("--mpi=pmix", (self.fake / "options").read_text().split())
            load = ranks.Load(group, clients=2, tokens=600)
            load.wait_for(2)
            time.sleep(0.1)
            begin = time.monotonic()
            group.process.send_signal(signal.SIGTERM)  # a minute before the time limit, or scancel --batch
            self.assertEqual(group.process.wait(30), 0, group.text())
            load.join()
            taken = [status for asked, status in load.ends if asked < begin - 0.05]
            self.assertEqual(taken, [200] * len(taken), load.ends)  # what ran was finished
            self.assertGreaterEqual(len(taken), 2)
            self.assertEqual(ranks.processes_of(group.port), [])

    def test_the_leader_pod_lists_its_group_and_launches_on_it(self):
        text = (DEPLOY / "kubernetes" / "leaderworkerset.yaml").read_text()
        block = re.search(r"args:\n +- \|\n((?: {16}.*\n)+)", text).group(1)
        for name, body in {"hostname": "echo 10.0.0.1", "ssh": 'echo "$@" >> "$FAKE/ssh-calls"',
                           "minimo": 'echo "$@" > "$FAKE/launched"'}.items():
            write(self.fake / name, f"#!/bin/sh\n{body}\n")
        script = textwrap.dedent(block).replace("/tmp/hostfile", str(self.fake / "hostfile"))
        subprocess.run(["bash", "-ec", script], check=True, timeout=20, env={
            **self.environment, "LWS_GROUP_SIZE": "3", "LWS_LEADER_ADDRESS": "minimo-0.minimo.default"})
        self.assertEqual((self.fake / "hostfile").read_text().split("\n")[:3],
                         ["10.0.0.1 slots=2", "minimo-0-1.minimo.default slots=2", "minimo-0-2.minimo.default slots=2"])
        self.assertEqual(len((self.fake / "ssh-calls").read_text().splitlines()), 2)
        launched = (self.fake / "launched").read_text().split()
        self.assertEqual(launched[:6], ["launch", "-n", "6", "--hostfile", str(self.fake / "hostfile"), "--"])
        # What is launched are flags that minimo knows.
        ended = subprocess.run([ranks.MINIMO, *launched[6:], "--help"], capture_output=True, text=True, timeout=20)
        self.assertEqual(ended.returncode, 0, ended.stderr)

    def test_the_hostfile_run_serves_and_drains(self):
        hosts = self.fake / "hosts"
        hosts.write_text("# one host\nlocalhost max_slots=9 slots=2\n")
        with self.group("mpi/run.sh", hosts, ranks.MODEL, "--port", "PORT", "--threads", "1") as group:
            self.assertEqual(len(ranks.processes_of(group.port)), 2)
            self.assertEqual(group.complete("The capital of France is")[0], 200)
            group.process.send_signal(signal.SIGTERM)
            self.assertEqual(group.process.wait(30), 0, group.text())
            self.assertEqual(ranks.processes_of(group.port), [])

    def test_the_ranks_of_a_hostfile_are_counted(self):
        write(self.fake / "minimo", '#!/bin/sh\necho "$@"\n')
        run = ["bash", str(DEPLOY / "mpi" / "run.sh")]
        example = DEPLOY / "mpi" / "hostfile.example"
        done = subprocess.run([*run, str(example), "model", "--port", "1"], capture_output=True, text=True,
                              env=self.environment)
        self.assertEqual(done.stdout, f"launch -n 4 --hostfile {example} --restart -- serve --model model "
                                      "--host 0.0.0.0 --port 1\n")
        (self.fake / "hosts").write_text("node1\n# node2 slots=3\n")
        done = subprocess.run([*run, str(self.fake / "hosts"), "model"], capture_output=True, text=True,
                              env=self.environment)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no line says how many ranks", done.stderr)

    def test_the_slurm_script_is_bash(self):
        subprocess.run(["bash", "-n", str(DEPLOY / "slurm" / "minimo.sbatch")], check=True)


if __name__ == "__main__":
    if shutil.which("mpirun") is None:
        print("mpirun is not installed")
        sys.exit(77)
    ranks.MINIMO = os.path.abspath(sys.argv.pop(1))
    unittest.main(verbosity=2)
