// The products of a decode step for a batch: exactness against the float32 kernels on the same weights, repeatability,
// time and share of the memory floor. Needs a Hopper GPU: see tools/gpu_check.
//   gpu_batch check | check-dense | check-attention    conformance at real and odd shapes
//   gpu_batch time | time-dense | time-attention | time-experts | time-router [TOKENS..]  real shapes
// Prints JSON lines; exits 1 if a check fails.
#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "cuda/kernels/tile_linear.cuh"
#include "tests/gpu/batch_operands.h"
#include "tests/gpu/check_support.h"
#include "tests/gpu/decode_attention.h"

namespace minimo::cuda {
namespace {

using testing::RelativeError;

int g_failures = 0;
constexpr double kReadBytes = 4.54e12;  // a second, H200: bench/results/gpu-hopper.json

void CheckExperts(const Shape& s, int tokens, bool skewed) {
  std::mt19937 random(tokens * 31 + s.hidden);
  const TileShape up_shape = s.GateUp(), down_shape = s.Down();
  Device<uint8_t> up(up_shape.WeightBytes() * s.experts), up_scales(up_shape.ScaleBytes() * s.experts);
  Device<uint8_t> down(down_shape.WeightBytes() * s.experts), down_scales(down_shape.ScaleBytes() * s.experts);
  MUST(LaunchRandomTiles(up_shape, s.experts, up.data, up_scales.data, 0.02f, 5, nullptr));
  MUST(LaunchRandomTiles(down_shape, s.experts, down.data, down_scales.data, 0.02f, 6, nullptr));
  // Scales that differ from row to row and group to group.
  for (Device<uint8_t>* scales : {&up_scales, &down_scales}) {
    std::vector<uint8_t> bytes = scales->Get();
    if (s.format == TileFormat::kFp8) {
      for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
        const float v = 0.02f / 68.5f * (0.5f + static_cast<float>(random() % 1000) / 1000.0f);
        std::memcpy(&bytes[i], &v, 4);
      }
    } else {
      for (size_t i = 0; i + 2 <= bytes.size(); i += 2) bytes[i] = static_cast<uint8_t>(random());  // mantissas
    }
    MUST(cudaMemcpy(scales->data, bytes.data(), bytes.size(), cudaMemcpyHostToDevice));
  }
  const Lists lists(tokens, s.experts, s.top_k, skewed, random);
  Experts e(s, tokens, lists, up, up_scales, down, down_scales, random);
  MUST(LaunchStreamLinear(e.Exact(true, tokens), true, nullptr));
  MUST(LaunchStreamLinear(e.Exact(false, tokens), true, nullptr));
  MUST(cudaDeviceSynchronize());
  const auto rows_of = [&](const Device<float>& d) {  // without padding
    std::vector<float> all = d.Get(), rows;
    const int stride = e.down_shape.units * kUnitCols;
    for (int i = 0; i < e.slots; ++i) {
      rows.insert(rows.end(), all.begin() + int64_t{i} * stride, all.begin() + int64_t{i} * stride + s.intermediate);
    }
    return rows;
  };
  bool same = true, can = true;
  double up_error = 0, down_error = 0;
  const ExpertsParams gate_up = e.Params(true, tokens), few_down = e.Params(false, tokens);
  can = CanStreamExperts(gate_up) && CanStreamExperts(few_down) && CanListChoices(gate_up);
  if (can) {
    std::vector<float> first;
    for (int repeat = 0; repeat < 3; ++repeat) {  // the third makes the lists itself
      MUST(cudaMemset(e.out.data, 0xff, e.out.count * 4));
      MUST(LaunchStreamExperts(e.Params(true, tokens, repeat == 2), nullptr));
      MUST(LaunchStreamExperts(e.Params(false, tokens, repeat == 2), nullptr));
      MUST(cudaDeviceSynchronize());
      const std::vector<float> out = e.out.Get();
      if (repeat > 0) same = same && std::memcmp(out.data(), first.data(), out.size() * 4) == 0;
      first = out;
    }
    std::vector<long long> load(size_t(s.experts), 0);
    for (const int chosen : lists.chosen) ++load[size_t(chosen)];
    same = same && e.slot_of.Get() == lists.slot_of && e.load.Get() == load;
    up_error = std::max(up_error, RelativeError(rows_of(e.hidden), rows_of(e.exact_hidden)));
    down_error = std::max(down_error, RelativeError(first, e.exact_out.Get()));
  }
  const bool ok = can && same && up_error < 1.5e-3 && down_error < 1.5e-3;
  if (!ok) ++g_failures;
  std::printf(
      "{\"check\": \"batch experts\", \"format\": \"%s\", \"group\": %d, \"hidden\": %d, \"intermediate\": %d, "
      "\"tokens\": %d, \"skewed\": %d, \"gate_up_error\": %.2e, \"down_error\": %.2e, \"same_bits_again\": %d, \"ok\": "
      "%s}\n",
      s.format == TileFormat::kFp8 ? "fp8" : "int4", s.group, s.hidden, s.intermediate, tokens, skewed, up_error,
      down_error, same, ok ? "true" : "false");
  std::fflush(stdout);
}

// Choices against those of each token alone, lists against a sort on the host. apart: scores and choices in two
// launches.
void CheckRouter(int tokens, int experts, int hidden, int top_k, bool apart = false) {
  Router r(tokens, experts, hidden, top_k);
  std::vector<int> alone;
  std::vector<float> alone_weight;
  const auto size = static_cast<size_t>(top_k);
  for (int i = 0; i < tokens; ++i) {
    MUST(LaunchRouter(r.Params(i, 1), nullptr));
    MUST(cudaDeviceSynchronize());
    const auto c = r.chosen.Get();
    const auto w = r.chosen_weight.Get();
    alone.insert(alone.end(), c.begin(), c.begin() + top_k);
    alone_weight.insert(alone_weight.end(), w.begin(), w.begin() + top_k);
  }
  MUST(cudaMemset(r.load.data, 0, r.load.count * 8));
  MUST(apart ? LaunchRouterBatch(r.Params(0, tokens), nullptr, true) : LaunchRouter(r.Params(0, tokens), nullptr));
  MUST(cudaDeviceSynchronize());
  const auto chosen = r.chosen.Get(), active = r.active.Get(), offsets = r.offsets.Get(),
             slot_token = r.slot_token.Get(), slot_of = r.slot_of.Get();
  const auto weight = r.chosen_weight.Get(), slot_weight = r.slot_weight.Get();
  const auto load = r.load.Get();
  int moved = 0;
  for (size_t i = 0; i < alone.size(); i += size) {  // two experts of equal score may change places
    std::vector<int> a(alone.begin() + i, alone.begin() + i + size), b(chosen.begin() + i, chosen.begin() + i + size);
    std::sort(a.begin(), a.end()), std::sort(b.begin(), b.end());
    moved += a != b;
  }
  const double error = RelativeError(weight, alone_weight);
  std::vector<std::vector<int>> of(static_cast<size_t>(experts));
  for (size_t i = 0; i < chosen.size(); ++i) of[size_t(chosen[i])].push_back(static_cast<int>(i));
  bool lists = true;
  size_t slot = 0, entry = 0;
  for (int e = 0; e < experts; ++e) {
    lists = lists && load[size_t(e)] == static_cast<long long>(of[size_t(e)].size());
    if (of[size_t(e)].empty()) continue;
    lists = lists && active[entry] == e && offsets[entry] == static_cast<int>(slot);
    ++entry;
    for (const int i : of[size_t(e)]) {
      lists = lists && slot_of[size_t(i)] == static_cast<int>(slot) && slot_token[slot] == i / top_k &&
              slot_weight[slot] == weight[size_t(i)];
      ++slot;
    }
  }
  lists = lists && r.num_active.Get()[0] == static_cast<int>(entry) && offsets[entry] == static_cast<int>(slot);
  const bool ok = lists && moved == 0 && error < 1e-5 && r.counter.Get()[0] == 0;
  if (!ok) ++g_failures;
  std::printf(
      "{\"check\": \"batch router\", \"tokens\": %d, \"experts\": %d, \"hidden\": %d, \"apart\": %d, \"lists\": %d, "
      "\"tokens_moved\": %d, \"weight_error\": %.2e, \"ok\": %s}\n",
      tokens, experts, hidden, apart, lists, moved, error, ok ? "true" : "false");
  std::fflush(stdout);
}

std::vector<float> Widened(const Device<uint16_t>& d) {
  std::vector<float> v;
  for (const uint16_t bits : d.Get()) v.push_back(ToFloat(Bf16{bits}));
  return v;
}

void CheckDense(const DenseShape& s, int tokens, bool gathered, bool split = false) {
  Dense d(s, tokens, gathered);
  const std::vector<float> start = d.residual.Get();
  MUST(LaunchStreamLinear(d.Params(tokens, true), true, nullptr));
  MUST(cudaDeviceSynchronize());
  if (split) {  // what is beyond the columns must not count
    std::vector<uint16_t> x = d.x.Get();
    for (size_t i = 0; i < x.size(); ++i) {
      if (static_cast<int>(i % static_cast<size_t>(d.stride)) >= s.cols) x[i] = ToBf16(1e6f).bits;
    }
    MUST(cudaMemcpy(d.x.data, x.data(), x.size() * 2, cudaMemcpyHostToDevice));
  }
  const bool can = (split ? CanBatchSplit : CanBatchLinear)(d.Params(tokens, false));
  const bool glu = s.epilogue == Epilogue::kSwiGlu, adds = s.epilogue == Epilogue::kResidual;
  bool same = true;
  std::vector<float> first;
  for (int repeat = 0; repeat < 2 && can; ++repeat) {
    MUST(cudaMemcpy(d.residual.data, start.data(), start.size() * 4, cudaMemcpyHostToDevice));
    MUST((split ? LaunchBatchSplit : LaunchBatchLinear)(d.Params(tokens, false), nullptr));
    MUST(cudaDeviceSynchronize());
    const std::vector<float> got = glu ? Widened(d.out_x) : adds ? d.residual.Get() : d.out.Get();
    same = same && (repeat == 0 || std::memcmp(got.data(), first.data(), got.size() * 4) == 0);
    first = got;
  }
  const double error = RelativeError(first, (glu ? d.exact_out_x : adds ? d.exact_residual : d.exact_out).Get());
  const double next = adds ? RelativeError(Widened(d.next_x), d.exact_next_x.Get()) : 0;
  const double sums = glu ? 0 : RelativeError(d.sums.Get(), d.exact_sums.Get());
  const double bound = split ? 1e-3 : 1e-5;
  const bool ok = can && same && error < (glu ? 4e-3 : bound) && next < 4e-3 && sums < bound;
  if (!ok) ++g_failures;
  std::printf(
      "{\"check\": \"batch %s\", \"format\": \"%s\", \"epilogue\": %d, \"rows\": %d, \"cols\": %d, \"tokens\": %d, "
      "\"error\": %.2e, \"next_x_error\": %.2e, \"square_sums_error\": %.2e, \"same_bits_again\": %d, \"ok\": %s}\n",
      split ? "split" : "linear", s.format == TileFormat::kFp8 ? "fp8" : "bf16", static_cast<int>(s.epilogue), s.rows,
      s.cols, tokens, error, next, sums, same, ok ? "true" : "false");
  std::fflush(stdout);
}

void CheckDense() {
  using F = TileFormat;
  for (const int tokens : {2, 8, 13, 32, 64, 100, 256}) {
    CheckDense({"", F::kFp8, Epilogue::kStore, 8192, 3072}, tokens, tokens % 2 == 0);
    CheckDense({"", F::kFp8, Epilogue::kResidual, 3072, 6144}, tokens, false);
    CheckDense({"", F::kBf16, Epilogue::kResidual, 4096, 8192}, tokens, false);
    CheckDense({"", F::kFp8, Epilogue::kSwiGlu, 1000, 328}, tokens, false);
    CheckDense({"", F::kBf16, Epilogue::kStore, 200, 72}, tokens, true);
  }
  for (const int tokens : {2, 8, 13, 32}) {  // in blocks of 128 rows
    CheckDense({"", F::kFp8, Epilogue::kStore, 13568, 4096}, tokens, tokens % 2 == 0);
    CheckDense({"", F::kFp8, Epilogue::kSwiGlu, 13000, 328}, tokens, false);
  }
  for (const int tokens : {2, 13, 16, 17, 32, 33, 64, 90, 100, 110, 128, 129, 200, 256}) {
    CheckDense({"", F::kFp8, Epilogue::kStore, 8192, 3072}, tokens, tokens % 2 == 0, true);
    CheckDense({"", F::kFp8, Epilogue::kResidual, 3072, 6144}, tokens, false, true);
    CheckDense({"", F::kFp8, Epilogue::kSwiGlu, 1000, 328}, tokens, false, true);
    CheckDense({"", F::kFp8, Epilogue::kStore, 20000, 1100}, tokens, true, true);
  }
}

void CheckAll() {
  using F = TileFormat;
  for (const F f : {F::kInt4, F::kFp8}) {
    for (const int tokens : {2, 9, 33, 100, 256}) {
      CheckExperts({"", f, 64, 3072, 1536, 16, 8}, tokens, false);
      CheckExperts({"", f, 64, 4096, 2048, 12, 3}, tokens, true);
    }
    CheckExperts({"", f, 128, 256, 128, 5, 2}, 20, false);
    CheckExperts({"", f, 64, 328, 72, 3, 1}, 7, false);
    CheckExperts({"", f, 128, 640, 1000, 40, 8}, 70, true);
  }
  for (const int tokens : {2, 8, 9, 32, 33, 100, 256}) CheckRouter(tokens, 256, 3072, 8);
  for (const int tokens : {9, 100, 256}) CheckRouter(tokens, 256, 3072, 8, true);
  CheckRouter(70, 12, 256, 3);
  CheckRouter(200, 30, 328, 3);
  CheckRouter(40, 200, 4096, 8);
  CheckDense();
}

void TimeExperts(const Shape& s, const std::vector<int>& token_counts) {
  std::mt19937 random(7);
  const TileShape up_shape = s.GateUp(), down_shape = s.Down();
  Device<uint8_t> up(up_shape.WeightBytes() * s.experts), up_scales(up_shape.ScaleBytes() * s.experts);
  Device<uint8_t> down(down_shape.WeightBytes() * s.experts), down_scales(down_shape.ScaleBytes() * s.experts);
  MUST(LaunchRandomTiles(up_shape, s.experts, up.data, up_scales.data, 0.02f, 5, nullptr));
  MUST(LaunchRandomTiles(down_shape, s.experts, down.data, down_scales.data, 0.02f, 6, nullptr));
  for (const int tokens : token_counts) {
    const Lists lists(tokens, s.experts, s.top_k, false, random);
    Experts e(s, tokens, lists, up, up_scales, down, down_scales, random);
    const ExpertsParams gate_up = e.Params(true, tokens), few_down = e.Params(false, tokens);
    {
      double seconds[3];
      for (const int which : {0, 1, 2}) {
        seconds[which] = Time([&] {
          if (which != 1) MUST(LaunchStreamExperts(gate_up, nullptr));
          if (which != 0) MUST(LaunchStreamExperts(few_down, nullptr));
        });
      }
      const double bytes = double(lists.num_active[0]) * (up_shape.WeightBytes() + up_shape.ScaleBytes());
      const double down_bytes = double(lists.num_active[0]) * (down_shape.WeightBytes() + down_shape.ScaleBytes());
      std::printf(
          "{\"bench\": \"batch experts\", \"model\": \"%s\", \"format\": \"%s\", \"tokens\": %d, \"active\": %d, "
          "\"gate_up_us\": %.1f, \"share\": %.2f, \"down_us\": %.1f, \"down_share\": %.2f, \"pair_us\": %.1f, "
          "\"pair_share\": %.2f}\n",
          s.model, s.format == TileFormat::kFp8 ? "fp8" : "int4", tokens, lists.num_active[0], seconds[0] * 1e6,
          bytes / kReadBytes / seconds[0], seconds[1] * 1e6, down_bytes / kReadBytes / seconds[1], seconds[2] * 1e6,
          (bytes + down_bytes) / kReadBytes / seconds[2]);
      std::fflush(stdout);
    }
  }
}

void TimeDense(const DenseShape& s, const std::vector<int>& token_counts) {
  for (const int tokens : token_counts) {
    // Several matrices in turn, more than L2 holds.
    const int copies = static_cast<int>(std::max<int64_t>(1, (int64_t{200} << 20) / Dense::TilesOf(s).WeightBytes()));
    std::vector<std::unique_ptr<Dense>> all;
    for (int i = 0; i < copies; ++i) all.push_back(std::make_unique<Dense>(s, tokens, false));
    const double bytes = double(all[0]->tiles.WeightBytes() + all[0]->tiles.ScaleBytes());
    const auto time = [&](auto launch) {
      return Time([&] {
               for (auto& d : all) MUST(launch(d->Params(tokens, false)));
             }) /
             copies;
    };
    const double batch = time([](const LinearParams& p) { return LaunchBatchLinear(p, nullptr); });
    const double stream = time([](const LinearParams& p) { return LaunchStreamLinear(p, false, nullptr); });
    const bool can_split = CanBatchSplit(all[0]->Params(tokens, false));
    const auto made = [](LinearParams p) {
      p.split_made = true;
      return LaunchBatchSplit(p, nullptr);
    };
    const double both = can_split ? time([](const LinearParams& p) { return LaunchBatchSplit(p, nullptr); }) : 0;
    const double split = can_split ? time(made) : 0;
    const double tiles = time([](const LinearParams& p) { return LaunchTileLinear(p, nullptr); });
    std::printf(
        "{\"bench\": \"batch linear\", \"op\": \"%s\", \"tokens\": %d, \"us\": %.1f, \"share\": %.2f, "
        "\"split_us\": %.1f, \"rows_and_split_us\": %.1f, \"stream_linear_us\": %.1f, \"tile_linear_us\": %.1f}\n",
        s.name, tokens, batch * 1e6, bytes / kReadBytes / batch, split * 1e6, both * 1e6, stream * 1e6, tiles * 1e6);
    std::fflush(stdout);
  }
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  std::vector<int> tokens;
  for (int i = 2; i < argc; ++i) tokens.push_back(std::stoi(argv[i]));
  if (tokens.empty()) tokens = {8, 32, 64, 128, 256};
  if (what == "check") CheckAll();
  if (what == "check-dense") CheckDense();
  if (what == "check" || what == "check-attention") g_failures += CheckDecodeAttention();
  using F = TileFormat;
  if (what == "time-experts") TimeExperts({"m2", F::kInt4, 64, 3072, 1536, 256, 8}, tokens);
  if (what == "time" || what == "time-router") {
    for (const int n : tokens) {
      Router r(n, 256, 3072, 8);
      const double seconds = Time([&] { MUST(LaunchRouterBatch(r.Params(0, n), nullptr)); });
      std::printf("{\"bench\": \"batch router\", \"tokens\": %d, \"us\": %.1f}\n", n, seconds * 1e6);
    }
  }
  if (what == "time") {
    TimeExperts({"m2", F::kInt4, 64, 3072, 1536, 256, 8}, tokens);
    TimeExperts({"mimo", F::kInt4, 64, 4096, 2048, 256, 8}, tokens);
    TimeExperts({"m2", F::kFp8, 64, 3072, 1536, 256, 8}, tokens);
    TimeExperts({"mimo", F::kFp8, 64, 4096, 2048, 256, 8}, tokens);
  }
  if (what == "time" || what == "time-attention") TimeDecodeAttention(tokens);
  if (what == "time" || what == "time-dense") {
    TimeDense({"m2 qkv", F::kFp8, Epilogue::kStore, 8192, 3072}, tokens);
    TimeDense({"m2 o_proj", F::kFp8, Epilogue::kResidual, 3072, 6144}, tokens);
    TimeDense({"m2 head", F::kFp8, Epilogue::kStore, 200064, 3072}, tokens);
    TimeDense({"mimo qkv", F::kFp8, Epilogue::kStore, 14848, 4096}, tokens);
    TimeDense({"mimo o_proj", F::kBf16, Epilogue::kResidual, 4096, 8192}, tokens);
  }
  return g_failures > 0;
}

}  // namespace
}  // namespace minimo::cuda

int main(int argc, char** argv) { return minimo::cuda::Main(argc, argv); }
