// The layout of projections that one product computes: queries, keys and values are [q; k; v], one below the other;
// gate and up lie beside each other, row by row. It is made at load, from weights that were bound by name; checkpoints
// and file sets of ranks keep the projections apart. The parts' sizes are this rank's, and those of keys and values
// differ where their heads do (MiMo: 192 and 128).
//
//   rows   0 ........ k_row ....... v_row ....... rows
//          |- q, padding -||- k, padding -||- v, padding -|
#pragma once

#include <array>

#include "layers/weight.h"
#include "spec/model_spec.h"

namespace minimo {

struct FusedQkv {
  int k_row = 0, v_row = 0;  // where they begin; q at 0
  int rows = 0;
};

// Each part padded to a multiple of `pad` rows.
inline FusedQkv FuseQkv(const AttentionSpec& a, int pad) {
  const auto padded = [pad](int64_t rows) { return static_cast<int>((rows + pad - 1) / pad * pad); };
  FusedQkv fused;
  fused.k_row = padded(a.q_size());
  fused.v_row = fused.k_row + padded(a.k_size());
  fused.rows = fused.v_row + padded(a.v_size());
  return fused;
}

struct FusedPart {
  const Weight* weight;
  int first_row;
};

inline std::array<FusedPart, 3> QkvParts(const LayerWeights& layer, const FusedQkv& at) {
  return {{{&layer.q, 0}, {&layer.k, at.k_row}, {&layer.v, at.v_row}}};
}

// Of SwiGLU, silu(gate) * up.
struct FusedGateUp {
  const Weight* gate;
  const Weight* up;
};

inline FusedGateUp GateUpParts(const FfnWeights& ffn) { return {&ffn.gate, &ffn.up}; }

}  // namespace minimo
