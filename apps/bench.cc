// minimo bench: measurements and their report.
#include "apps/bench.h"

namespace minimo {

void AddBench(Commands& commands) {
  CLI::App& bench = commands.Add("bench", "Measure: a server, the engine, the kernels, the start-up; and report");
  bench.require_subcommand(1);
  AddBenchServe(bench, commands);
  AddBenchLatency(bench, commands);
  AddBenchThroughput(bench, commands);
  AddBenchKernels(bench, commands);
  AddBenchLoad(bench, commands);
  AddBenchReport(bench, commands);
}

}  // namespace minimo
