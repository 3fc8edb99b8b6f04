#include "bench/kernel_cases.h"

#include <algorithm>
#include <memory>
#include <random>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "ops/attention/attention.h"
#include "ops/linear/linear.h"
#include "ops/linear/tiles.h"
#include "ops/rms_norm/rms_norm.h"
#include "ops/rope/rope.h"
#include "ops/router/router.h"
#include "ops/silu_mul/silu_mul.h"

namespace minimo::bench {
namespace {

constexpr int64_t kAlign = 64;

// Enough scales of blocks for any matrix.
constexpr size_t kScales = 1 << 20;

struct Inputs {
  std::vector<float> x, out;
};

std::vector<float> Normal(size_t count, uint64_t seed) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& v : values) v = normal(rng);
  return values;
}

// The format whose size is nearest to `bits` a parameter.
WeightFormat FormatOf(double bits) {
  return bits < 6 ? WeightFormat::kInt4Group : bits < 12 ? WeightFormat::kFp8Block : bits < 24 ? WeightFormat::kBf16
                                                                                               : WeightFormat::kF32;
}

const char* NameOf(WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt4Group: return "int4";
    case WeightFormat::kFp8Block: return "fp8";
    case WeightFormat::kF16: return "f16";
    case WeightFormat::kBf16: return "bf16";
    case WeightFormat::kF32: return "f32";
  }
  return "?";
}

// Points a weight at memory that no cache holds.
void Renew(bool int8, WeightPool& pool, WeightView* w) {
  if (int8 ? HasTileLayout(*w) : HasExactTiles(*w)) {
    w->tiles = pool.Next(TilesBytes(*w));
    w->exact_tiles = !int8;
    return;
  }
  w->data = pool.Next(w->rows * w->row_bytes);
  if (w->format != WeightFormat::kInt4Group) return;
  w->group_scales = reinterpret_cast<const Bf16*>(pool.Next(w->rows * w->scale_stride * int64_t{sizeof(Bf16)}));
}

class CaseMaker {
 public:
  CaseMaker(const ModelFacts& model, int tokens, int context, DType kv_dtype, bool int8, WeightPool& pool,
            ThreadTeam& team, uint64_t seed)
      : model_(model), spec_(model.spec), tokens_(tokens), context_(context), kv_dtype_(kv_dtype), int8_(int8),
        pool_(pool), team_(team), seed_(seed), scales_(std::make_shared<std::vector<float>>(kScales, 0.004f)) {}

  // y = W x for every token.
  void Linear(const std::string& op, int64_t rows, int64_t cols, double bits) {
    auto io = std::make_shared<Inputs>();
    io->x = Normal(static_cast<size_t>(tokens_ * cols), seed_);
    io->out.resize(static_cast<size_t>(tokens_ * rows));
    auto task = std::make_shared<LinearTask>();
    task->weight = View(rows, cols, FormatOf(bits));
    task->x = io->x.data();
    task->x_stride = cols;
    task->out = io->out.data();
    task->out_stride = rows;
    task->tokens = tokens_;
    const double bytes = static_cast<double>(rows * cols) * bits / 8;
    const bool floats = FloatProducts(task->weight);
    WeightPool& pool = pool_;
    Add(op, fmt::format("{} x {} {}", rows, cols, NameOf(FormatOf(bits))), bytes, 2.0 * rows * cols * tokens_,
        [int8 = int8_, io, task, &pool] { Renew(int8, pool, &task->weight); },
        [io, task, &team = team_, keep = scales_] { LinearCpu({task.get(), 1}, team); }).float_products = floats;
  }

