// `minimo bench latency` and `minimo bench throughput`: the engine without a server.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/dataset.h"
#include "minimo/engine.h"
#include "minimo/result.h"

namespace minimo::bench {

struct LatencyOptions {
  EngineOptions engine;
  std::string quantization;          // the number format the engine runs, if not the checkpoint's; for the floor
  std::vector<int> batch_sizes = {1};
  int input_len = 900;
  int output_len = 90;
  int warmups = 1;
  int iterations = 5;
  uint64_t seed = 0;
  double memory_bandwidth_gbs = 0;   // 0: measured before and after; the better one counts
  bool each_iteration = false;       // a line for each, with the bandwidth measured right after it
  std::string json_file;
  bool show_progress = true;
};

// Every batch size in turn: all requests at once, `iterations` times. False if the user stopped it.
Result<bool> RunLatencyBench(const LatencyOptions& options);

struct ThroughputOptions {
  EngineOptions engine;
  std::string quantization;
  DatasetOptions dataset;
  int iterations = 1;  // of the whole; the median counts
  double memory_bandwidth_gbs = 0;
  std::string json_file;
  bool show_progress = true;
};

// All requests at once, to the end. False if the user stopped it or a request failed.
Result<bool> RunThroughputBench(const ThroughputOptions& options);

}  // namespace minimo::bench
