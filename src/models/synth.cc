#include "models/synth.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "base/float_types.h"
#include "base/thread_team.h"
#include "models/w4_config.h"
#include "tensor/scale_blocks.h"

namespace minimo {
namespace {

constexpr int64_t kTable = 1 << 20;      // draws; a row begins anywhere in it, so rows differ
constexpr int64_t kMaxCols = 1 << 17;    // wrap-around copies beyond the table's end
constexpr float kFp8Peak = 4.2f;         // standard deviations at the largest code, 448
constexpr float kInt4Peak = 2.8f;        // standard deviations at the largest 4-bit value, 7
constexpr float kScaleSpread = 0.15f;    // relative, from block to block
constexpr float kSkew = 0.12f;           // of the correction bias; scores spread by about 0.2

// splitmix64: https://prng.di.unimi.it/splitmix64.c (public domain); one draw per index.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// Near 1, different for every (tensor, index).
float Spread(uint64_t seed, uint64_t tensor, uint64_t index) {
  const double unit = static_cast<double>(Mix(seed * 31 + tensor * 1000003 + index) >> 11) * 0x1p-53;
  return 1.0f + kScaleSpread * static_cast<float>(2 * unit - 1);
}

// Keeps the residual stream near 1: inputs are normalised, outputs of a block are damped.
float Deviation(const TensorSpec& t, bool skewed) {
  const float fan_in = t.IsMatrix() ? 1.0f / std::sqrt(static_cast<float>(t.shape[1])) : 1.0f;
  switch (t.part) {
    case TensorPart::kEmbedding: return 1.0f;
    case TensorPart::kLmHead: return 2.0f * fan_in;
    case TensorPart::kRouter: return fan_in;
    case TensorPart::kRouterBias: return skewed ? kSkew : 0.0f;
    case TensorPart::kSinks: return 1.0f;
    case TensorPart::kO:
    case TensorPart::kDown:
    case TensorPart::kExpertDown: return 0.5f * fan_in;
    default: return fan_in;
  }
}

}  // namespace

void Synthesizer::Add(const std::string& name, DType dtype, Shape shape, Kind kind, float deviation, Shape matrix) {
  declarations_.push_back({name, dtype, std::move(shape)});
  plans_.push_back({kind, deviation, std::move(matrix)});
}

void Synthesizer::AddMatrix(const TensorSpec& t, const SynthOptions& options, float deviation) {
  const int64_t rows = t.shape[0], cols = t.shape[1];
  const bool all = options.quantize_all && t.quantizable;
  if (options.format == SynthFormat::kBf16 || !(t.released_fp8 || all)) {
    Add(t.name, t.part == TensorPart::kRouter ? DType::kF32 : DType::kBf16, t.shape, Kind::kGaussian, deviation);
  } else if (options.format == SynthFormat::kW4 && (t.expert >= 0 || all) && cols % kW4Group == 0) {
    const PackedNames names = PackedNamesOf(t.name);
    Add(names.packed, DType::kI32, {rows, cols / 8}, Kind::kInt4Codes, deviation);
    Add(names.scale, DType::kBf16, {rows, cols / kW4Group}, Kind::kInt4Scales, deviation);
    Add(names.shape, DType::kI64, {2}, Kind::kShape, 0, t.shape);
  } else {
    Add(t.name, DType::kF8E4M3, t.shape, Kind::kFp8Codes, deviation);
    Add(ScaleName(t.name), DType::kF32, {ScaleBlocks(rows), ScaleBlocks(cols)}, Kind::kFp8Scales, deviation);
  }
}

Synthesizer::Synthesizer(const ModelFamily& family, const ModelSpec& spec, const SynthOptions& options)
    : seed_(options.seed) {
  for (const TensorSpec& t : family.manifest(spec)) {
    const float deviation = Deviation(t, options.skewed_routing);
    if (!t.IsMatrix()) {
      const bool is_norm = t.part != TensorPart::kRouterBias && t.part != TensorPart::kSinks;
      Add(t.name, t.part == TensorPart::kRouterBias ? DType::kF32 : DType::kBf16, t.shape,
          is_norm ? Kind::kOnes : Kind::kGaussian, deviation);
    } else {
      AddMatrix(t, options, deviation);
    }
  }
  std::mt19937_64 rng(options.seed);
  std::normal_distribution<float> normal;
  gaussians_.resize(kTable + kMaxCols);
  for (int64_t i = 0; i < kTable; ++i) gaussians_[i] = normal(rng);
  std::copy_n(gaussians_.begin(), kMaxCols, gaussians_.begin() + kTable);
  fp8_.resize(gaussians_.size());
  int4_.resize(gaussians_.size() / 2);
  for (size_t i = 0; i < gaussians_.size(); ++i) fp8_[i] = ToFp8E4M3(gaussians_[i] * (448.0f / kFp8Peak)).bits;
  const auto nibble = [&](size_t i) {
    return static_cast<uint8_t>(8 +
                                std::clamp(static_cast<int>(std::lround(gaussians_[i] * (7.0f / kInt4Peak))), -7, 7));
  };
  for (size_t i = 0; i < int4_.size(); ++i) int4_[i] = static_cast<uint8_t>(nibble(2 * i) | nibble(2 * i + 1) << 4);
}

void Synthesizer::Fill(size_t i, int64_t begin, int64_t end, std::byte* out) const {
  const TensorDeclaration& t = declarations_[i];
  const Plan& plan = plans_[i];
  const int64_t cols = t.shape.size() == 2 ? t.shape[1] : 1;
  const auto place = [&](int64_t row) { return static_cast<int64_t>(Mix(seed_ + i * 7919 + row * 104729) % kTable); };
  const auto store = [&](int64_t at, float value) {
    if (t.dtype == DType::kF32) reinterpret_cast<float*>(out)[at] = value;
    if (t.dtype == DType::kBf16) reinterpret_cast<Bf16*>(out)[at] = ToBf16(value);
  };
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = (row - begin) * cols;
    switch (plan.kind) {
      case Kind::kOnes: store(at, 1.0f); break;
      case Kind::kGaussian: {
        const float* draws = gaussians_.data() + place(row);
        for (int64_t c = 0; c < cols; ++c) store(at + c, draws[c] * plan.deviation);
        break;
      }
      case Kind::kFp8Codes: std::memcpy(out + at, fp8_.data() + place(row), static_cast<size_t>(cols)); break;
      case Kind::kInt4Codes:  // cols counts words of 8 columns
        std::memcpy(out + at * 4, int4_.data() + place(row) / 2, static_cast<size_t>(cols) * 4);
        break;
      case Kind::kFp8Scales:
      case Kind::kInt4Scales: {
        const float unit = plan.deviation * (plan.kind == Kind::kFp8Scales ? kFp8Peak / 448.0f : kInt4Peak / 7.0f);
        for (int64_t c = 0; c < cols; ++c) {
          store(at + c, unit * Spread(seed_, i, static_cast<uint64_t>(row * cols + c)));
        }
        break;
      }
      case Kind::kShape: reinterpret_cast<int64_t*>(out)[row - begin] = plan.matrix[static_cast<size_t>(row)]; break;
    }
  }
}

