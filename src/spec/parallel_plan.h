// How ranks share a model: pure functions of the model's shapes and the number of ranks. Attention is cut by heads,
// experts by rows (tensor parallelism), by expert (expert parallelism) or both, the vocabulary by rows. Nothing has to
// divide: the first ranks get the larger shares, and ranks beyond what there is to share hold nothing and add zeros.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo {

struct Range {
  int64_t begin = 0;
  int64_t count = 0;
  int64_t end() const { return begin + count; }
  bool operator==(const Range&) const = default;
};

// The part-th of `parts` ranges that cover [0, count) in order, cut at multiples of `grain`, the first ones longer.
Range ShareOf(int64_t count, int parts, int part, int64_t grain = 1);

// The coarsest power of two up to 128 at which the longest share is at most a tenth over the even one: 64 for 1536
// rows on 8 ranks (192 each), 8 on 64 ranks (24 each). `least`: what the weights' format asks for.
int64_t ShareGrain(int64_t count, int parts, int64_t least = 1);

// One rank's heads. Every rank's query heads share its KV heads evenly (heads.count / kv_heads.count to one):
//   ranks <= kv_heads: whole KV heads with all their query heads
//     8 KV heads, 3 ranks:   |0 1 2|3 4 5|6 7|
//   ranks >  kv_heads: one KV head, held by several neighbouring ranks that part its query heads
//     2 KV heads of 4 query heads, 5 ranks:   kv 0: q 0 1 | q 2 | q 3    kv 1: q 4 5 | q 6 7
struct HeadShare {
  Range heads;
  Range kv_heads;
  bool counts_kv = false;  // this rank counts its KV heads in sums over all of them; each is counted by one rank
};
HeadShare ShareHeads(int heads, int kv_heads, int ranks, int rank);  // `ranks` and `rank` within a replica

// Experts over tensor x expert ranks: rank r holds row share r % tensor of expert share r / tensor.
struct MoeLayout {
  int tensor = 1;
  int expert = 1;
  int ranks() const { return tensor * expert; }
  bool operator==(const MoeLayout&) const = default;
};
std::string ToString(const MoeLayout& layout);  // "tp", "ep" or "4x2"

struct MoeShare {
  Range experts;
  Range rows;  // of each expert's intermediate
};
MoeShare ShareExperts(const MoeSpec& moe, const MoeLayout& layout, int rank, int64_t row_grain = 1);

struct ParallelFlags {
  int tensor_parallel_size = 1;  // ranks that share the model, or of several replicas each one's attention
  bool enable_expert_parallel = false;
  std::string moe_prefill;  // "tp", "ep" or "TxE"; "": chosen
  std::string moe_decode;   // likewise
  int data_parallel_size = 1;  // replicas of attention, each with its own sequences; all ranks share the experts
};

struct ParallelPlan {
  int ranks = 1;
  MoeLayout prefill;  // steps with prompt chunks
  MoeLayout decode;   // steps whose new tokens all give logits
  int replicas = 1;   // of attention: rank r is one of the attention_ranks() of replica r / attention_ranks()
  int attention_ranks() const { return ranks / replicas; }
  int replica_of(int rank) const { return rank / attention_ranks(); }
  bool hybrid() const { return !(prefill == decode); }
};

HeadShare HeadsOf(const AttentionSpec& attention, const ParallelPlan& plan, int rank);

// Refuses in words what cannot work.
Result<ParallelPlan> PlanRanks(const ModelSpec& spec, const ParallelFlags& flags, int max_num_seqs);

// What the plan asks of one rank, in bytes, for weights of the given widths.
struct WeightBits {
  double attention = 8;  // M2; MiMo's o_proj is bf16, counted apart
  double experts = 8;    // 8: FP8; 4.25: 4-bit groups of 64
  double ends = 16;      // embedding and head
};
struct RankMemory {
  int64_t attention = 0;
  int64_t dense = 0;
  int64_t experts = 0;          // of both phases' layouts together
  int64_t experts_hybrid = 0;   // of these, because the phases' layouts differ
  int64_t ends = 0;
  int64_t kv_per_token = 0;     // bf16, full-attention layers
  int64_t kv_per_sequence = 0;  // bf16, the windows of the sliding layers
  int64_t weights() const { return attention + dense + experts + ends; }
};
RankMemory MemoryOf(const ModelSpec& spec, const ParallelPlan& plan, int rank, const WeightBits& bits);

// Lines for the log at start: who holds what, and what the layout costs in memory.
std::vector<std::string> Describe(const ModelSpec& spec, const ParallelPlan& plan, const WeightBits& bits);

}  // namespace minimo
