#include "spec/parallel_plan.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"
#include "base/error.h"

namespace minimo {
namespace {

constexpr int kMaxRanks = 1024;
// Rows of an expert below which a rank's matrix products are too thin to be worth a share (PITFALLS A: 24 rows at 64
// ranks); the default layout then gives whole experts to groups of ranks.
constexpr int64_t kLeastRows = 64;
// From this many tokens a step expert parallelism is balanced within 10 % on 4 ranks (PERFORMANCE.md, uniform routing).
constexpr int kExpertParallelBatch = 32;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Overlap(const Range& a, const Range& b) {
  return std::max<int64_t>(0, std::min(a.end(), b.end()) - std::max(a.begin, b.begin));
}

// As many ranks a row share as leave kLeastRows each, the rest over experts.
MoeLayout WidestRows(const MoeSpec& moe, int ranks) {
  for (int tensor = ranks; tensor > 1; --tensor) {
    if (ranks % tensor == 0 && moe.intermediate / tensor >= kLeastRows) return {tensor, ranks / tensor};
  }
  return ranks <= moe.experts ? MoeLayout{1, ranks} : MoeLayout{ranks, 1};
}

bool ParseCount(std::string_view text, int* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size() && *value >= 1;
}

Result<MoeLayout> ParseLayout(const std::string& flag, const std::string& text, int ranks) {
  if (text == "tp") return MoeLayout{ranks, 1};
  if (text == "ep") return MoeLayout{1, ranks};
  MoeLayout layout;
  const size_t x = text.find('x');
  if (x == std::string::npos || !ParseCount(std::string_view(text).substr(0, x), &layout.tensor) ||
      !ParseCount(std::string_view(text).substr(x + 1), &layout.expert)) {
    return Errorf("{} is \"{}\", expected tp, ep or TxE such as {}x1", flag, text, ranks);
  }
  if (int64_t{layout.tensor} * layout.expert != ranks) {
    return Errorf("{} {} asks for {} x {} = {} ranks, there are {}", flag, text, layout.tensor, layout.expert,
                  int64_t{layout.tensor} * layout.expert, ranks);
  }
  return layout;
}

}  // namespace

Range ShareOf(int64_t count, int parts, int part, int64_t grain) {
  CHECK(count >= 0 && parts >= 1 && part >= 0 && part < parts && grain >= 1);
  const int64_t units = CeilDiv(count, grain);
  const int64_t each = units / parts, longer = units % parts;
  const int64_t begin = std::min(count, (part * each + std::min<int64_t>(part, longer)) * grain);
  const int64_t end = std::min(count, ((part + 1) * each + std::min<int64_t>(part + 1, longer)) * grain);
  return {begin, end - begin};
}

int64_t ShareGrain(int64_t count, int parts, int64_t least) {
  const int64_t even = CeilDiv(count, parts);
  for (int64_t grain = 128; grain > least; grain /= 2) {
    if (CeilDiv(CeilDiv(count, grain), parts) * grain * 10 <= even * 11) return grain;
  }
  return least;
}

HeadShare ShareHeads(int heads, int kv_heads, int ranks, int rank) {
  CHECK(kv_heads >= 1 && heads % kv_heads == 0);
  const int group = heads / kv_heads;
  if (ranks <= kv_heads) {
    const Range kv = ShareOf(kv_heads, ranks, rank);
    return {{kv.begin * group, kv.count * group}, kv, true};
  }
  // The rank's KV head: that of the ranks' own ranges [first, first + count) which holds it.
  for (int kv = 0; kv < kv_heads; ++kv) {
    const Range holders = ShareOf(ranks, kv_heads, kv);
    if (rank >= holders.end()) continue;
    const int place = static_cast<int>(rank - holders.begin);
    const Range part = ShareOf(group, static_cast<int>(holders.count), place);
    if (part.count == 0) return {};
    return {{int64_t{kv} * group + part.begin, part.count}, {kv, 1}, place == 0};
  }
  return {};
}

HeadShare HeadsOf(const AttentionSpec& attention, const ParallelPlan& plan, int rank) {
  return ShareHeads(attention.heads, attention.kv_heads, plan.attention_ranks(), rank % plan.attention_ranks());
}

std::string ToString(const MoeLayout& layout) {
  if (layout.expert == 1) return "tp";
  if (layout.tensor == 1) return "ep";
  return fmt::format("{}x{}", layout.tensor, layout.expert);
}

MoeShare ShareExperts(const MoeSpec& moe, const MoeLayout& layout, int rank, int64_t row_grain) {
  const int64_t grain = ShareGrain(moe.intermediate, layout.tensor, row_grain);
  return {ShareOf(moe.experts, layout.expert, rank / layout.tensor),
          ShareOf(moe.intermediate, layout.tensor, rank % layout.tensor, grain)};
}

Result<ParallelPlan> PlanRanks(const ModelSpec& spec, const ParallelFlags& flags, int max_num_seqs) {
  const int64_t all = int64_t{flags.tensor_parallel_size} * flags.data_parallel_size;
  if (flags.tensor_parallel_size < 1 || flags.tensor_parallel_size > kMaxRanks) {
    return Errorf("--tensor-parallel-size is {}, expected 1 to {}", flags.tensor_parallel_size, kMaxRanks);
  }
  if (flags.data_parallel_size < 1 || all > kMaxRanks) {
    return Errorf("--data-parallel-size is {}, with {} ranks each: expected at least 1 and at most {} ranks in all",
                  flags.data_parallel_size, flags.tensor_parallel_size, kMaxRanks);
  }
  const int ranks = static_cast<int>(all);
  if (ranks > spec.hidden || ranks > spec.vocab) {
    return Errorf("{} ranks cannot share a model of hidden size {} and {} tokens; use fewer", ranks, spec.hidden,
                  spec.vocab);
  }
  ParallelPlan plan;
  plan.ranks = ranks;
  plan.replicas = flags.data_parallel_size;
  plan.decode = flags.enable_expert_parallel ? MoeLayout{1, ranks} : WidestRows(spec.moe, ranks);
  // Prompts fill whole experts: with every batch large, share by expert; else as decode, which costs no more memory.
  const bool balanced = max_num_seqs >= kExpertParallelBatch * ranks && spec.moe.experts % ranks == 0;
  if (!flags.enable_expert_parallel && flags.moe_decode.empty() && balanced && plan.decode.expert > 1) {
    plan.decode = {1, ranks};
  }
  if (!flags.moe_decode.empty()) {
    MINIMO_ASSIGN(plan.decode, ParseLayout("--moe-decode", flags.moe_decode, ranks));
  }
  plan.prefill = plan.decode;
  if (!flags.moe_prefill.empty()) {
    MINIMO_ASSIGN(plan.prefill, ParseLayout("--moe-prefill", flags.moe_prefill, ranks));
  }
  return plan;
}

RankMemory MemoryOf(const ModelSpec& spec, const ParallelPlan& plan, int rank, const WeightBits& bits) {
  const auto bytes = [](double elements, double width) { return static_cast<int64_t>(elements * width / 8); };
  const double hidden = spec.hidden;
  RankMemory memory;
  const MoeShare prefill = ShareExperts(spec.moe, plan.prefill, rank);
  const MoeShare decode = ShareExperts(spec.moe, plan.decode, rank);
  const auto area = [](const MoeShare& s) { return double(s.experts.count) * double(s.rows.count); };
  const double shared = double(Overlap(prefill.experts, decode.experts)) * double(Overlap(prefill.rows, decode.rows));
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    const HeadShare share = HeadsOf(a, plan, rank);
    const double q_and_o = double(share.heads.count) * (a.head_dim + a.v_head_dim);
    const int64_t kv = share.kv_heads.count * (a.head_dim + a.v_head_dim);
    memory.attention += bytes((q_and_o + double(kv)) * hidden, bits.attention);
    if (a.window == 0) {
      memory.kv_per_token += 2 * kv;
    } else {
      memory.kv_per_sequence += 2 * kv * a.window;
    }
    if (layer.moe) {
      memory.experts += bytes(3 * hidden * (area(prefill) + area(decode) - shared), bits.experts);
      memory.experts_hybrid += bytes(3 * hidden * (area(prefill) - shared), bits.experts);
    } else {
      const int64_t grain = ShareGrain(layer.intermediate, plan.ranks);
      memory.dense += bytes(3 * hidden * double(ShareOf(layer.intermediate, plan.ranks, rank, grain).count),
                            bits.attention);
    }
  }
  const int64_t rows = ShareOf(spec.vocab, plan.ranks, rank).count * (spec.tied_embeddings ? 1 : 2);
  memory.ends = bytes(double(rows) * hidden, bits.ends);
  return memory;
}