Result<LoadedModel> DummyModel(const std::string& folder_or_like, const SynthOptions& given, int threads) {
  SynthOptions options = given;
  MINIMO_ASSIGN(const ModelConfig config, DummyConfig(folder_or_like, &options));
  const Synthesizer synthesizer(*config.family, config.spec, options);
  std::map<std::string, TensorView> tensors;
  std::vector<std::shared_ptr<const void>> owners;
  ThreadTeam team(threads);
  for (size_t i = 0; i < synthesizer.tensors().size(); ++i) {
    const TensorDeclaration& t = synthesizer.tensors()[i];
    auto bytes = std::make_shared<Buffer<std::byte>>(static_cast<size_t>(t.bytes()));
    const int64_t rows = t.shape[0];
    const int64_t row_bytes = rows > 0 ? t.bytes() / rows : 0;
    team.ParallelFor(rows, 64, [&](int64_t begin, int64_t end) {
      synthesizer.Fill(i, begin, end, bytes->data() + begin * row_bytes);
    });
    tensors[t.name] = {t.dtype, t.shape, bytes->data()};
    owners.push_back(std::move(bytes));
  }
  auto checkpoint = std::make_shared<const Checkpoint>(
      Checkpoint::InMemory(folder_or_like, std::move(tensors), std::move(owners)));
  MINIMO_ASSIGN(LoadedModel model, BindModel(config, std::move(checkpoint), {}));
  model.dummy = true;
  return model;
}

}  // namespace minimo