  // top_k experts a token, chosen uniformly: all their `rows` x `cols` matrices, `matrices` to each expert.
  void Experts(const std::string& op, int matrices, int64_t rows, int64_t cols) {
    struct State {
      Inputs io;
      std::mt19937_64 rng;
      std::vector<LinearTask> tasks;
      std::vector<std::vector<int32_t>> tokens_of_expert;
      std::vector<std::vector<int32_t>> slots_of_expert;
    };
    const MoeSpec& moe = spec_.moe;
    auto state = std::make_shared<State>();
    state->rng.seed(seed_);
    state->io.x = Normal(static_cast<size_t>(tokens_ * cols), seed_);
    state->io.out.resize(static_cast<size_t>(int64_t{tokens_} * moe.top_k * rows));
    const WeightFormat format = FormatOf(model_.bits.experts);
    const WeightView view = View(rows, cols, format);
    const double touched = ExpertsTouched(moe, tokens_);
    const double bytes = touched * matrices * static_cast<double>(rows * cols) * model_.bits.experts / 8;
    const auto prepare = [state, &pool = pool_, int8 = int8_, view, moe, matrices, tokens = tokens_] {
      state->tokens_of_expert.assign(static_cast<size_t>(moe.experts), {});
      state->slots_of_expert.assign(static_cast<size_t>(moe.experts), {});
      std::vector<int32_t> ids(static_cast<size_t>(moe.experts));
      for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
      for (int t = 0; t < tokens; ++t) {
        for (int k = 0; k < moe.top_k; ++k) {  // a partial shuffle: top_k distinct experts
          const size_t pick = std::uniform_int_distribution<size_t>(static_cast<size_t>(k), ids.size() - 1)(state->rng);
          std::swap(ids[static_cast<size_t>(k)], ids[pick]);
          const auto expert = static_cast<size_t>(ids[static_cast<size_t>(k)]);
          state->tokens_of_expert[expert].push_back(t);
          state->slots_of_expert[expert].push_back(t * moe.top_k + k);
        }
      }
      state->tasks.clear();
      for (size_t e = 0; e < ids.size(); ++e) {
        if (state->tokens_of_expert[e].empty()) continue;
        for (int m = 0; m < matrices; ++m) {
          LinearTask task;
          task.weight = view;
          Renew(int8, pool, &task.weight);
          task.x = state->io.x.data();
          task.x_stride = view.cols;
          task.x_rows = state->tokens_of_expert[e].data();
          task.out = state->io.out.data();
          task.out_stride = view.rows;
          task.out_rows = state->slots_of_expert[e].data();
          task.tokens = static_cast<int64_t>(state->tokens_of_expert[e].size());
          state->tasks.push_back(task);
        }
      }
    };
    Add(op, fmt::format("{:.0f} x {} of {} x {} {}", touched, matrices, rows, cols, NameOf(format)), bytes,
        2.0 * rows * cols * matrices * moe.top_k * tokens_, prepare,
        [state, &team = team_, keep = scales_] { LinearCpu(state->tasks, team); }).float_products = FloatProducts(view);
  }

  // One new token of every sequence against its cache: pages of kPage tokens, or the ring of a window; with sinks where
  // the model has them.
  void Attention(const std::string& op, const AttentionSpec& a) {
    struct State {
      Inputs io;
      std::vector<AttentionSequence> sequences;
      std::vector<float> sinks;
      AttentionArgs args;
    };
    constexpr int kPage = 16;  // EngineOptions::block_size
    auto state = std::make_shared<State>();
    const int keys = a.window > 0 ? std::min(a.window, context_ + 1) : context_ + 1;
    state->io.x = Normal(static_cast<size_t>(int64_t{tokens_} * a.q_size()), seed_);
    state->io.out.resize(static_cast<size_t>(int64_t{tokens_} * a.o_size()));
    state->sequences.resize(static_cast<size_t>(tokens_));
    if (a.sink) state->sinks = Normal(static_cast<size_t>(a.heads), seed_);
    state->args = {state->io.x.data(), a.q_size(), state->io.out.data(), a.o_size(), a.heads, a.kv_heads,
                   a.head_dim, a.v_head_dim, a.window, a.sink ? state->sinks.data() : nullptr,
                   kv_dtype_, state->sequences};
    const auto prepare = [state, &pool = pool_, a, keys, context = context_, size = SizeOf(kv_dtype_)] {
      for (size_t i = 0; i < state->sequences.size(); ++i) {
        AttentionSequence& sequence = state->sequences[i];
        sequence = {static_cast<int64_t>(i), 1, context, std::move(sequence.segments)};
        sequence.segments.clear();
        for (int at = 0; at < keys;) {
          const int page = a.window > 0 ? keys : kPage, count = std::min(page, keys - at);
          KvSegment segment;
          segment.k = pool.Next(int64_t{page} * a.k_size() * size);
          segment.v = pool.Next(int64_t{page} * a.v_size() * size);
          segment.k_head_stride = int64_t{page} * a.head_dim;
          segment.v_head_stride = int64_t{page} * a.v_head_dim;
          segment.first = context + 1 - keys + at;
          segment.count = count;
          sequence.segments.push_back(segment);
          at += count;
        }
      }
    };
    const double bytes = static_cast<double>(SizeOf(kv_dtype_)) * keys * (a.k_size() + a.v_size()) * tokens_;
    Add(op, fmt::format("{}/{} heads of {}/{}, {} keys, {}", a.heads, a.kv_heads, a.head_dim, a.v_head_dim, keys,
                        minimo::NameOf(kv_dtype_)),
        bytes, 2.0 * keys * a.heads * (a.head_dim + a.v_head_dim) * tokens_, prepare,
        [state, &team = team_] { AttentionCpu(state->args, team); }).float_products = true;
  }

