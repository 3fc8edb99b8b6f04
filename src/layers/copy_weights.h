// `--load-format resident`: a model's matrices copied out of their mapped files into memory of the process's own.
// A system short of memory, or one that reclaims what lay idle, takes mapped pages first, and a step that meets them
// again waits for the disk; the copies also lie in huge pages, which a file's pages do not.
#pragma once

#include "layers/weight.h"
#include "minimo/result.h"

namespace minimo {

class ThreadTeam;

// What CopyWeights takes, and with it TileExactly (tile_weights.h) of a whole model.
int64_t CopyBytes(const DecoderWeights& weights);

// Every projection, expert, router, the head and the embedding (a step must not wait for the disk to bring one of its
// rows), rows without gaps; scales of groups too. But for those of which HasExactTiles: executors lay
// out their parts of them.
Status CopyWeights(DecoderWeights* weights, ThreadTeam& team);

}  // namespace minimo
