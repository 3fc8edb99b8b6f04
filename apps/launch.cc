// minimo launch -n N [--restart] -- serve ...: the ranks of one host (or of a hostfile's) under mpirun, watched.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>

#include "apps/commands.h"
#include "apps/rank_processes.h"
#include "base/error.h"

namespace minimo {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

struct Flags {
  int ranks = 0;
  std::string hostfile;
  std::string mpirun = "mpirun";
  bool restart = false;
  std::vector<std::string> command;
};

// After one rank has died mpirun waits this long before it ends the others: longer than a leader takes to notice (8 s)
// and to answer its clients.
constexpr char kEndAfterSeconds[] = "12";
// Restarts wait longer each time, unless the last run lived this long.
constexpr auto kGoodRun = seconds(60);
constexpr auto kLongestPause = seconds(30);
// Once a rank has failed mpirun sleeps for twice kEndAfterSeconds, also when no rank is left, twice that if it was
// another host's, and for ever if that host cannot be reached. It is not asked to end: Open MPI 4.1 answers SIGTERM
// then with a segmentation fault and its trace. Ranks of other hosts notice within a few seconds of those here.
constexpr auto kLookEvery = seconds(1);
constexpr auto kMpirunLate = seconds(5), kMpirunOfHostsLate = seconds(10);
// Ranks that were never seen have failed at once, or mpirun is slow to start them.
constexpr auto kMpirunStarts = seconds(15);

volatile std::sig_atomic_t g_stop = 0;
void OnStop(int) { g_stop = g_stop + 1; }

std::vector<std::string> Arguments(const Flags& flags) {
  std::error_code error;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe", error).string();
  std::vector<std::string> args = {flags.mpirun, "-n", std::to_string(flags.ranks), "--bind-to", "none", "--mca",
                                   "odls_base_sigkill_timeout", kEndAfterSeconds};
  if (flags.hostfile.empty()) {
    args.push_back("--oversubscribe");
    // Copies between processes by process_vm_readv need a right that containers often lack.
    args.insert(args.end(), {"--mca", "btl_vader_single_copy_mechanism", "none"});
  } else {
    args.insert(args.end(), {"--hostfile", flags.hostfile});
  }
  if (geteuid() == 0) args.push_back("--allow-run-as-root");
  args.push_back(self);
  args.insert(args.end(), flags.command.begin(), flags.command.end());
  return args;
}

Result<pid_t> Start(const std::vector<std::string>& args) {
  std::vector<char*> argv;
  for (const std::string& arg : args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  int fault[2];  // closed by a successful exec
  if (pipe2(fault, O_CLOEXEC) != 0) return Errorf("a pipe cannot be made: {}", std::strerror(errno));
  const pid_t child = fork();
  if (child < 0) return Errorf("a process cannot be started: {}", std::strerror(errno));
  if (child == 0) {
    setpgid(0, 0);  // a Ctrl-C is ours to pass on
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execvp(argv[0], argv.data());
    const int why = errno;
    (void)!write(fault[1], &why, sizeof why);
    _exit(127);
  }
  close(fault[1]);
  int why = 0;
  const bool failed = read(fault[0], &why, sizeof why) == sizeof why;
  close(fault[0]);
  if (!failed) return child;
  waitpid(child, nullptr, 0);
  return Errorf("{} cannot be run: {} (minimo launch needs Open MPI: apt-get install openmpi-bin)", args[0],
                std::strerror(why));
}

// A stop asked of us, passed on as SIGUSR1, at which a server's leader drains and sends the others home. Not every
// mpirun forwards it, so ranks of this host hear it from here. False: there is none yet.
bool TellRanks(pid_t job, bool other_hosts) {
  const std::vector<pid_t> ranks = RanksBelow(job);
  for (const pid_t rank : ranks) kill(rank, SIGUSR1);
  if (other_hosts) kill(job, SIGUSR1);
  return other_hosts || !ranks.empty();
}

// Waits for the job; a stop asked of us is passed on; asked again, it does not wait. "", or what says how it ended.
std::string Watch(pid_t job, bool other_hosts) {
  bool told = false, insisted = false, started = false;
  auto last_seen = steady_clock::now(), looked = last_seen;
  while (true) {
    if (g_stop && !told) told = TellRanks(job, other_hosts);
    if (g_stop > 1 && !insisted) {
      kill(job, SIGTERM);  // mpirun ends the ranks, at the latest by SIGKILL
      insisted = true;
    }
    int status = 0;
    const pid_t ended = waitpid(job, &status, WNOHANG);
    if (ended == job) {
      if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
      if (WIFEXITED(status)) return fmt::format("the ranks ended with exit code {}", WEXITSTATUS(status));
      return fmt::format("the ranks ended by signal {}", WTERMSIG(status));
    }
    const auto now = steady_clock::now();
    if (!started || now - looked > kLookEvery) {
      looked = now;
      if (!RanksBelow(job).empty()) started = true, last_seen = now;
      const auto most = started ? (other_hosts ? kMpirunOfHostsLate : kMpirunLate) : kMpirunStarts;
      if (now - last_seen > most && (started || !other_hosts)) {  // here may be none of a hostfile's
        kill(job, SIGKILL);
        waitpid(job, nullptr, 0);
        return "the ranks have ended, one of them not as it should";
      }
    }
    usleep(50'000);
  }
}

Status Body(const Flags& flags) {
  if (flags.command.empty()) return Errorf("nothing to launch: expected minimo launch -n N -- serve ...");
  MINIMO_TRY(CheckArguments(flags.command));  // else every rank would say it, and mpirun wait
  std::signal(SIGINT, OnStop);
  std::signal(SIGTERM, OnStop);
  const std::vector<std::string> args = Arguments(flags);
  auto pause = seconds(1);
  while (true) {
    const auto begin = steady_clock::now();
    MINIMO_ASSIGN(const pid_t job, Start(args));
    const std::string end = Watch(job, !flags.hostfile.empty());
    if (end.empty()) return {};
    if (!flags.restart || g_stop) return Error{end};
    if (steady_clock::now() - begin > kGoodRun) pause = seconds(1);
    fmt::print(stderr, "minimo: {}; starting again in {} s\n", end, pause.count());
    for (auto waited = seconds(0); waited < pause && !g_stop; waited += seconds(1)) sleep(1);
    if (g_stop) return Error{end};
    pause = std::min(pause * 2, kLongestPause);
  }
}

}  // namespace

void AddLaunch(Commands& commands) {
  auto flags = std::make_shared<Flags>();
  CLI::App& command = commands.Add("launch", "Run a command on several ranks of this host: launch -n N -- serve ...");
  command.fallthrough(false);
  command.add_option("-n,--ranks", flags->ranks, "Processes to start")->check(CLI::Range(1, 1024))->required();
  command.add_option("--hostfile", flags->hostfile, "Spread over the hosts of this file, as mpirun reads it")
      ->check(CLI::ExistingFile);
  command.add_option("--mpirun", flags->mpirun, "The mpirun to use")->capture_default_str();
  command.add_flag("--restart", flags->restart, "Start all ranks again whenever one is lost");
  command.add_option("COMMAND", flags->command, "After --: the command of every rank");
  commands.Body(command, [flags] { return Body(*flags); });
}

}  // namespace minimo
