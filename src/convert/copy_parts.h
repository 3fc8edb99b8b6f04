// A weight that keeps its format: the tensors of the source that hold it (codes, scales, shape), and which rows and
// columns of each a rank's part of the weight has.
#pragma once

#include <vector>

#include "convert/plan.h"
#include "models/manifest.h"

namespace minimo {

// `parts`: rows and columns of the weight `t`, bound as `whole` (unused for vectors and plain formats).
std::vector<ConvertedTensor> CopyParts(const Checkpoint& checkpoint, const TensorSpec& t, const Weight& whole,
                                       std::vector<ConvertedTensor::Part> parts);

// A whole tensor under its name.
ConvertedTensor CopyWhole(const std::string& name, const TensorView& view);

}  // namespace minimo
