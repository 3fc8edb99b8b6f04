// `minimo bench kernels`: every operator of a decode step at a model's real shapes, on weights too large for caches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "minimo/result.h"

namespace minimo::bench {

struct KernelBenchOptions {
  std::string model = "minimax-m2";  // a folder with config.json, or minimax-m2 / mimo-v2-flash: the released shapes
  std::string quantization = "auto";  // of the weights: fp8, w4, bf16, f32; auto: as a folder's files, or fp8
  std::string activations = "exact"; // or int8
  std::vector<int> tokens = {1, 32};  // sequences in the step
  int context = 945;                 // tokens in the cache of each
  std::string kv_cache_dtype = "bf16";
  int threads = 0;
  double seconds = 0.3;              // least time spent on one line, reads beside it included
  std::string only;                  // operators whose name contains this
  uint64_t seed = 0;
  double memory_bandwidth_gbs = 0;    // behind the floor; 0: measured
  int64_t pool_bytes = int64_t{1} << 30;  // of weights that the operators walk through; far beyond any cache
  std::string json_file;
};

Result<bool> RunKernelBench(const KernelBenchOptions& options);

}  // namespace minimo::bench
