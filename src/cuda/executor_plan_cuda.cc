#include "cuda/executor_plan_cuda.h"

#include <algorithm>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "cuda/device_kv_cuda.h"
#include "cuda/kernels/router.cuh"

namespace minimo::cuda {
namespace {

constexpr int64_t kReserveBytes = 700 << 20;  // the context, graphs and the loader's staging, measured on an H100

std::string Gib(int64_t bytes) { return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30)); }

Status CheckSpec(const ModelSpec& spec) {
  if (spec.moe.experts > kRouterExperts || spec.moe.top_k > 32 || spec.moe.groups > 32) {
    return Errorf("the CUDA backend routes to at most 32 of {} experts in 32 groups, the model has {} of {} in {}",
                  kRouterExperts, spec.moe.top_k, spec.moe.experts, spec.moe.groups);
  }
  for (const LayerSpec& l : spec.layers) {
    const AttentionSpec& a = l.attention;
    if (spec.hidden % 4 != 0 || a.head_dim % 2 != 0 || a.v_head_dim > 256) {
      return Errorf("the CUDA backend needs a hidden size in fours, even heads and value heads up to 256; "
                    "found {}, {}, {}",
                    spec.hidden, a.head_dim, a.v_head_dim);
    }
  }
  return {};
}

ModelSpec DecodeSpec(ModelSpec spec, const CudaOptions& options) {
  spec.moe.intermediate = static_cast<int>(options.decode_experts->rows.count);
  return spec;
}

}  // namespace

WeightOptions WeightsOf(const CudaOptions& o) {
  return {o.f32, o.random_weights, o.random_int4_group, o.random_fp8_head, o.fp8_prefill && !o.f32};
}

bool UsesFp8Prefill(const CudaOptions& o, const DeviceWeights& weights) {
  return o.fp8_prefill && !o.f32 && weights.FitsFp8Prefill();
}

int LogitRows(const CudaOptions& o) { return std::min(o.max_tokens, kMostDecodeTokens); }

ExchangeOptions ExchangeOf(const CudaOptions& o, bool fp8_prefill) {
  return {o.max_tokens, LogitRows(o), o.rank_timeout_ms, o.peer_memory, fp8_prefill};
}

DecodePhase::DecodePhase(const ModelSpec& whole, const DeviceWeights& both, const CudaOptions& options)
    : spec(DecodeSpec(whole, options)), weights(both.ForDecode()),
      workspace(spec, options.f32, false, LogitRows(options), 0) {}

Result<int64_t> CudaExecutor::BytesBesideKv(const ModelSpec& spec, const DecoderWeights* weights,
                                            const CudaOptions& options) {
  MINIMO_ASSIGN(const DeviceWeights plan,
                DeviceWeights::Plan(spec, weights, WeightsOf(options), options.share, options.decode_experts));
  const bool fp8_prefill = UsesFp8Prefill(options, plan);
  const int64_t exchange =
      options.share != nullptr ? Exchange::Bytes(spec, *options.share, ExchangeOf(options, fp8_prefill)) : 0;
  const Workspace workspace(spec, options.f32, fp8_prefill, options.max_tokens, LogitRows(options));
  int64_t decode = 0;
  if (plan.hybrid()) {
    decode = Workspace(DecodeSpec(spec, options), options.f32, false, LogitRows(options), 0).bytes();
  }
  return plan.bytes() + workspace.bytes() + decode + exchange + kReserveBytes;
}

// What can be refused before anything is loaded.
Status CheckFits(const ModelSpec& spec, const DecoderWeights* weights, const KvLayout& layout,
                 const CudaOptions& options, const DeviceWeights& plan) {
  MINIMO_TRY(CheckSpec(spec));
  CHECK(layout.bytes_per_element == 1 || layout.bytes_per_element == (options.f32 ? 4 : 2));
  MINIMO_ASSIGN(const CudaDevice device, FindCudaDevice(options.device));
  MINIMO_ASSIGN(const int64_t beside, CudaExecutor::BytesBesideKv(spec, weights, options));
  const int64_t kv = DeviceKv::Bytes(layout);
  if (beside + kv > device.free_bytes) {
    const double part = static_cast<double>(device.free_bytes - (beside - plan.bytes()) - kv) / plan.bytes();
    return Errorf("{} does not fit {}: weights {}, KV cache {}, buffers {}, free {}. What fits: about {} of {} layers "
                  "(--num-layers), or a smaller KV cache, or more devices",
                  spec.model_type, device.name, Gib(plan.bytes()), Gib(kv), Gib(beside - plan.bytes()),
                  Gib(device.free_bytes), std::max(0, static_cast<int>(part * spec.num_layers())), spec.num_layers());
  }
  LogInfo("{}: weights {}, KV cache {}, free {}", device.name, Gib(plan.bytes()), Gib(kv), Gib(device.free_bytes));
  return {};
}

}  // namespace minimo::cuda
