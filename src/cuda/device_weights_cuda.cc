#include "cuda/device_weights_cuda.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/log.h"
#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/repack.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/upload_cuda.h"
#include "layers/fused_rows.h"

namespace minimo::cuda {
namespace {

// FP8 tiles keep one scale for 8 rows and 128 columns: true of every plain grid, and of a fused grid whose borders are
// multiples of 8.
bool ScalesFitTiles(const WeightView& v) {
  if (v.scales == nullptr || v.first_col % kScaleBlock != 0 || v.rows % 8 != 0) {
    return v.scales != nullptr && v.scale_rows == nullptr && v.first_row % 8 == 0 && v.first_col % kScaleBlock == 0;
  }
  for (int64_t r = 0; r < v.rows; ++r) {
    if (v.ScaleRow(r) != v.ScaleRow(r / 8 * 8)) return false;
  }
  return true;
}

TileFormat FormatOf(const WeightView& v, bool f32) {
  const TileFormat widest = f32 ? TileFormat::kF32 : TileFormat::kBf16;
  switch (v.format) {
    case WeightFormat::kBf16: return TileFormat::kBf16;
    case WeightFormat::kFp8Block: return ScalesFitTiles(v) ? TileFormat::kFp8 : widest;
    case WeightFormat::kInt4Group: return TileFormat::kInt4;
    default: return widest;
  }
}

// The format that holds both: equal, or the widest.
TileFormat Common(TileFormat a, TileFormat b, bool f32) {
  if (a == b) return a;
  return f32 ? TileFormat::kF32 : TileFormat::kBf16;
}

TileShape ShapeOf(TileFormat format, int64_t rows, int64_t cols, int group_cols = 32) {
  return {format, static_cast<int>((rows + kTileRows - 1) / kTileRows),
          static_cast<int>((cols + kUnitCols - 1) / kUnitCols), group_cols};
}

}  // namespace

void DeviceWeights::Place(DeviceMatrix* m, int64_t copies) {
  m->expert_weight_bytes = m->shape.WeightBytes();
  m->expert_scale_bytes = m->shape.ScaleBytes();
  m->weights = Take(m->expert_weight_bytes * copies);
  m->scales = Take(m->expert_scale_bytes * copies);
}

void DeviceWeights::PlaceFfn(const LayerSpec& layer, int intermediate, const Range& experts,
                             const LayerWeights* weights, bool of_decode, DeviceLayer* d) {
  const bool f32 = options_.f32;
  const int64_t copies = layer.moe ? experts.count : 1;
  int group = options_.random_int4_group;
  TileFormat up = layer.moe && group > 0 ? TileFormat::kInt4 : TileFormat::kFp8, down = up;
  if (weights != nullptr) {
    const auto add = [&](const FfnWeights& e, bool first) {
      const TileFormat u = Common(FormatOf(e.gate.view, f32), FormatOf(e.up.view, f32), f32);
      if (e.gate.view.format == WeightFormat::kInt4Group) group = e.gate.view.group_size;
      up = first ? u : Common(up, u, f32);
      down = first ? FormatOf(e.down.view, f32) : Common(down, FormatOf(e.down.view, f32), f32);
    };
    if (!layer.moe) add(weights->dense, true);
    const std::vector<FfnWeights>& all = of_decode ? weights->decode_experts : weights->experts;
    for (int64_t e = experts.begin; layer.moe && e < experts.end(); ++e) add(all[e], e == experts.begin);
  }
  d->gate_up.rows = intermediate;
  d->gate_up.cols = spec_.hidden;
  d->gate_up.shape = ShapeOf(up, 2 * PadTo(intermediate, 8), spec_.hidden, group > 0 ? group : 32);
  Place(&d->gate_up, copies);
  d->down.rows = spec_.hidden;
  d->down.cols = intermediate;
  d->down.shape = ShapeOf(down, spec_.hidden, intermediate, group > 0 ? group : 32);
  Place(&d->down, copies);
}

Result<DeviceWeights> DeviceWeights::Plan(const ModelSpec& spec, const DecoderWeights* weights,
                                          const WeightOptions& options, const RankShare* share,
                                          const MoeShare* decode_experts) {
  DeviceWeights plan;
  plan.spec_ = spec;
  plan.options_ = options;
  plan.experts_ = share == nullptr ? Range{0, spec.moe.experts} : share->experts.experts;
  const int head_rows = share == nullptr ? spec.vocab : static_cast<int>(share->vocab.count);
  const bool f32 = options.f32;
  const auto format = [&](const Weight* w, TileFormat released) {
    return options.random ? released : FormatOf(w->view, f32);
  };
  const auto vector = [&](int64_t size) { return DeviceVector{plan.Take(size * 4)}; };
  plan.embedding_f32_ = !options.random && weights->embedding.view.format != WeightFormat::kBf16;
  plan.embedding_ = plan.Take(int64_t{spec.vocab} * spec.hidden * (plan.embedding_f32_ ? 4 : 2));
  plan.head_.rows = head_rows;
  plan.head_.cols = spec.hidden;
  const TileFormat released_head = options.random_fp8_head ? TileFormat::kFp8 : TileFormat::kBf16;
  const TileFormat head_format = format(options.random ? nullptr : &weights->lm_head, released_head);
  plan.head_.shape = ShapeOf(head_format, head_rows, spec.hidden);
  plan.Place(&plan.head_, 1);
  plan.final_norm_ = vector(spec.hidden);
  for (int i = 0; i < spec.num_layers(); ++i) {
    const LayerSpec& l = spec.layers[i];
    const AttentionSpec& a = l.attention;
    const LayerWeights* w = options.random ? nullptr : &weights->layers[i];
    DeviceLayer d;
    const FusedQkv fused = FuseQkv(a, kTileRows);
    d.k_row = fused.k_row;
    d.v_row = fused.v_row;
    d.qkv_rows = fused.rows;
    TileFormat f = format(w ? &w->q : nullptr, TileFormat::kFp8);
    if (w) f = Common(Common(f, FormatOf(w->k.view, f32), f32), FormatOf(w->v.view, f32), f32);
    d.qkv.rows = d.qkv_rows;
    d.qkv.cols = spec.hidden;
    d.qkv.shape = ShapeOf(f, d.qkv_rows, spec.hidden);
    plan.Place(&d.qkv, 1);
    d.o.rows = spec.hidden;
    d.o.cols = a.o_size();
    // The released MiMo keeps o_proj in bf16, M2 in FP8; a model with value heads of another size is the former.
    const TileFormat released_o = a.v_head_dim != a.head_dim ? TileFormat::kBf16 : TileFormat::kFp8;
    d.o.shape = ShapeOf(format(w ? &w->o : nullptr, released_o), spec.hidden, a.o_size());
    plan.Place(&d.o, 1);
    plan.PlaceFfn(l, l.moe ? spec.moe.intermediate : l.intermediate, plan.experts_, w, false, &d);
    d.input_norm = vector(spec.hidden);
    d.post_norm = vector(spec.hidden);
    if (a.qk_norm) d.q_norm = vector(a.q_size()), d.k_norm = vector(a.k_size());
    if (a.sink) d.sinks = vector(a.heads);
    if (l.moe) {
      d.router = vector(int64_t{spec.moe.experts} * spec.hidden);
      d.router_bias = vector(spec.moe.experts);
      if (options.split_router) d.split_router = plan.Take(SplitRouterBytes(spec.hidden));
    }
    plan.layers_.push_back(d);
    if (decode_experts == nullptr) continue;
    if (l.moe) plan.PlaceFfn(l, static_cast<int>(decode_experts->rows.count), decode_experts->experts, w, true, &d);
    plan.decode_layers_.push_back(d);
  }
  if (decode_experts != nullptr) plan.decode_experts_ = decode_experts->experts;
  return plan;
}

DeviceWeights DeviceWeights::ForDecode() const {
  DeviceWeights decode = *this;
  if (!hybrid()) return decode;
  decode.layers_ = decode_layers_;
  decode.experts_ = decode_experts_;
  return decode;
}

int64_t DeviceWeights::BytesPerToken() const {
  int64_t bytes = 0;
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const DeviceLayer& d = layers_[i];
    const int64_t chosen = spec_.layers[i].moe ? spec_.moe.top_k : 1;
    for (const DeviceMatrix* m : {&d.qkv, &d.o}) bytes += m->expert_weight_bytes + m->expert_scale_bytes;
    for (const DeviceMatrix* m : {&d.gate_up, &d.down}) {
      bytes += chosen * (m->expert_weight_bytes + m->expert_scale_bytes);
    }
    if (spec_.layers[i].moe) bytes += int64_t{spec_.moe.experts} * spec_.hidden * 4;
  }
  return bytes;
}

