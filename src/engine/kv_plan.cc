#include "engine/kv_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace minimo {
namespace {

// "512 B", "23.0 KB", "25.6 MB": thousands, as the figures of the models are given.
std::string Bytes(int64_t bytes) {
  const double b = static_cast<double>(bytes);
  if (b < 1e3) return fmt::format("{} B", bytes);
  if (b < 1e6) return fmt::format("{:.1f} KB", b / 1e3);
  if (b < 1e9) return fmt::format("{:.1f} MB", b / 1e6);
  return fmt::format("{:.2f} GB", b / 1e9);
}

// "9 layers x 4 heads x (192 + 128) x 2 B", one term a group.
std::string Formula(const KvLayout& layout, bool sliding) {
  std::string text;
  for (const KvGroup& g : layout.groups) {
    if ((g.window > 0) != sliding) continue;
    text += fmt::format("{}{} layers x {} heads x ({} + {}) x {} B", text.empty() ? "" : " + ", g.layers, g.kv_heads,
                        g.head_dim, g.v_head_dim, layout.bytes_per_element);
  }
  return text;
}

}  // namespace

Result<KvPlan> PlanKv(const KvLayout& geometry, const KvPlanOptions& options) {
  KvPlan plan{geometry, options.max_num_seqs};
  KvLayout& layout = plan.layout;
  const int64_t ring_bytes = layout.BytesPerRing();
  if (layout.ring_tokens > 0) {
    // Half as many snapshots as sequences: a chat server finds about as many idle conversations as it runs.
    int snapshots = options.prefix_caching ? std::max(1, options.max_num_seqs / 2) : 0;
    if (options.num_blocks == 0) {
      const int64_t affordable = options.budget_bytes / 2 / std::max<int64_t>(ring_bytes, 1);
      if (affordable < 1) {
        return Errorf("the KV cache has {} and one ring of the sliding-window layers takes {}: give it at least twice "
                      "that", Bytes(options.budget_bytes), Bytes(ring_bytes));
      }
      snapshots = static_cast<int>(std::min<int64_t>(snapshots, affordable / 3));
      plan.max_num_seqs = static_cast<int>(std::min<int64_t>(plan.max_num_seqs, affordable - snapshots));
    }
    layout.num_rings = plan.max_num_seqs + snapshots;
  }
  if (options.num_blocks > 0) {
    layout.num_blocks = options.num_blocks;
    return plan;
  }
  const int64_t left = options.budget_bytes - ring_bytes * layout.num_rings;
  // Beyond every sequence at its longest, blocks would only be cache; ids are 32 bits wide.
  const int64_t longest = (options.max_model_len + layout.block_size - 1) / layout.block_size;
  const int64_t useful = plan.max_num_seqs * longest;
  const int64_t block_bytes = layout.BytesPerBlock();
  const int64_t blocks = block_bytes > 0 ? std::min(left / block_bytes, useful) : useful;
  layout.num_blocks = static_cast<int>(std::min<int64_t>(blocks, INT32_MAX / layout.block_size));
  if (layout.num_blocks < 1) {
    return Errorf("the KV cache has {} left for its blocks and one block takes {}: give it more memory", Bytes(left),
                  Bytes(block_bytes));
  }
  return plan;
}

std::string Describe(const KvLayout& layout) {
  std::string text = fmt::format(
      "KV cache: {} tokens in {} blocks of {} ({}; {} a token", int64_t{layout.num_blocks} * layout.block_size,
      layout.num_blocks, layout.block_size, Bytes(layout.num_blocks * layout.BytesPerBlock()),
      Bytes(layout.BytesPerToken()));
  if (layout.BytesPerToken() > 0) text += " = " + Formula(layout, false);
  text += ")";
  if (layout.ring_tokens > 0) {
    text += fmt::format(", {} rings of {} tokens ({}; {} a sequence = {} x {})", layout.num_rings, layout.ring_tokens,
                        Bytes(layout.num_rings * layout.BytesPerRing()), Bytes(layout.BytesPerRing()),
                        layout.ring_tokens, Formula(layout, true));
  }
  return text;
}

}  // namespace minimo
