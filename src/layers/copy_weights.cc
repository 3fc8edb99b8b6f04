#include "layers/copy_weights.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/thread_team.h"
#include "layers/huge_bytes.h"
#include "ops/linear/tiles.h"

namespace minimo {
namespace {

constexpr int64_t kLine = 64;

int64_t Lines(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

int64_t RowBytes(const WeightView& view) { return view.cols * view.ElementBits() / 8; }

int64_t ScaleRowBytes(const WeightView& view) {
  if (view.format != WeightFormat::kInt4Group) return 0;
  return (view.cols + view.group_size - 1) / view.group_size * static_cast<int64_t>(sizeof(Bf16));
}

int64_t BytesOf(const WeightView& view) {
  if (HasExactTiles(view)) return Lines(TilesBytes(view));
  return Lines(view.rows * RowBytes(view)) + Lines(view.rows * ScaleRowBytes(view));
}

bool Tied(const DecoderWeights& weights) { return weights.embedding.view.data == weights.lm_head.view.data; }

template <typename Weights, typename Visit>  // layer by layer: what a step reads one after the other lies so
void ForEachLayer(Weights& weights, const Visit& visit) {
  using W = std::conditional_t<std::is_const_v<Weights>, const Weight, Weight>;
  std::vector<W*> matrices;
  const auto add = [&](W& w) {
    if (w.view.rows > 0 && w.view.cols > 0) matrices.push_back(&w);
  };
  const auto add_ffn = [&](auto& ffn) {
    add(ffn.gate);
    add(ffn.up);
    add(ffn.down);
  };
  for (auto& layer : weights.layers) {
    for (W* w : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.router}) add(*w);
    add_ffn(layer.dense);
    for (auto& expert : layer.experts) add_ffn(expert);
    for (auto& expert : layer.decode_experts) add_ffn(expert);
    visit(matrices);
    matrices.clear();
  }
  add(weights.lm_head);
  if (!Tied(weights)) add(weights.embedding);
  visit(matrices);
}

void CopyRows(const std::byte* from, int64_t stride, std::byte* to, int64_t rows, int64_t row_bytes, ThreadTeam& team) {
  team.ParallelForRows(rows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(to + r * row_bytes, from + r * stride, static_cast<size_t>(row_bytes));
    }
  });
}

Status CopyTogether(const std::vector<Weight*>& all, ThreadTeam& team) {
  std::vector<Weight*> matrices;
  std::copy_if(all.begin(), all.end(), std::back_inserter(matrices), [](Weight* m) { return !HasExactTiles(m->view); });
  int64_t bytes = 0;
  for (const Weight* m : matrices) bytes += BytesOf(m->view);
  if (bytes == 0) return {};
  const auto memory = HugeBytes::Map(bytes, team.nodes() == 1);
  if (memory == nullptr) return Errorf("no memory for {} bytes of weights", bytes);
  std::byte* at = memory->data();
  for (Weight* m : matrices) {
    WeightView& view = m->view;
    const int64_t row = RowBytes(view), scale_row = ScaleRowBytes(view);
    CopyRows(view.data, view.row_bytes, at, view.rows, row, team);
    view.data = at;
    view.row_bytes = row;
    at += Lines(view.rows * row);
    if (scale_row > 0) {
      CopyRows(reinterpret_cast<const std::byte*>(view.group_scales),
               view.scale_stride * static_cast<int64_t>(sizeof(Bf16)), at, view.rows, scale_row, team);
      view.group_scales = reinterpret_cast<const Bf16*>(at);
      view.scale_stride = scale_row / static_cast<int64_t>(sizeof(Bf16));
      at += Lines(view.rows * scale_row);
    }
    m->owners.push_back(memory);
  }
  return {};
}

}  // namespace

int64_t CopyBytes(const DecoderWeights& weights) {
  int64_t bytes = 0;
  ForEachLayer(weights, [&](const auto& matrices) {
    for (const Weight* m : matrices) bytes += BytesOf(m->view);
  });
  return bytes;
}

Status CopyWeights(DecoderWeights* weights, ThreadTeam& team) {
  const bool tied = Tied(*weights);
  Status status;
  ForEachLayer(*weights, [&](const std::vector<Weight*>& matrices) {
    if (status.ok()) status = CopyTogether(matrices, team);
  });
  if (tied) weights->embedding = weights->lm_head;
  return status;
}

}  // namespace minimo
