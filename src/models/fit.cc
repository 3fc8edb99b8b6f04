#include "models/fit.h"

#include <algorithm>

#include <fmt/format.h>

namespace minimo {
namespace {

// KV bytes over all devices per byte of the model's own: heads are whole, so with more ranks than heads each is held by
// several ranks.
double KvCopies(const ModelSpec& spec, int devices) {
  double copies = 1;
  for (const LayerSpec& layer : spec.layers) {
    const double kv_heads = layer.attention.kv_heads;
    copies = std::max(copies, devices / kv_heads);
  }
  return copies;
}

}  // namespace

std::vector<Hardware> CommonHardware() {
  std::vector<Hardware> list;
  // Usable memory as the drivers report it, in bytes.
  for (const auto& [gpu, gib] : {std::pair{"H100 80GB", 79.6}, {"H200", 140.4}, {"B200", 178.4}}) {
    for (const int count : {1, 2, 4, 8}) {
      list.push_back({fmt::format("{}x {}", count, gpu), count, gib * (1 << 30), true});
    }
  }
  for (const int gib : {128, 256, 384, 512, 768, 1024}) {
    list.push_back({fmt::format("CPU, {} GiB RAM", gib), 1, static_cast<double>(gib) * (1 << 30), false});
  }
  return list;
}

std::vector<Fit> WhatFits(const ModelSpec& spec, const ModelSummary& summary, int sequences, int ranks) {
  std::vector<Fit> fits;
  for (const Hardware& h : CommonHardware()) {
    if (ranks > 0 && h.gpu && h.devices != ranks) continue;
    Fit fit;
    fit.hardware = h;
    const double copies = KvCopies(spec, h.devices);
    const double rings = copies * static_cast<double>(summary.kv_bytes_per_sequence) * sequences;
    const double left = h.devices * h.bytes * (1 - kReserve) - static_cast<double>(summary.total.bytes) - rings;
    fit.free_bytes = static_cast<int64_t>(left);
    fit.weights_fit = left > 0;
    if (left > 0 && summary.kv_bytes_per_token > 0) {
      fit.context_tokens = static_cast<int64_t>(left / (copies * static_cast<double>(summary.kv_bytes_per_token)));
    }
    fits.push_back(fit);
  }
  return fits;
}

}  // namespace minimo