bool DeviceWeights::FitsFp8Prefill() const {
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const DeviceLayer& d = layers_[i];
    if (d.qkv.shape.format != TileFormat::kFp8) return false;
    if (!HasFp8Linear(d.gate_up.shape) || !HasFp8Linear(d.down.shape)) return false;
    if (!spec_.layers[i].moe && d.down.shape.format != TileFormat::kFp8) return false;
  }
  return true;
}

Status DeviceWeights::Fill(const DecoderWeights* weights, ThreadTeam* team, cudaStream_t stream) {
  const auto start = std::chrono::steady_clock::now();
  MINIMO_TRY(memory_->Allocate(bytes_));
  MINIMO_TRY(options_.random ? FillRandom(stream) : FillFromFiles(*weights, *team, stream));
  MINIMO_TRY(SplitRouters(stream));
  MINIMO_TRY(ToStatus(cudaStreamSynchronize(stream), "filling the weights"));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  LogInfo("{} {:.2f} GB of weights in {:.2f} s, {:.1f} GB/s", options_.random ? "made up" : "loaded",
          static_cast<double>(bytes_) * 1e-9, seconds, static_cast<double>(bytes_) * 1e-9 / seconds);
  return {};
}

Status DeviceWeights::SplitRouters(cudaStream_t stream) {
  for (const DeviceLayer& d : layers_) {
    if (d.split_router < 0) continue;
    MINIMO_CUDA_TRY(LaunchSplitRouter(Floats(d.router), Floats(d.post_norm), spec_.moe.experts, spec_.hidden,
                                      memory_->As<uint8_t>(d.split_router), stream));
  }
  return {};
}