std::vector<std::string> Describe(const ModelSpec& spec, const ParallelPlan& plan, const WeightBits& bits) {
  std::vector<std::string> lines;
  if (plan.ranks == 1) return lines;
  constexpr double kGb = 1e9;
  const RankMemory most = MemoryOf(spec, plan, 0, bits);
  std::string experts = fmt::format("experts {}", ToString(plan.decode));
  if (plan.hybrid()) {
    experts = fmt::format("experts {} in prefill, {} in decode", ToString(plan.prefill), ToString(plan.decode));
  }
  if (plan.replicas > 1) {
    experts = fmt::format("{} replicas of attention with {} each, {}", plan.replicas,
                          plan.attention_ranks() == 1 ? "one" : std::to_string(plan.attention_ranks()), experts);
  }
  lines.push_back(fmt::format("{} ranks, {}: {:.3f} GB of weights on the fullest rank", plan.ranks, experts,
                              most.weights() / kGb));
  if (plan.hybrid()) {
    lines.push_back(fmt::format("the two expert layouts differ: {:.3f} GB more on a rank than with one of them",
                                most.experts_hybrid / kGb));
  }
  int idle = 0, most_heads = 0;
  const AttentionSpec& a = spec.layers.front().attention;
  const int sharing = plan.attention_ranks();
  for (int rank = 0; rank < sharing; ++rank) {
    const HeadShare share = HeadsOf(a, plan, rank);
    idle += share.heads.count == 0;
    most_heads = std::max(most_heads, static_cast<int>(share.heads.count));
  }
  if (idle > 0) {
    lines.push_back(fmt::format("{} of {} ranks hold no attention heads: there are only {}", idle, sharing, a.heads));
  } else if (int64_t{most_heads} * sharing * 10 > int64_t{a.heads} * 11) {
    lines.push_back(fmt::format("{} heads over {} ranks are uneven: up to {} a rank, {:.1f} would be even", a.heads,
                                sharing, most_heads, double(a.heads) / sharing));
  }
  if (plan.prefill.expert > spec.moe.experts || plan.decode.expert > spec.moe.experts) {
    lines.push_back(fmt::format("more expert shares than the {} experts: some ranks hold none", spec.moe.experts));
  }
  return lines;
}

}  // namespace minimo
