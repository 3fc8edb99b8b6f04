// From a StepRecord to the int32 arrays that the kernels read, packed so that one copy carries them to the device.
// Host logic only.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/step.h"
#include "minimo/result.h"

namespace minimo::cuda {

// Offsets (in int32) of the arrays in the packed buffer. Fixed by the capacities, so that a captured graph stays valid.
struct StepLayout {
  int max_tokens = 0;
  std::vector<int> groups;  // distinct heads / kv_heads of the model's layers: each has its own prefill tiles

  int64_t TokenIds() const { return 0; }
  int64_t Positions() const { return Section(1); }
  int64_t BlockTableOf() const { return Section(2); }
  int64_t RingOf() const { return Section(3); }
  int64_t Past() const { return Section(4); }
  int64_t Last() const { return Section(5); }
  int64_t LogitRows() const { return Section(6); }
  int64_t Tiles(int group_index) const;  // PrefillTile: 4 int32 each
  int64_t BlockTables() const { return Tiles(static_cast<int>(groups.size())); }

 private:
  int64_t Section(int i) const { return int64_t{i} * max_tokens; }
};

// Rows (token, head of the group) a tile; a sequence of n tokens has ceil(n * group / 128) tiles.
inline constexpr int kPrefillTileRows = 128;

struct StepPlan {
  int tokens = 0;
  int logit_rows = 0;
  // Tokens of each replica of attention, and of the one that the plan is for. One: all.
  struct Rows {
    int first = 0, count = 0;
    bool operator==(const Rows&) const = default;
  };
  std::vector<Rows> replicas;
  Rows own;
  int singles = 0;                 // leading tokens of these that are all their sequences have new
  int longest_single = 0;          // of their contexts, themselves included
  bool one_token_each = false;     // decode: every sequence has one new token, and each gives logits
  std::vector<int> tiles;          // [groups] how many prefill tiles: of its other sequences, rows from own.first on
  std::vector<int32_t> packed;     // StepLayout
};

// Checks what the kernels rely on: sizes within the capacities, ids in range.
Status PlanStep(const StepRecord& step, const StepLayout& layout, int vocab, int num_blocks, int num_rings,
                StepPlan* plan, int replica = 0);

}  // namespace minimo::cuda