Status DeviceWeights::FillRandom(cudaStream_t stream) {
  uint64_t seed = 1;
  const auto matrix = [&](const DeviceMatrix& m, int64_t copies, float deviation) {
    seed += uint64_t{1} << 40;
    return ToStatus(LaunchRandomTiles(m.shape, copies, memory_->As(m.weights), memory_->As(m.scales), deviation, seed,
                                      stream),
                    "random weights");
  };
  const auto floats = [&](DeviceVector v, int64_t size, float mean, float deviation) -> Status {
    if (v.offset < 0) return {};
    seed += uint64_t{1} << 40;
    return ToStatus(LaunchRandomFloats(memory_->As<float>(v.offset), size, mean, deviation, seed, stream),
                    "random weights");
  };
  const auto deviation = [](const DeviceMatrix& m) { return 1.0f / std::sqrt(static_cast<float>(m.cols)); };
  MINIMO_CUDA_TRY(LaunchRandomBf16(memory_->As(embedding_), int64_t{spec_.vocab} * spec_.hidden, 1.0f, 7, stream));
  MINIMO_TRY(matrix(head_, 1, deviation(head_)));
  MINIMO_TRY(floats(final_norm_, spec_.hidden, 1, 0.1f));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const DeviceLayer& d = layers_[i];
    const AttentionSpec& a = spec_.layers[i].attention;
    const bool moe = spec_.layers[i].moe;
    MINIMO_TRY(matrix(d.qkv, 1, deviation(d.qkv)));
    MINIMO_TRY(matrix(d.o, 1, deviation(d.o)));
    MINIMO_TRY(matrix(d.gate_up, moe ? experts_.count : 1, deviation(d.gate_up)));
    MINIMO_TRY(matrix(d.down, moe ? experts_.count : 1, deviation(d.down)));
    if (moe && hybrid()) {  // not the same values: of random weights the phases are different models
      MINIMO_TRY(matrix(decode_layers_[i].gate_up, decode_experts_.count, deviation(decode_layers_[i].gate_up)));
      MINIMO_TRY(matrix(decode_layers_[i].down, decode_experts_.count, deviation(decode_layers_[i].down)));
    }
    MINIMO_TRY(floats(d.input_norm, spec_.hidden, 1, 0.1f));
    MINIMO_TRY(floats(d.post_norm, spec_.hidden, 1, 0.1f));
    MINIMO_TRY(floats(d.q_norm, a.q_size(), 1, 0.1f));
    MINIMO_TRY(floats(d.k_norm, a.k_size(), 1, 0.1f));
    MINIMO_TRY(floats(d.sinks, a.heads, 0, 1));
    MINIMO_TRY(floats(d.router, int64_t{spec_.moe.experts} * spec_.hidden, 0, 1.0f / std::sqrt(float(spec_.hidden))));
    MINIMO_TRY(floats(d.router_bias, spec_.moe.experts, 0, 0.02f));
  }
  return {};
}

