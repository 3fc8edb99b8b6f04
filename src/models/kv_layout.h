// From a model's spec to the geometry of its KV cache.
#pragma once

#include "kv/kv_layout.h"
#include "spec/model_spec.h"
#include "tensor/dtype.h"

namespace minimo {

// Everything but the counts of blocks and rings, which depend on memory and load.
KvLayout MakeKvLayout(const ModelSpec& spec, DType kv_dtype, int block_size);

}  // namespace minimo
