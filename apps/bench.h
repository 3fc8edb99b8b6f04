// The commands below `minimo bench`, one file each.
#pragma once

#include "apps/commands.h"

namespace minimo {

void AddBenchKernels(CLI::App& bench, Commands& commands);
void AddBenchLatency(CLI::App& bench, Commands& commands);
void AddBenchLoad(CLI::App& bench, Commands& commands);
void AddBenchReport(CLI::App& bench, Commands& commands);
void AddBenchServe(CLI::App& bench, Commands& commands);
void AddBenchThroughput(CLI::App& bench, Commands& commands);

}  // namespace minimo
