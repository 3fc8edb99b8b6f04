// A rank's part of a tensor that keeps its format: which bytes of the source become which tensors of the rank's files.
#pragma once

#include <vector>

#include "convert/plan.h"
#include "models/manifest.h"

namespace minimo {

// `part` is an entry of RankManifest, `whole` its weight as it was bound (unused for vectors and plain formats).
std::vector<ConvertedTensor> CopyPart(const Checkpoint& checkpoint, const TensorSpec& part, const Weight& whole);

// A whole tensor under its name.
ConvertedTensor CopyWhole(const std::string& name, const TensorView& view);

}  // namespace minimo
