// The tables of a report.
#pragma once

#include <string>
#include <vector>

#include "bench/report_data.h"

namespace minimo::bench {

// "AMD EPYC, 2 cores" or the GPUs, from a result's environment.
std::string Machine(const Json& result);

// Every measured load and every published figure of a family, by concurrency.
std::string SideBySideTable(const Family& family);

std::string ThroughputSection(const std::vector<Json>& results);
std::string KernelSection(const std::vector<Json>& results);
std::string LoadSection(const std::vector<Json>& results);
// Commit, command, hardware, model, number format, seed and spread of every result.
std::string ProvenanceSection(const std::vector<Source>& sources);

}  // namespace minimo::bench
