// The commands below `minimo bench`, one file each.
#pragma once

#include "apps/commands.h"

namespace minimo {

void AddBenchReport(CLI::App& bench, Commands& commands);
void AddBenchServe(CLI::App& bench, Commands& commands);

}  // namespace minimo
