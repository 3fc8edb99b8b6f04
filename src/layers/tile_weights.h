// The matrices of a model laid out for integer products (ops/linear/tiles.h).
#pragma once

#include "layers/weight.h"
#include "minimo/result.h"

namespace minimo {

class ThreadTeam;

enum class SourceBytes {
  kKeep,
  kDrop,  // give a matrix's memory back once it is laid out: of dummy weights nothing else may read them again
};

// `--activations int8`: every projection, expert and the head; embedding and routers stay exact. 4-bit weights keep
// their values, others get 8 bits and a scale to 128 columns. Takes as much memory again as the matrices, unless
// sources are dropped; an error if there is none.
Status TileWeights(DecoderWeights* weights, SourceBytes source, ThreadTeam& team);

// Exact activations: those alone of which HasExactTiles. The rest stays as it is.
Status TileExactly(DecoderWeights* weights, SourceBytes source, ThreadTeam& team);

}  // namespace minimo