  void Norm() {
    auto io = std::make_shared<Inputs>();
    io->x = Normal(static_cast<size_t>(int64_t{tokens_} * spec_.hidden), seed_);
    io->out.resize(io->x.size());
    auto weight = std::make_shared<std::vector<float>>(static_cast<size_t>(spec_.hidden), 1.0f);
    const RmsNormArgs args{io->x.data(), weight->data(), io->out.data(), tokens_, spec_.hidden, spec_.hidden,
                           spec_.hidden, spec_.norm_eps};
    Add("rms_norm", fmt::format("{}", spec_.hidden), 4.0 * spec_.hidden * tokens_, 4.0 * spec_.hidden * tokens_,
        nullptr, [io, weight, args, &team = team_] { RmsNormCpu(args, team); });
  }

  void Rope(const AttentionSpec& a) {
    auto io = std::make_shared<Inputs>();
    io->x = Normal(static_cast<size_t>(int64_t{tokens_} * a.q_size()), seed_);
    auto table = std::make_shared<RopeTable>();
    const std::vector<int32_t> positions(static_cast<size_t>(tokens_), context_);
    table->Build(a.rope_theta, a.rotary_dim, positions);
    const RopeArgs args{io->x.data(), tokens_, a.q_size(), a.heads, a.head_dim, table.get()};
    Add("rope q", fmt::format("{} heads, {} of {}", a.heads, a.rotary_dim, a.head_dim),
        4.0 * a.heads * a.rotary_dim * tokens_, 3.0 * a.heads * a.rotary_dim * tokens_, nullptr,
        [io, table, args, &team = team_] { RopeCpu(args, team); });
  }

  void Router() {
    const MoeSpec& moe = spec_.moe;
    struct State {
      std::vector<float> logits, bias, weights;
      std::vector<int32_t> experts;
    };
    auto state = std::make_shared<State>();
    state->logits = Normal(static_cast<size_t>(int64_t{tokens_} * moe.experts), seed_);
    state->bias.resize(static_cast<size_t>(moe.experts));
    state->weights.resize(static_cast<size_t>(tokens_ * moe.top_k));
    state->experts.resize(state->weights.size());
    RouterArgs args;
    args.logits = state->logits.data();
    args.bias = state->bias.data();
    args.tokens = tokens_;
    args.moe = moe;
    args.experts = state->experts.data();
    args.weights = state->weights.data();
    Add("router top-k", fmt::format("{} of {}", moe.top_k, moe.experts), 4.0 * moe.experts * tokens_,
        4.0 * moe.experts * tokens_, nullptr, [state, args, &team = team_] { RouterCpu(args, team); });
  }

  void SiluMul() {
    const int64_t count = int64_t{tokens_} * spec_.moe.top_k * spec_.moe.intermediate;
    auto io = std::make_shared<Inputs>();
    io->x = Normal(static_cast<size_t>(2 * count), seed_);
    io->out.resize(static_cast<size_t>(count));
    const SiluMulArgs args{io->x.data(), io->x.data() + count, io->out.data(), count};
    Add("silu_mul", fmt::format("{}", count), 8.0 * static_cast<double>(count), 6.0 * static_cast<double>(count),
        nullptr, [io, args, &team = team_] { SiluMulCpu(args, team); });
  }

  std::vector<KernelCase> Take() { return std::move(cases_); }

 private:
  bool FloatProducts(const WeightView& view) const { return !int8_ && !HasExactTiles(view); }

