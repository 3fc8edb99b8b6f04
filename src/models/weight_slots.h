// Where a tensor of the manifest lands among a decoder's weights.
#pragma once

#include "layers/weight.h"
#include "models/manifest.h"

namespace minimo {

// Null if the part is not a small vector, or not one of the decoder's.
Vector* VectorSlot(const TensorSpec& t, DecoderWeights* weights);
// Null if the part is not a matrix, or not one of the decoder's.
Weight* MatrixSlot(const TensorSpec& t, DecoderWeights* weights);
// Null if the part is not one of a feed-forward.
Weight* FfnSlot(TensorPart part, FfnWeights* ffn);

// Room for every layer and expert of the spec.
DecoderWeights EmptyWeights(const ModelSpec& spec);

}  // namespace minimo
