// Which rows and columns of each tensor a rank holds: the one place where the manifest's rules meet a parallel plan.
// Slicing at load, writing one file set a rank and reading it back all ask here.
//
// Scale blocks follow by index. A range that begins or ends within a 128 x 128 block takes the whole block's scale, so
// both ranks beside the cut have it:
//
//   rows of the whole    0 ........ 128 ....... 256 ....... 384
//   ranks of 3           |- rank 0, 130 -||- rank 1, 130 -||-...
//   scale rows           rank 0: 0 1      rank 1: 1 2      (first_row 130, 2 into block 1)
#pragma once

#include "models/manifest.h"
#include "spec/parallel_plan.h"

namespace minimo {

struct TensorShare {
  Range rows;
  Range cols;  // of a vector: {0, 1}
  bool empty() const { return rows.count == 0 || cols.count == 0; }
};

// `row_grain`: rows of an expert that a share must be a multiple of, see RowGrain. `replicas`: of attention, among the
// ranks (ParallelPlan).
TensorShare ShareTensor(const TensorSpec& t, const ModelSpec& whole, int ranks, const MoeLayout& experts, int rank,
                        int64_t row_grain, int replicas = 1);

// One rank's part of the manifest: shapes of the parts, and their place in the whole. What it holds nothing of is left
// out.
Manifest RankManifest(const Manifest& manifest, const ModelSpec& whole, int ranks, const MoeLayout& experts, int rank,
                      int64_t row_grain);

// Scale blocks that cover `count` rows or columns from `first` on, those in common with the neighbours included.
int64_t CoveringBlocks(int64_t first, int64_t count);

}  // namespace minimo
