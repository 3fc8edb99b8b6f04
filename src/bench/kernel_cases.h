// The operators of one decode step as things that can be run and timed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_team.h"
#include "bench/floor.h"
#include "layers/huge_bytes.h"
#include "minimo/result.h"
#include "tensor/dtype.h"

namespace minimo::bench {

// Random bytes that are sane numbers in every format, handed out piece by piece and round again, so that each use reads
// memory that the caches have lost. In huge pages where there are any, as the engine's weights. Inputs and outputs lie
// outside.
class WeightPool {
 public:
  static Result<WeightPool> Make(int64_t bytes, uint64_t seed, ThreadTeam& team);
  // The next `bytes`, 64-byte aligned; bytes <= the pool's.
  const std::byte* Next(int64_t bytes);
  int64_t size() const { return size_; }

 private:
  WeightPool(std::shared_ptr<HugeBytes> data, int64_t size) : data_(std::move(data)), size_(size) {}
  std::shared_ptr<HugeBytes> data_;
  int64_t size_;
  int64_t at_ = 0;
};

struct KernelCase {
  std::string op;     // "linear q/k/v"
  std::string shape;  // "8192 x 3072 fp8"
  int tokens = 0;
  double bytes = 0;   // weights or cache read
  double flop = 0;
  bool float_products = false;  // all of flop are float32 products and sums
  std::function<void()> prepare;  // before each run, untimed: picks fresh memory; may be empty
  std::function<void()> run;
};

// `int8`: matrices as --activations int8 lays them out; else as --load-format resident does. The cases keep references
// to the pool and the team. Distinct layer kinds each once; expert choices are drawn afresh for every run, uniformly.
std::vector<KernelCase> MakeKernelCases(const ModelFacts& model, int tokens, int context, DType kv_dtype, bool int8,
                                        WeightPool& pool, ThreadTeam& team, uint64_t seed);

}  // namespace minimo::bench
