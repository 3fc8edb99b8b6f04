// Operands on the device for gpu_batch, and the parameters of the kernels that take them.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/float_types.h"
#include "cuda/kernels/batch_linear.cuh"
#include "cuda/kernels/repack.cuh"
#include "cuda/kernels/router.cuh"
#include "cuda/kernels/split_rows.cuh"
#include "cuda/kernels/stream_experts.cuh"
#include "tests/gpu/device_array.h"

namespace minimo::cuda {

struct Shape {
  const char* model;
  TileFormat format;
  int group, hidden, intermediate, experts, top_k;
  TileShape GateUp() const {
    return {format, 2 * PadTo(intermediate, 8) / kTileRows, PadTo(hidden, kUnitCols) / kUnitCols, group};
  }
  TileShape Down() const {
    return {format, PadTo(hidden, kTileRows) / kTileRows, PadTo(intermediate, kUnitCols) / kUnitCols, group};
  }
};

// The router's lists for random choices; skew > 0: the first experts are chosen more often.
struct Lists {
  std::vector<int> active, offsets, slot_token, num_active;
  std::vector<float> weight;
  std::vector<int> chosen, slot_of;  // [tokens, top_k]
  std::vector<float> chosen_weight;
  Lists(int tokens, int experts, int top_k, bool skewed, std::mt19937& random) {
    std::vector<std::vector<int>> of(static_cast<size_t>(experts));
    for (int i = 0; i < tokens; ++i) {
      std::vector<int> all(static_cast<size_t>(experts));
      std::iota(all.begin(), all.end(), 0);
      for (int j = 0; j < top_k; ++j) {
        const int reach = skewed && j < 2 ? std::min(experts, 4) : experts - j;
        std::swap(all[size_t(j)], all[size_t(j + static_cast<int>(random() % reach) % (experts - j))]);
        of[size_t(all[size_t(j)])].push_back(i);
      }
    }
    for (int e = 0; e < experts; ++e) {
      if (of[size_t(e)].empty()) continue;
      active.push_back(e), offsets.push_back(static_cast<int>(slot_token.size()));
      for (const int token : of[size_t(e)]) {
        slot_token.push_back(token);
        weight.push_back(0.05f + static_cast<float>(random() % 1000) / 2000.0f);
      }
    }
    offsets.push_back(static_cast<int>(slot_token.size()));
    chosen.resize(slot_token.size()), slot_of = chosen, chosen_weight.resize(chosen.size());
    std::vector<int> seen(static_cast<size_t>(tokens));
    for (size_t entry = 0; entry < active.size(); ++entry) {
      for (int slot = offsets[entry]; slot < offsets[entry + 1]; ++slot) {
        const int token = slot_token[size_t(slot)];
        const size_t at = size_t(token) * top_k + seen[size_t(token)]++;
        chosen[at] = active[entry], slot_of[at] = slot, chosen_weight[at] = weight[size_t(slot)];
      }
    }
    num_active = {static_cast<int>(active.size())};
  }
};

// What the router of a batch takes and gives.
struct Router {
  int tokens, experts, hidden, top_k;
  Device<float> residual, norm, squares, weights, bias, logits, token_squares, chosen_weight, slot_weight;
  Device<int> counter, chosen, num_active, active, offsets, slot_token, slot_of;
  Device<long long> load;

