// `minimo bench load`: start-up by phase.
#pragma once

#include <string>

#include "minimo/engine.h"
#include "minimo/result.h"

namespace minimo::bench {

struct LoadBenchOptions {
  EngineOptions engine;
  int input_len = 16;    // of the prompt whose first token ends the start-up
  int iterations = 3;
  bool cold = false;     // ask the kernel to drop the files from its cache before each iteration
  std::string json_file;
};

// Phases, each on its own: files (open, map, check), weights (read every byte), tokenizer; then the engine from nothing
// to its first token, twice timed: until it is ready, and from there to the token.
Result<bool> RunLoadBench(const LoadBenchOptions& options);

}  // namespace minimo::bench
