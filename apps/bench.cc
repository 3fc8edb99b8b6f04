// minimo bench: measurements and their report.
#include "apps/bench.h"

namespace minimo {

void AddBench(Commands& commands) {
  CLI::App& bench = commands.Add("bench", "Measure: a server, the engine, the kernels, the start-up; and report");
  bench.require_subcommand(1);
  AddBenchReport(bench, commands);
  AddBenchServe(bench, commands);
}

}  // namespace minimo