  WeightView View(int64_t rows, int64_t cols, WeightFormat format) const {
    WeightView view;
    view.format = format;
    view.rows = rows;
    view.cols = cols;
    view.row_bytes = cols * view.ElementBits() / 8;
    if (format == WeightFormat::kFp8Block) {
      view.scales = scales_->data();
      view.scale_stride = (cols + kScaleBlock - 1) / kScaleBlock;
      CHECK(static_cast<size_t>(view.scale_stride * ((rows + kScaleBlock - 1) / kScaleBlock)) <= kScales);
    } else if (format == WeightFormat::kInt4Group) {
      view.group_size = 64;
      view.scale_stride = cols / view.group_size;
    }
    return view;
  }

  KernelCase& Add(const std::string& op, const std::string& shape, double bytes, double flop,
                  std::function<void()> prepare, std::function<void()> run) {
    cases_.push_back({op, shape, tokens_, bytes, flop, false, std::move(prepare), std::move(run)});
    return cases_.back();
  }

  const ModelFacts& model_;
  const ModelSpec& spec_;
  int tokens_;
  int context_;
  DType kv_dtype_;
  bool int8_;
  WeightPool& pool_;
  ThreadTeam& team_;
  uint64_t seed_;
  std::shared_ptr<std::vector<float>> scales_;  // near 2^-8, so that sums stay small
  std::vector<KernelCase> cases_;
};

}  // namespace

Result<WeightPool> WeightPool::Make(int64_t bytes, uint64_t seed, ThreadTeam& team) {
  auto data = HugeBytes::Map(bytes, true);
  if (data == nullptr) return Errorf("no memory for {} bytes of weights", bytes);
  auto* words = reinterpret_cast<uint16_t*>(data->data());
  team.ParallelFor(bytes / 2, 4096, [&](int64_t begin, int64_t end) {
    std::mt19937_64 rng(seed + static_cast<uint64_t>(begin));
    for (int64_t i = begin; i < end; ++i) {
      // High byte: sign and exponent of a bf16 or float near 0.01 to 2. Low byte: no e4m3 NaN (0x7f, 0xff).
      const uint64_t r = rng();
      words[i] = static_cast<uint16_t>(((r & 0x80) | (0x3c + (r >> 8) % 4)) << 8 | ((r >> 16) & 0xf7));
    }
  });
  return WeightPool(std::move(data), bytes);
}

const std::byte* WeightPool::Next(int64_t bytes) {
  CHECK(bytes <= size());
  if (at_ + bytes > size()) at_ = 0;
  const std::byte* piece = data_->data() + at_;
  at_ += (bytes + kAlign - 1) / kAlign * kAlign;
  return piece;
}

std::vector<KernelCase> MakeKernelCases(const ModelFacts& model, int tokens, int context, DType kv_dtype,
                                        bool int8, WeightPool& pool, ThreadTeam& team, uint64_t seed) {
  const ModelSpec& spec = model.spec;
  CaseMaker make(model, tokens, context, kv_dtype, int8, pool, team, seed);
  const AttentionSpec* full = nullptr;
  const AttentionSpec* sliding = nullptr;
  const LayerSpec* dense = nullptr;
  for (const LayerSpec& layer : spec.layers) {
    (layer.attention.window > 0 ? sliding : full) = &layer.attention;
    if (!layer.moe) dense = &layer;
  }
  make.Norm();
  for (const AttentionSpec* a : {full, sliding}) {
    if (a == nullptr) continue;
    const std::string kind = full != nullptr && sliding != nullptr ? (a == full ? ", full" : ", sliding") : "";
    make.Linear("linear q/k/v" + kind, a->q_size() + a->k_size() + a->v_size(), spec.hidden, model.bits.qkv);
    make.Attention("attention" + kind, *a);
  }
  const AttentionSpec& any = full != nullptr ? *full : *sliding;
  make.Rope(any);
  make.Linear("linear output", spec.hidden, any.o_size(), model.bits.output);
  if (dense != nullptr) {
    make.Linear("dense gate, up", int64_t{2} * dense->intermediate, spec.hidden, model.bits.dense);
    make.Linear("dense down", spec.hidden, dense->intermediate, model.bits.dense);
  }
  if (spec.moe.experts > 0) {
    make.Linear("linear router", spec.moe.experts, spec.hidden, model.bits.router);
    make.Router();
    make.Experts("experts gate, up", 2, spec.moe.intermediate, spec.hidden);
    make.SiluMul();
    make.Experts("experts down", 1, spec.hidden, spec.moe.intermediate);
  }
  make.Linear("linear head", spec.vocab, spec.hidden, model.bits.head);
  return make.Take();
}

}  // namespace minimo::bench
