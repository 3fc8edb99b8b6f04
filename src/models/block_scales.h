// FP8 blocks as compressed-tensors names their scales.
#pragma once

#include "checkpoint/checkpoint.h"
#include "models/manifest.h"

namespace minimo {

// compressed-tensors' 128x128 blocks differ from the released files' in the name of their scales, weight_scale for
// weight_scale_inv (both multiply the codes), and in that these may be bf16. Such scales get the released name and
// float32; of another shape (a row's, a tensor's) they stay as they are, and WeightBinder refuses them.
void NameBlockScales(const Manifest& manifest, Checkpoint* checkpoint);

}  // namespace minimo