  Router(int t, int e, int h, int k)
      : tokens(t),
        experts(e),
        hidden(h),
        top_k(k),
        residual(int64_t{t} * h),
        norm(h),
        squares(int64_t{t} * 5),
        weights(int64_t{e} * h),
        bias(e),
        logits(int64_t{kBatchSplits} * t * e),
        token_squares(t),
        chosen_weight(int64_t{t} * k),
        slot_weight(int64_t{t} * k),
        counter(std::vector<int>(2, 0)),
        chosen(int64_t{t} * k),
        num_active(1),
        active(int64_t{t} * k + e),
        offsets(int64_t{t} * k + e + 1),
        slot_token(int64_t{t} * k),
        slot_of(int64_t{t} * k),
        load(std::vector<long long>(size_t(e), 0)) {
    MUST(LaunchRandomFloats(residual.data, residual.count, 0.1f, 3.0f, 1, nullptr));
    MUST(LaunchRandomFloats(norm.data, norm.count, 1.0f, 0.1f, 2, nullptr));
    MUST(LaunchRandomFloats(weights.data, weights.count, 0.0f, 1.0f / std::sqrt(float(h)), 3, nullptr));
    MUST(LaunchRandomFloats(bias.data, bias.count, 0.0f, 0.02f, 4, nullptr));
    MUST(LaunchRandomFloats(squares.data, squares.count, 2.0f * h, 0.3f * h, 5, nullptr));
  }
  RouterParams Params(int first, int count) {
    RouterParams p;
    p.tokens = count, p.experts = experts, p.top_k = top_k, p.hidden = hidden;
    p.residual = residual.data + int64_t{first} * hidden, p.norm_weight = norm.data;
    p.square_sums = squares.data + first * 5, p.square_sum_count = 5, p.norm_eps = 1e-6f;
    p.weights = weights.data, p.bias = bias.data, p.logits = logits.data, p.counter = counter.data;
    p.token_squares = token_squares.data, p.chosen = chosen.data, p.chosen_weight = chosen_weight.data;
    p.num_active = num_active.data, p.active = active.data, p.offsets = offsets.data;
    p.slot_token = slot_token.data, p.slot_weight = slot_weight.data, p.slot_of = slot_of.data;
    p.expert_load = load.data;
    return p;
  }
};

// One layer's experts on the device, and both kernels' parameters.
struct Experts {
  Shape shape;
  int slots;
  TileShape up_shape, down_shape;
  Device<uint8_t>&up, &up_scales, &down, &down_scales;
  Device<int> num_active, active, offsets, slot_token, chosen, slot_of;
  Device<long long> load;
  Device<float> chosen_weight, slot_weight, input, scaled_input, norm, squares, hidden, exact_hidden, out, exact_out;
  Device<uint8_t> rows;
  Router router;

