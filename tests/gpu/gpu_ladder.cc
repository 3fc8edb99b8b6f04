// Each operator of a prefill at the models' real shapes: exactness against a plain reference in double on the CPU,
// time, TFLOPS, bytes and share of the floor. Needs a Hopper GPU: see tools/gpu_check.
//   gpu_ladder check            conformance at real and odd shapes; check-products: without attention and router
//   gpu_ladder repeat [TIMES]   the same products TIMES times over from buffers allocated anew: bits must not change
//   gpu_ladder small            a few, for compute-sanitizer
//   gpu_ladder attention|router [TOKENS..]   checked and timed
//   gpu_ladder time [MODEL.OP] [TOKENS..]
// Prints JSON lines; exits 1 if a check fails.
#include <cuda_runtime.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/float_types.h"
#include "cuda/device_cuda.h"
#include "cuda/kernels/fp8_linear.cuh"
#include "cuda/kernels/fp8_quantise.cuh"
#include "cuda/kernels/repack.cuh"
#include "cuda/kernels/tile_linear.cuh"
#include "tests/gpu/ladder.h"
#include "tests/gpu/ladder_operands.h"

namespace minimo::cuda {

int g_failures = 0;

namespace {

constexpr double kReadBytes = 4.54e12;   // a second, H200: bench/results/gpu-hopper.json
constexpr double kFp8Flops = 1979e12;    // dense e4m3, by the datasheet
constexpr float kNextNorm = 0.75f;

double Dot(const Matrix& m, int row, const float* x) {
  double sum = 0;
  for (int c = 0; c < m.cols; ++c) sum += m.At(row, c) * x[c];
  return sum;
}
double SiLu(double x) { return x / (1 + std::exp(-x)); }

// experts == 0: dense. `exact`: activations that e4m3 holds, so only the sums' rounding remains.
// times > 1: the device's part that often. shift: where FP8 scales change (Matrix).
void Check(TileFormat f, int group, Epilogue epilogue, int rows, int cols, int tokens, int experts, int top_k,
           bool exact, int times = 1, int shift = 0) {
  std::mt19937 random(rows * 31 + cols + tokens);
  const bool glu = epilogue == Epilogue::kSwiGlu;
  const int count = std::max(experts, 1);
  const TileShape shape = ShapeOf(f, glu ? 2 * PadTo(rows, 8) : rows, cols, group);
  std::vector<Matrix> top, bottom;
  for (int e = 0; e < count; ++e) {
    top.emplace_back(f, rows, cols, group, random, shift);
    if (glu) bottom.emplace_back(f, rows, cols, group, random, shift);
  }
  const Lists lists(tokens, count, experts > 0 ? top_k : 1, random);
  const int slots = experts > 0 ? tokens * top_k : tokens;
  const bool from_slots = epilogue == Epilogue::kSlot;  // x has a row for each slot
  const int x_rows = from_slots ? slots : tokens, stride = shape.units * kUnitCols;
  std::vector<uint16_t> x(size_t(x_rows) * stride);
  std::vector<float> xf(size_t(x_rows) * stride);
  std::normal_distribution<float> normal;
  for (int r = 0; r < x_rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      float v = normal(random) * (random() % 200 == 0 ? 30.0f : 1.0f) + 0.3f;
      if (exact) {
        v = c % 128 == 7 ? 448.0f / (1 << (r % 5)) : ToFloat(ToFp8E4M3(v * 40)) / (1 << (r % 5));
        if (c % 128 != 7) v = std::clamp(v, -448.0f / (1 << (r % 5)), 448.0f / (1 << (r % 5)));
      }
      x[size_t(r) * stride + c] = ToBf16Bits(v);
      xf[size_t(r) * stride + c] = FromBf16Bits(x[size_t(r) * stride + c]);
    }
  }
  std::vector<float> squares(static_cast<size_t>(x_rows), 0.0f);
  for (int r = 0; r < x_rows; ++r) squares[size_t(r)] = cols * (exact ? 1.0f : 0.5f + r % 7);
  const int out_stride = PadTo(rows, 16);
  const std::vector<float> residual(static_cast<size_t>(slots) * rows, 0.5f);
  std::vector<float> got_f, got_squares;
  std::vector<uint16_t> got_h;
  int changed = 0;
  const auto same = [](const auto& u, const auto& v) {
    return std::memcmp(u.data(), v.data(), u.size() * sizeof(u[0])) == 0;
  };
  for (int i = 0; i < times; ++i) {
    Device<uint8_t> weights(shape.WeightBytes() * count), scales(std::max<int64_t>(shape.ScaleBytes() * count, 16));
    for (int e = 0; e < count; ++e) {
      Repack(top[size_t(e)], glu ? &bottom[size_t(e)] : nullptr, shape, weights.data + e * shape.WeightBytes(),
             scales.data + e * shape.ScaleBytes());
    }
    Device<uint16_t> device_x(x);
    Device<float> device_squares(squares), slot_weight(lists.weight);
    Device<int> num_active(lists.num_active), active(lists.active), offsets(lists.offsets), slot_of(lists.slot_of);
    Device<int> num_tiles(4);
    Device<Fp8Tile> tiles(MostFp8Tiles(slots, count));
    Quantised q(slots, shape.units, f == TileFormat::kInt4);
    QuantiseParams qp;
    qp.tokens = x_rows, qp.cols = cols, qp.x = device_x.data, qp.x_stride = stride, qp.units = shape.units;
    qp.out = q.x;
    if (!from_slots) {
      qp.square_sums = device_squares.data, qp.square_sum_count = 1, qp.norm_cols = cols, qp.norm_eps = 0;
    }
    if (experts > 0) {
      if (!from_slots) qp.slot_of = slot_of.data, qp.top_k = top_k;
      qp.num_active = num_active.data, qp.active = active.data, qp.offsets = offsets.data;
      qp.tiles = tiles.data, qp.num_tiles = num_tiles.data, qp.tile_tokens = Fp8TileTokens(f, slots, count);
    }
    if (f == TileFormat::kBf16) {
      const std::vector<uint16_t> arranged = Arrange(x, x_rows, shape.units, q.x.rows);
      MUST(cudaMemcpy(q.x.values, arranged.data(), arranged.size() * 2, cudaMemcpyHostToDevice));
    } else {
      MUST(LaunchQuantise(qp, nullptr));
    }
    Fp8LinearParams p;
    p.epilogue = epilogue, p.shape = shape, p.weights = weights.data, p.scales = scales.data;
    p.expert_weight_bytes = shape.WeightBytes(), p.expert_scale_bytes = shape.ScaleBytes();
    p.x = q.x, p.tokens = slots, p.out_rows = rows;
    if (experts > 0) p.tiles = tiles.data, p.num_tiles = num_tiles.data;
    p.slot_weight = slot_weight.data, p.tile_tokens = qp.tile_tokens;
    Device<float> out(int64_t{slots} * out_stride), tile_squares(int64_t{slots} * shape.tiles);
    Device<uint16_t> out_x(int64_t{slots} * out_stride);
    Device<float> device_residual(residual);
    p.out = out.data, p.out_stride = out_stride, p.out_x = out_x.data, p.out_x_stride = out_stride;
    p.residual = device_residual.data, p.next_square_sums = tile_squares.data;
    Device<float> next_norm(std::vector<float>(size_t(rows), kNextNorm));
    p.next_norm = next_norm.data, p.next_x = out_x.data, p.next_x_stride = out_stride;
    MUST(LaunchFp8Linear(p, nullptr));
    MUST(cudaDeviceSynchronize());
    auto f32 = epilogue == Epilogue::kResidual ? device_residual.Get() : out.Get();
    auto f16 = out_x.Get();
    auto sums = tile_squares.Get();
    if (i > 0) {
      changed += !same(f32, got_f) || !same(f16, got_h) || !same(sums, got_squares);
    } else {
      got_f = std::move(f32), got_h = std::move(f16), got_squares = std::move(sums);
    }
  }
  Error error, square_error, next_error;
  for (int n = 0; n < 400; ++n) {
    const int slot = n < 40 ? (n % 2 ? slots - 1 - n / 2 : n / 2) % slots : static_cast<int>(random() % slots);
    const int s = std::max(slot, 0), r = n % 5 == 0 ? rows - 1 - n % 7 : static_cast<int>(random() % rows);
    const int token = from_slots || experts == 0 ? s : lists.slot_token[size_t(s)];
    const bool no_norm = from_slots || f == TileFormat::kBf16;
    const int e = experts > 0 ? lists.slot_expert[size_t(s)] : 0;
    const double norm = no_norm ? 1 : 1 / std::sqrt(squares[size_t(token)] / cols);
    const float* row = xf.data() + size_t(token) * stride;
    double want = Dot(top[size_t(e)], r, row) * norm, got;
    if (glu) {
      want = SiLu(want) * Dot(bottom[size_t(e)], r, row) * norm;
      got = FromBf16Bits(got_h[size_t(s) * out_stride + r]);
    } else if (epilogue == Epilogue::kSlot) {
      want *= lists.weight[size_t(s)];
      got = FromBf16Bits(got_h[size_t(s) * out_stride + r]);
    } else if (epilogue == Epilogue::kStoreBf16) {
      got = FromBf16Bits(got_h[size_t(s) * out_stride + r]);
    } else if (epilogue == Epilogue::kResidual) {
      want += 0.5, got = got_f[size_t(s) * rows + r];
      next_error.Add(FromBf16Bits(got_h[size_t(s) * out_stride + r]), got * kNextNorm);
    } else {
      got = got_f[size_t(s) * out_stride + r];
    }
    error.Add(got, want);
    if (!glu && epilogue != Epilogue::kSlot) {
      double sum = 0;
      for (int i = r / 16 * 16; i < std::min(rows, r / 16 * 16 + 16); ++i) {
        const double v = epilogue == Epilogue::kResidual     ? got_f[size_t(s) * rows + i]
                         : epilogue == Epilogue::kStoreBf16 ? FromBf16Bits(got_h[size_t(s) * out_stride + i])
                                                            : got_f[size_t(s) * out_stride + i];
        sum += v * v;
      }
      square_error.Add(got_squares[size_t(s) * shape.tiles + r / 16], sum);
    }
  }
  const bool rounds = glu || epilogue == Epilogue::kSlot || epilogue == Epilogue::kStoreBf16;  // to bf16
  const double bound = exact || f == TileFormat::kBf16 ? (rounds ? 4e-3 : 1e-3) : 0.06;
  const bool squares_ok = square_error.norm == 0 || square_error.Value() < (rounds ? 4e-3 : 1e-4);
  const bool next_ok = next_error.norm == 0 || next_error.Value() < 4e-3;
  const bool ok = error.Value() < bound && squares_ok && next_ok && changed == 0;
  if (!ok) ++g_failures;
  std::printf("{\"check\": \"fp8 linear\", \"format\": \"%s\", \"group\": %d, \"epilogue\": %d, \"rows\": %d, "
              "\"cols\": %d, \"tokens\": %d, \"experts\": %d, \"activations\": \"%s\", "
              "\"relative_error\": %.2e, \"bound\": %.0e, \"square_sums\": %s, \"next_x\": %s, "
              "\"times\": %d, \"changed\": %d, \"ok\": %s}\n",
              f == TileFormat::kFp8 ? "fp8" : f == TileFormat::kBf16 ? "bf16" : "int4", group,
              static_cast<int>(epilogue), rows, cols, tokens, experts,
              exact ? "e4m3" : "float", error.Value(), bound, squares_ok ? "true" : "false",
              next_ok ? "true" : "false", times, changed, ok ? "true" : "false");
  std::fflush(stdout);
}

void RepeatAll(int times) {
  for (const int tokens : {300, 64}) {
    for (const TileFormat f : {TileFormat::kFp8, TileFormat::kInt4}) {
      Check(f, 64, Epilogue::kSlot, 3072, 1536, tokens, 6, 3, false, times);
      Check(f, 64, Epilogue::kSwiGlu, 1536, 3072, tokens, 6, 3, false, times);
    }
    Check(TileFormat::kFp8, 0, Epilogue::kStore, 8192, 3072, tokens, 0, 0, false, times);
    Check(TileFormat::kBf16, 0, Epilogue::kResidual, 4096, 8192, tokens, 0, 0, false, times);
    Check(TileFormat::kFp8, 0, Epilogue::kResidual, 3072, 6144, tokens, 0, 0, false, times);
  }
}

void CheckAll() {
  for (const bool exact : {true, false}) {
    for (const int tokens : {1, 8, 100, 333}) {
      Check(TileFormat::kFp8, 0, Epilogue::kStore, 8192, 3072, tokens, 0, 0, exact);
      Check(TileFormat::kFp8, 0, Epilogue::kStoreBf16, 8192, 3072, tokens, 0, 0, exact);
      Check(TileFormat::kFp8, 0, Epilogue::kResidual, 3072, 6144, tokens, 0, 0, exact);
    }
    for (const int tokens : {1, 100, 333}) {
      Check(TileFormat::kBf16, 0, Epilogue::kResidual, 4096, 8192, tokens, 0, 0, exact);
      Check(TileFormat::kBf16, 0, Epilogue::kStore, 200, 328, tokens, 0, 0, exact);
    }
    Check(TileFormat::kFp8, 0, Epilogue::kStore, 13568, 4096, 70, 0, 0, exact);
    Check(TileFormat::kFp8, 0, Epilogue::kStore, 72, 200, 50, 0, 0, exact);
    Check(TileFormat::kFp8, 0, Epilogue::kStoreBf16, 72, 200, 110, 0, 0, exact);
    Check(TileFormat::kFp8, 0, Epilogue::kSwiGlu, 1000, 328, 50, 0, 0, exact);
    for (const int shift : {8, 40}) {  // parts of a matrix that end between scales
      Check(TileFormat::kFp8, 0, Epilogue::kStoreBf16, 1536, 640, 1100, 0, 0, exact, 1, shift);
      Check(TileFormat::kFp8, 0, Epilogue::kResidual, 3072, 384, 900, 0, 0, exact, 1, shift);
      Check(TileFormat::kFp8, 0, Epilogue::kSwiGlu, 1000, 328, 200, 0, 0, exact, 1, shift);
    }
    for (const int tokens : {5, 64, 300}) {
      for (const TileFormat f : {TileFormat::kFp8, TileFormat::kInt4}) {
        Check(f, 64, Epilogue::kSwiGlu, 1536, 3072, tokens, 6, 3, exact);
        Check(f, 64, Epilogue::kSlot, 3072, 1536, tokens, 6, 3, exact);
      }
    }
    for (const TileFormat f : {TileFormat::kFp8, TileFormat::kInt4}) {  // several tiles a block, of all widths
      for (const int tokens : {20, 120, 250, 280, 370, 900}) {
        Check(f, 64, Epilogue::kSwiGlu, 1536, 128, tokens, 40, 8, exact);
        Check(f, 64, Epilogue::kSlot, 3072, 256, tokens, 40, 8, exact);
      }
    }
    Check(TileFormat::kFp8, 0, Epilogue::kSwiGlu, 1536, 128, 900, 20, 4, exact);  // 180 an expert: tiles of 120 or 96
    Check(TileFormat::kFp8, 0, Epilogue::kSlot, 3072, 256, 1300, 12, 4, exact);
    Check(TileFormat::kInt4, 128, Epilogue::kSwiGlu, 2048, 4096, 90, 4, 2, exact);
    Check(TileFormat::kInt4, 128, Epilogue::kSlot, 4096, 2048, 90, 4, 2, exact);
    Check(TileFormat::kInt4, 64, Epilogue::kSlot, 200, 192, 90, 9, 4, exact);
    Check(TileFormat::kInt4, 64, Epilogue::kSwiGlu, 72, 320, 90, 9, 4, exact);
  }
}

struct Op {
  std::string model, name;
  TileFormat format;
  Epilogue epilogue;
  int rows, cols, experts;
};

void Print(const Op& op, const char* kernel, int tokens, double seconds, double flops, double bytes) {
  const double floor = std::max(flops / kFp8Flops, bytes / kReadBytes);
  std::printf("{\"bench\": \"prefill op\", \"model\": \"%s\", \"op\": \"%s\", \"kernel\": \"%s\", \"format\": \"%s\", "
              "\"tokens\": %d, \"us\": %.1f, \"tflops\": %.0f, \"gb_s\": %.0f, \"floor_us\": %.1f, "
              "\"share_of_floor\": %.2f}\n",
              op.model.c_str(), op.name.c_str(), kernel,
              op.format == TileFormat::kFp8 ? "fp8" : op.format == TileFormat::kInt4 ? "int4" : "bf16", tokens,
              seconds * 1e6, flops / seconds * 1e-12, bytes / seconds * 1e-9, floor * 1e6, floor / seconds);
  std::fflush(stdout);
}

void TimeOp(const Op& op, const std::vector<int>& token_counts) {
  const bool glu = op.epilogue == Epilogue::kSwiGlu, slots_in = op.epilogue == Epilogue::kSlot;
  const int count = std::max(op.experts, 1), top_k = op.experts > 0 ? 8 : 1;
  const TileShape shape = ShapeOf(op.format, glu ? 2 * op.rows : op.rows, op.cols, 64);
  Device<uint8_t> weights(shape.WeightBytes() * count), scales(shape.ScaleBytes() * count);
  MUST(LaunchRandomTiles(shape, count, weights.data, scales.data, 0.02f, 5, nullptr));
  for (const int tokens : token_counts) {
    std::mt19937 random(7);
    const Lists lists(tokens, count, top_k, random);
    const int slots = tokens * top_k, x_rows = slots_in ? slots : tokens, stride = shape.units * kUnitCols;
    Device<uint16_t> x(int64_t{x_rows} * stride), out_x(int64_t{slots} * op.rows);
    MUST(LaunchRandomBf16(x.data, int64_t{x_rows} * stride, 1.0f, 3, nullptr));
    Device<float> out(int64_t{slots} * op.rows), tile_squares(int64_t{slots} * shape.tiles);
    Device<float> squares(std::vector<float>(size_t(tokens), float(op.cols))), slot_weight(lists.weight);
    Device<int> num_active(lists.num_active), active(lists.active), offsets(lists.offsets), slot_of(lists.slot_of),
        slot_token(lists.slot_token), num_tiles(4);
    Device<Fp8Tile> tiles(MostFp8Tiles(slots, count));
    Quantised q(slots, shape.units, op.format == TileFormat::kInt4);
    QuantiseParams qp;
    qp.tokens = x_rows, qp.cols = op.cols, qp.x = x.data, qp.x_stride = stride, qp.units = shape.units, qp.out = q.x;
    if (!slots_in) qp.square_sums = squares.data, qp.square_sum_count = 1, qp.norm_cols = op.cols;
    if (op.experts > 0) {
      if (!slots_in) qp.slot_of = slot_of.data, qp.top_k = top_k;
      qp.num_active = num_active.data, qp.active = active.data, qp.offsets = offsets.data;
      qp.tiles = tiles.data, qp.num_tiles = num_tiles.data, qp.tile_tokens = Fp8TileTokens(op.format, slots, count);
    }
    const bool bf16 = op.format == TileFormat::kBf16;
    const double flops = 2.0 * slots * (glu ? 2 : 1) * op.rows * op.cols;
    const double bytes = double(shape.WeightBytes() + shape.ScaleBytes()) * (op.experts > 0 ? lists.num_active[0] : 1) +
                         double(x_rows) * op.cols * 2;
    Op quantise = op;
    quantise.name += ": quantise";
    if (bf16) {  // attention leaves it so; any layout of finite values takes as long
      MUST(LaunchRandomBf16(q.x.values, int64_t{x_rows} * stride, 1.0f, 3, nullptr));
    } else {
      Print(quantise, "fp8_quantise", tokens, Time([&] { MUST(LaunchQuantise(qp, nullptr)); }), 0,
            double(x_rows) * op.cols * 2 + double(slots) * op.cols * 1.125);
    }
    Fp8LinearParams p;
    p.epilogue = op.epilogue, p.shape = shape, p.weights = weights.data, p.scales = scales.data;
    p.expert_weight_bytes = shape.WeightBytes(), p.expert_scale_bytes = shape.ScaleBytes();
    p.x = q.x, p.tokens = slots, p.out_rows = op.rows;
    if (op.experts > 0) p.tiles = tiles.data, p.num_tiles = num_tiles.data;
    p.slot_weight = slot_weight.data, p.tile_tokens = qp.tile_tokens;
    p.out = out.data, p.out_stride = op.rows, p.out_x = out_x.data, p.out_x_stride = op.rows;
    p.residual = out.data;
    MUST(cudaMemset(out.data, 0, out.count * 4));
    Print(op, "fp8_linear", tokens, Time([&] { MUST(LaunchFp8Linear(p, nullptr)); }), flops, bytes);
    LinearParams b;
    b.mode = op.experts > 0 ? LinearMode::kExperts : LinearMode::kDense;
    b.epilogue = op.epilogue, b.shape = shape, b.weights = weights.data, b.scales = scales.data;
    b.expert_weight_bytes = p.expert_weight_bytes, b.expert_scale_bytes = p.expert_scale_bytes;
    b.x = x.data, b.x_stride = stride, b.tokens = tokens;
    if (op.experts > 0) {
      b.num_active = num_active.data, b.active = active.data, b.offsets = offsets.data;
      if (!slots_in) b.slot_token = slot_token.data;
      b.slot_weight = slot_weight.data, b.max_active = count, b.top_k = top_k;
    }
    b.out = out.data, b.out_stride = op.rows, b.out_rows = op.rows, b.out_x = out_x.data, b.out_x_stride = op.rows;
    b.residual = out.data;
    Print(op, "tile_linear (bf16)", tokens, Time([&] { MUST(LaunchTileLinear(b, nullptr)); }), flops, bytes);
  }
}

void TimeAll(const std::string& only, const std::vector<int>& tokens) {
  using F = TileFormat;
  const std::vector<Op> ops = {
      {"m2", "qkv", F::kFp8, Epilogue::kStore, 8192, 3072, 0},
      {"m2", "o_proj", F::kFp8, Epilogue::kResidual, 3072, 6144, 0},
      {"m2", "gate_up", F::kInt4, Epilogue::kSwiGlu, 1536, 3072, 256},
      {"m2", "down", F::kInt4, Epilogue::kSlot, 3072, 1536, 256},
      {"m2", "gate_up", F::kFp8, Epilogue::kSwiGlu, 1536, 3072, 256},
      {"m2", "down", F::kFp8, Epilogue::kSlot, 3072, 1536, 256},
      {"mimo", "qkv (sliding)", F::kFp8, Epilogue::kStore, 14848, 4096, 0},
      {"mimo", "o_proj", F::kBf16, Epilogue::kResidual, 4096, 8192, 0},
      {"mimo", "gate_up", F::kInt4, Epilogue::kSwiGlu, 2048, 4096, 256},
      {"mimo", "down", F::kInt4, Epilogue::kSlot, 4096, 2048, 256},
      {"mimo", "gate_up", F::kFp8, Epilogue::kSwiGlu, 2048, 4096, 256},
      {"mimo", "down", F::kFp8, Epilogue::kSlot, 4096, 2048, 256},
  };
  for (const Op& op : ops) {
    if (only.empty() || op.model + "." + op.name == only) TimeOp(op, tokens);
  }
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  std::vector<int> tokens;
  std::string only;
  for (int i = 2; i < argc; ++i) {
    const std::string arg = argv[i];
    if (std::isdigit(arg[0])) {
      tokens.push_back(std::stoi(arg));
    } else {
      only = arg;
    }
  }
  if (what == "check") {
    CheckAttention();
    CheckRouter();
  }
  if (what == "check" || what == "check-products") CheckAll();
  if (what == "attention") {
    CheckAttention();
    TimeAttention(tokens.empty() ? std::vector<int>{900, 2048, 8192} : tokens);
  }
  if (what == "router") {
    CheckRouter();
    TimeRouter(tokens.empty() ? std::vector<int>{900, 2048, 7200} : tokens);
  }
  if (what == "small") {
    for (const TileFormat f : {TileFormat::kFp8, TileFormat::kInt4}) {
      Check(f, 64, Epilogue::kSwiGlu, 512, 384, 30, 4, 2, false);
      Check(f, 64, Epilogue::kSlot, 512, 384, 30, 4, 2, false);
    }
    Check(TileFormat::kFp8, 0, Epilogue::kResidual, 512, 768, 70, 0, 0, false);
    Check(TileFormat::kFp8, 0, Epilogue::kSwiGlu, 512, 768, 200, 0, 0, false);
    Check(TileFormat::kFp8, 0, Epilogue::kStoreBf16, 256, 384, 200, 0, 0, false, 1, 40);
  }
  if (what == "repeat") RepeatAll(tokens.empty() ? 50 : tokens[0]);
  if (what == "time") TimeAll(only, tokens.empty() ? std::vector<int>{900, 2048, 8192} : tokens);
  return g_failures > 0;
}

}  // namespace
}  // namespace minimo::cuda

int main(int argc, char** argv) { return minimo::cuda::Main(argc, argv); }
