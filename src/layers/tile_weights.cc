#include "layers/tile_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "base/error.h"
#include "base/thread_team.h"
#include "layers/huge_bytes.h"
#include "ops/linear/tiles.h"

namespace minimo {
namespace {

void Drop(const WeightView& view) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(view.data) + page - 1) / page * page;
  const auto end =
      (reinterpret_cast<uintptr_t>(view.data) + static_cast<uintptr_t>(view.rows * view.row_bytes)) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

// One mapping for the matrices of a layer, in the order in which a step reads them.
Status TileTogether(const std::vector<Weight*>& matrices, bool exact, SourceBytes source, ThreadTeam& team) {
  constexpr int64_t kLine = 64;
  int64_t bytes = 0;
  for (const Weight* m : matrices) bytes += (TilesBytes(m->view) + kLine - 1) / kLine * kLine;
  if (bytes == 0) return {};
  const auto memory = HugeBytes::Map(bytes, team.nodes() == 1);
  if (memory == nullptr) return Errorf("no memory for {} bytes of weights laid out in tiles", bytes);
  int64_t at = 0;
  for (Weight* m : matrices) {
    PackTiles(m->view, team, memory->data() + at);
    m->view.tiles = memory->data() + at;
    m->view.exact_tiles = exact;
    m->owners.push_back(memory);
    if (source == SourceBytes::kDrop) Drop(m->view);
    at += (TilesBytes(m->view) + kLine - 1) / kLine * kLine;
  }
  return {};
}

Status TileAll(DecoderWeights* weights, bool exact, SourceBytes source, ThreadTeam& team) {
  std::vector<Weight*> matrices;
  const auto add = [&](Weight& w) {
    if (w.view.rows == 0 || w.view.cols == 0 || w.view.tiles != nullptr) return;
    if (exact ? HasExactTiles(w.view) : HasTileLayout(w.view)) matrices.push_back(&w);
  };
  const auto add_ffn = [&](FfnWeights& ffn) {
    add(ffn.gate);
    add(ffn.up);
    add(ffn.down);
  };
  for (LayerWeights& layer : weights->layers) {
    matrices.clear();
    for (Weight* w : {&layer.q, &layer.k, &layer.v, &layer.o}) add(*w);
    add_ffn(layer.dense);
    for (FfnWeights& expert : layer.experts) add_ffn(expert);
    for (FfnWeights& expert : layer.decode_experts) add_ffn(expert);
    MINIMO_TRY(TileTogether(matrices, exact, source, team));
  }
  matrices.clear();
  add(weights->lm_head);
  const bool tied = weights->lm_head.view.data == weights->embedding.view.data;
  return TileTogether(matrices, exact, tied ? SourceBytes::kKeep : source, team);
}

}  // namespace

Status TileWeights(DecoderWeights* weights, SourceBytes source, ThreadTeam& team) {
  return TileAll(weights, false, source, team);
}

Status TileExactly(DecoderWeights* weights, SourceBytes source, ThreadTeam& team) {
  return TileAll(weights, true, source, team);
}

}  // namespace minimo