  Experts(const Shape& s, int tokens, const Lists& lists, Device<uint8_t>& u, Device<uint8_t>& us, Device<uint8_t>& d,
          Device<uint8_t>& ds, std::mt19937& random)
      : shape(s),
        slots(static_cast<int>(lists.slot_token.size())),
        up_shape(s.GateUp()),
        down_shape(s.Down()),
        up(u),
        up_scales(us),
        down(d),
        down_scales(ds),
        num_active(lists.num_active),
        active(lists.active),
        offsets(lists.offsets),
        slot_token(lists.slot_token),
        chosen(lists.chosen),
        slot_of(std::vector<int>(lists.chosen.size(), -1)),
        load(std::vector<long long>(size_t(s.experts), 0)),
        chosen_weight(lists.chosen_weight),
        slot_weight(lists.weight),
        input(int64_t{tokens} * s.hidden),
        scaled_input(int64_t{tokens} * up_shape.units * kUnitCols),
        norm(s.hidden),
        squares(tokens),
        hidden(int64_t{slots} * down_shape.units * kUnitCols),
        exact_hidden(hidden.count),
        out(int64_t{slots} * s.hidden),
        exact_out(out.count),
        rows(int64_t{tokens} * Row().bytes()),
        router(tokens, std::max(s.experts, s.top_k), s.hidden, s.top_k) {
    std::normal_distribution<float> normal;
    std::vector<float> x(size_t(tokens) * s.hidden), w(size_t(s.hidden)), q(static_cast<size_t>(tokens));
    const int stride = up_shape.units * kUnitCols;
    std::vector<float> scaled(size_t(tokens) * stride, 0.0f);
    for (auto& v : w) v = 1.0f + 0.1f * normal(random);
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < s.hidden; ++c) {
        const float v = (normal(random) + 0.2f) * (random() % 300 == 0 ? 40.0f : 1.0f) * float(1 << (i % 20));
        x[size_t(i) * s.hidden + c] = v;
        q[size_t(i)] += v * v;
        scaled[size_t(i) * stride + c] = v * w[size_t(c)];
      }
    }
    const auto put = [](Device<float>& to, const std::vector<float>& v) {
      MUST(cudaMemcpy(to.data, v.data(), v.size() * 4, cudaMemcpyHostToDevice));
    };
    put(input, x), put(scaled_input, scaled), put(norm, w), put(squares, q);
    MUST(cudaMemset(exact_hidden.data, 0, exact_hidden.count * 4));  // rows are zero beyond the columns
    MUST(LaunchRouter(Rows(tokens), nullptr));
    MUST(cudaDeviceSynchronize());
  }
  ExpertRow Row() const { return {up_shape.units, shape.format == TileFormat::kInt4}; }
  // The rows that the router makes of the input.
  RouterParams Rows(int tokens) {
    RouterParams p = router.Params(0, tokens);
    p.residual = input.data, p.norm_weight = norm.data;
    p.square_sums = squares.data, p.square_sum_count = 1;
    p.rows = rows.data, p.row_units = Row().units, p.rows_int4 = Row().int4;
    return p;
  }
  // choices: in place of the lists.
  ExpertsParams Params(bool gate_up, int tokens, bool choices = false) {
    ExpertsParams p;
    p.gate_up = gate_up;
    p.shape = gate_up ? up_shape : down_shape;
    p.weights = gate_up ? up.data : down.data;
    p.scales = gate_up ? up_scales.data : down_scales.data;
    p.expert_weight_bytes = p.shape.WeightBytes(), p.expert_scale_bytes = p.shape.ScaleBytes();
    p.experts = shape.experts, p.tokens = tokens, p.top_k = shape.top_k;
    if (choices) {
      p.chosen = chosen.data, p.chosen_weight = chosen_weight.data, p.slot_of = slot_of.data, p.expert_load = load.data;
    } else {
      p.num_active = num_active.data, p.active = active.data, p.offsets = offsets.data;
      p.slot_token = slot_token.data, p.slot_weight = slot_weight.data;
    }
    const int hidden_stride = down_shape.units * kUnitCols;
    p.cols = gate_up ? shape.hidden : shape.intermediate;
    p.rows = rows.data, p.input = hidden.data, p.input_stride = hidden_stride;
    p.out = gate_up ? hidden.data : out.data;
    p.out_stride = gate_up ? hidden_stride : shape.hidden;
    p.out_rows = gate_up ? shape.intermediate : shape.hidden;
    return p;
  }
  LinearParams Exact(bool gate_up, int tokens) {
    LinearParams p;
    p.mode = LinearMode::kExperts;
    p.epilogue = gate_up ? Epilogue::kSwiGlu : Epilogue::kSlot;
    p.shape = gate_up ? up_shape : down_shape;
    p.weights = gate_up ? up.data : down.data;
    p.scales = gate_up ? up_scales.data : down_scales.data;
    p.expert_weight_bytes = p.shape.WeightBytes(), p.expert_scale_bytes = p.shape.ScaleBytes();
    p.tokens = tokens, p.num_active = num_active.data, p.active = active.data, p.offsets = offsets.data;
    p.x = gate_up ? scaled_input.data : exact_hidden.data;
    p.x_stride = p.shape.units * kUnitCols;
    if (gate_up) p.slot_token = slot_token.data, p.square_sums = squares.data, p.square_sum_count = 1;
    p.norm_cols = shape.hidden, p.norm_eps = 1e-6f;
    p.slot_weight = slot_weight.data, p.max_active = static_cast<int>(active.count), p.top_k = shape.top_k;
    p.out = exact_out.data, p.out_stride = shape.hidden;
    p.out_x = exact_hidden.data, p.out_x_stride = down_shape.units * kUnitCols;
    p.out_rows = gate_up ? shape.intermediate : shape.hidden;
    return p;
  }
};

struct DenseShape {
  const char* name;
  TileFormat format;
  Epilogue epilogue;
  int rows, cols;
};

// The same product by the float32 kernels on the same weights and the same x, whose values bf16 holds.
struct Dense {
  DenseShape shape;
  TileShape tiles;
  int stride, rows;
  Device<uint8_t> weights, scales, split;
  Device<uint16_t> x, next_x, out_x;
  Device<float> exact_x, exact_next_x, exact_out_x, squares, norm, out, exact_out, residual, exact_residual, sums,
      exact_sums;
  Device<int> slot_token;
  bool gather;

