// How many blocks and rings a KV cache gets out of a budget of bytes.
#pragma once

#include <cstdint>
#include <string>

#include "kv/kv_layout.h"
#include "minimo/result.h"

namespace minimo {

struct KvPlanOptions {
  int64_t budget_bytes = 0;
  int num_blocks = 0;  // > 0: this many blocks, whatever the budget
  int max_num_seqs = 0;
  int max_model_len = 0;
  bool prefix_caching = true;
};

struct KvPlan {
  KvLayout layout;       // with num_blocks and num_rings
  int max_num_seqs = 0;  // lowered where rings for all would leave too little for blocks
};

// `geometry` is everything but the counts. An error if the budget does not hold one sequence of one block.
Result<KvPlan> PlanKv(const KvLayout& geometry, const KvPlanOptions& options);

// "KV cache: 65536 tokens in 4096 blocks of 16 (512 bytes a token: ...) ..." for the log at start.
std::string Describe(const KvLayout& layout);

}  // namespace minimo
