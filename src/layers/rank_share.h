// One rank's share of a model, as the layers need it: which part it holds and how to add up what the ranks computed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "spec/parallel_plan.h"

namespace minimo {

struct RankShare {
  Communicator* comm = nullptr;  // null: one rank holds everything
  Range vocab;                   // its rows of the embedding and of the head
  std::vector<HeadShare> heads;  // [layers]
  MoeShare experts;              // of every MoE layer, in prefill
  // Sizes of the whole flat query and key, per layer, for norms over them.
  struct WholeSizes {
    int64_t q = 0;
    int64_t k = 0;
  };
  std::vector<WholeSizes> whole;  // [layers]
  int replicas = 1;  // of attention, each of neighbouring ranks; its own sequences' rows alone are a rank's

  int attention_ranks() const { return alone() ? 1 : comm->size() / replicas; }
  int replica() const { return alone() ? 0 : comm->rank() / attention_ranks(); }
  bool alone() const { return comm == nullptr || comm->size() == 1; }
  // values += those of the other ranks; nothing for one rank alone.
  Status Sum(std::span<float> values) const { return alone() ? Status() : comm->AllReduceSum(values); }
};

}  // namespace minimo