  static TileShape TilesOf(const DenseShape& s) {
    const int rows = s.epilogue == Epilogue::kSwiGlu ? 2 * PadTo(s.rows, 8) : s.rows;
    return {s.format, PadTo(rows, kTileRows) / kTileRows, PadTo(s.cols, kUnitCols) / kUnitCols, 32};
  }
  Dense(const DenseShape& s, int tokens, bool gathered)
      : shape(s),
        tiles(TilesOf(s)),
        stride(tiles.units * kUnitCols),
        rows(s.rows),
        weights(tiles.WeightBytes()),
        scales(std::max<int64_t>(tiles.ScaleBytes(), 16)),
        split(int64_t{PadTo(tokens, 8)} * tiles.units * kSplitTokenBytes),
        x(int64_t{tokens} * stride),
        next_x(int64_t{tokens} * rows),
        out_x(next_x.count),
        exact_x(x.count),
        exact_next_x(next_x.count),
        exact_out_x(next_x.count),
        squares(std::vector<float>(size_t(tokens) * 3, s.cols * 0.7f)),
        norm(rows),
        out(next_x.count),
        exact_out(next_x.count),
        residual(next_x.count),
        exact_residual(next_x.count),
        sums(int64_t{tokens} * tiles.tiles),
        exact_sums(sums.count),
        slot_token(tokens),
        gather(gathered) {
    std::mt19937 random(tokens + rows);
    MUST(LaunchRandomTiles(tiles, 1, weights.data, scales.data, 0.02f, 5, nullptr));
    if (s.format == TileFormat::kFp8) {
      std::vector<float> v(size_t(scales.count) / 4);
      for (auto& f : v) f = 0.02f / 68.5f * (0.5f + static_cast<float>(random() % 1000) / 1000.0f);
      MUST(cudaMemcpy(scales.data, v.data(), v.size() * 4, cudaMemcpyHostToDevice));
    }
    std::normal_distribution<float> normal;
    std::vector<uint16_t> bits(size_t(tokens) * stride, 0);
    std::vector<float> values(bits.size(), 0.0f), start(size_t(tokens) * rows), w(static_cast<size_t>(rows));
    for (int i = 0; i < tokens; ++i) {
      for (int c = 0; c < s.cols; ++c) {
        const Bf16 b = ToBf16(normal(random) * float(1 + i % 5));
        bits[size_t(i) * stride + c] = b.bits, values[size_t(i) * stride + c] = ToFloat(b);
      }
    }
    for (auto& f : start) f = s.epilogue == Epilogue::kResidual ? normal(random) : 0.0f;
    for (auto& f : w) f = 1 + 0.1f * normal(random);
    std::vector<int> order(static_cast<size_t>(tokens));
    for (int i = 0; i < tokens; ++i) order[size_t(i)] = (i * 7 + 3) % tokens;
    MUST(cudaMemcpy(x.data, bits.data(), bits.size() * 2, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(exact_x.data, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(residual.data, start.data(), start.size() * 4, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(exact_residual.data, start.data(), start.size() * 4, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(norm.data, w.data(), w.size() * 4, cudaMemcpyHostToDevice));
    MUST(cudaMemcpy(slot_token.data, order.data(), order.size() * 4, cudaMemcpyHostToDevice));
  }
  LinearParams Params(int tokens, bool exact) {
    LinearParams p;
    p.epilogue = shape.epilogue, p.shape = tiles, p.weights = weights.data, p.scales = scales.data;
    p.x = exact ? static_cast<void*>(exact_x.data) : x.data, p.x_stride = stride, p.tokens = tokens;
    p.square_sums = squares.data, p.square_sum_count = 3, p.norm_cols = shape.cols, p.norm_eps = 1e-6f;
    if (gather) p.slot_token = slot_token.data;
    if (shape.epilogue == Epilogue::kResidual) p.square_sums = nullptr;
    p.out = exact ? exact_out.data : out.data, p.out_stride = rows, p.out_rows = rows;
    p.out_x = exact ? static_cast<void*>(exact_out_x.data) : out_x.data, p.out_x_stride = rows;
    p.residual = exact ? exact_residual.data : residual.data;
    p.next_norm = norm.data, p.next_x = exact ? static_cast<void*>(exact_next_x.data) : next_x.data,
    p.next_x_stride = rows;
    p.next_square_sums = exact ? exact_sums.data : sums.data;
    p.split = {split.data, tiles.units, shape.cols};
    return p;
  }
};

}  // namespace minimo::cuda
