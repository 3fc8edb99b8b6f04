// One draw from a row of processed logits: temperature, min_p, top_k, top_p. No full sort: thresholds are found from
// block maxima and from the mass above a few levels, and only the survivors are looked at closely.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sampling/row_kernels.h"

namespace minimo {

struct DrawParams {
  double temperature = 1;  // > 0
  int32_t top_k = 0;       // 0: off; ties with the k-th best are kept
  double top_p = 1;        // the least set of the best whose share is top_p; 1: off
  double min_p = 0;        // of the greatest probability; 0: off
  double outside = 0;  // for DrawListed: the sum of exp((x - max) / temperature) over tokens that are not in the row
};

// Room that draws reuse; one a thread.
struct DrawScratch {
  std::vector<float> block_max;
  std::vector<float> selection;
  std::vector<float> values;
  std::vector<int32_t> indices;
  std::vector<float> weights;
  std::vector<int32_t> order;
  std::vector<double> chunk_sums;
};

// ScanRow into scratch->block_max.
RowScan Scan(std::span<const float> logits, DrawScratch* scratch);

// The survivors of the filters, by ascending token, with weights proportional to their probabilities, in the first
// `count` entries of scratch->indices and scratch->weights. `scan` is this row's, with a finite maximum.
size_t Survivors(std::span<const float> logits, const RowScan& scan, const DrawParams& params, DrawScratch* scratch);

// The token at quantile `uniform` in [0, 1) of the filtered distribution, tokens in ascending order.
int32_t Draw(std::span<const float> logits, const RowScan& scan, const DrawParams& params, double uniform,
             DrawScratch* scratch);

// As Draw, of a row that holds a part of the vocabulary, in ascending order of tokens: all logits above `floor` and
// perhaps some more; with top_k, the k-th best is above it. -1 if what is missing might matter.
int32_t DrawListed(std::span<const float> logits, const RowScan& scan, const DrawParams& params, float floor,
                   double uniform, DrawScratch* scratch);

// The k best of a row, best first, ties by ascending token, in the first entries of scratch->indices and
// scratch->values; returns how many (fewer than k where a row has fewer above -infinity).
size_t TopK(std::span<const float> logits, size_t k, DrawScratch* scratch);

}  // namespace minimo
