// Sizes in blocks of the FP8 scale grid.
#pragma once

#include <cstdint>

#include "tensor/weight_view.h"

namespace minimo {

// Scale blocks that cover `size` rows or columns, a partial one at the edge included.
inline int64_t ScaleBlocks(int64_t size) { return (size + kScaleBlock - 1) / kScaleBlock; }

}  // namespace minimo
