// MiMo-V2-Flash's fused K/V scales. The released checkpoint was quantised per shard on the fused [Q; K; V] matrix and
// split afterwards, so in the full-attention layers the 128-row grid of one KV head runs on from K into V:
//
//   K rows   [0, 128) -> k_scale[2h]     [128, 192) -> k_scale[2h+1]
//   V rows                               [0, 64)    -> k_scale[2h+1]    [64, 128) -> v_scale[h]
//
// (head_dim 192, v_head_dim 128.) Read as plain blocks, V is off by up to 6x. Sources: LMDeploy #4886, #4949 and its
// unit test; sglang-jax #969; docs/models/mimo-v2-flash.md.
#pragma once

#include <cstdint>
#include <vector>

#include "spec/model_spec.h"

namespace minimo {

// True if k_scale's row count is that of a grid restarting at each KV head, and not that of plain consecutive blocks.
bool HasFusedKvScales(const AttentionSpec& attention, int64_t k_scale_rows);

// Rows of v_scale that go with it: what is left of each head's blocks after K's.
int64_t FusedValueScaleRows(const AttentionSpec& attention);

// The row of [k_scale; v_scale] stacked that each row of K, or of V, is scaled by.
std::vector<int32_t> FusedKeyRows(const AttentionSpec& attention);
std::vector<int32_t> FusedValueRows(const AttentionSpec& attention);

}  // namespace minimo