Status DeviceWeights::FillFromFiles(const DecoderWeights& weights, ThreadTeam& team, cudaStream_t stream) {
  Uploader uploader(team, stream);
  MINIMO_TRY(uploader.Allocate());
  const auto floats = [&](DeviceVector v, const Vector& from) -> Status {
    if (v.offset < 0) return {};
    return uploader.Copy(memory_->As(v.offset), from.data(), static_cast<int64_t>(from.size()) * 4);
  };
  const auto matrix = [&](const DeviceMatrix& m, int64_t copy, int first_row, const Weight& top, const Weight* bottom) {
    const int64_t first_tile = first_row / kTileRows;
    const int64_t first_unit = first_tile * m.shape.units;
    const int64_t unit_bytes = UnitBytes(m.shape.format);
    const int64_t scale_bytes = UnitScaleBytes(m.shape.format, m.shape.group_cols);
    return uploader.Repack(m.shape, top.view, bottom ? &bottom->view : nullptr,
                           memory_->As(m.weights + copy * m.expert_weight_bytes + first_unit * unit_bytes),
                           memory_->As(m.scales + copy * m.expert_scale_bytes + first_unit * scale_bytes));
  };
  const auto experts = [&](const DeviceLayer& d, const Range& here, const std::vector<FfnWeights>& all) -> Status {
    for (int64_t e = 0; e < here.count; ++e) {
      const FfnWeights& expert = all[here.begin + e];
      const FusedGateUp fused = GateUpParts(expert);
      MINIMO_TRY(matrix(d.gate_up, e, 0, *fused.gate, fused.up));
      MINIMO_TRY(matrix(d.down, e, 0, expert.down, nullptr));
    }
    return {};
  };
  if (embedding_f32_) {
    MINIMO_TRY(uploader.CopyAsFloat(memory_->As<float>(embedding_), weights.embedding.view));
  } else {
    const int64_t bytes = int64_t{spec_.vocab} * spec_.hidden * 2;
    MINIMO_TRY(uploader.Copy(memory_->As(embedding_), weights.embedding.view.data, bytes));
  }
  MINIMO_TRY(matrix(head_, 0, 0, weights.lm_head, nullptr));
  MINIMO_TRY(floats(final_norm_, weights.final_norm));
  for (int i = 0; i < spec_.num_layers(); ++i) {
    const DeviceLayer& d = layers_[i];
    const LayerWeights& w = weights.layers[i];
    for (const FusedPart& part : QkvParts(w, {d.k_row, d.v_row, d.qkv_rows})) {
      MINIMO_TRY(matrix(d.qkv, 0, part.first_row, *part.weight, nullptr));
    }
    MINIMO_TRY(matrix(d.o, 0, 0, w.o, nullptr));
    if (spec_.layers[i].moe) {
      MINIMO_TRY(experts(d, experts_, w.experts));
      if (hybrid()) MINIMO_TRY(experts(decode_layers_[i], decode_experts_, w.decode_experts));
      MINIMO_TRY(uploader.CopyAsFloat(memory_->As<float>(d.router.offset), w.router.view));
      MINIMO_TRY(floats(d.router_bias, w.router_bias));
    } else {
      const FusedGateUp fused = GateUpParts(w.dense);
      MINIMO_TRY(matrix(d.gate_up, 0, 0, *fused.gate, fused.up));
      MINIMO_TRY(matrix(d.down, 0, 0, w.dense.down, nullptr));
    }
    MINIMO_TRY(floats(d.input_norm, w.input_norm));
    MINIMO_TRY(floats(d.post_norm, w.post_attention_norm));
    MINIMO_TRY(floats(d.q_norm, w.q_norm));
    MINIMO_TRY(floats(d.k_norm, w.k_norm));
    MINIMO_TRY(floats(d.sinks, w.sinks));
  }
  return {};
}

}  // namespace minimo::cuda
