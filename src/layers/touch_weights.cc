#include "layers/touch_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>

namespace minimo {
namespace {

constexpr int kPopulateRead = 22;               // MADV_POPULATE_READ, which glibc names from 2.35 on
constexpr uintptr_t kAtOnce = uintptr_t{8} << 20;  // bytes between two looks at stop_

bool Touch(std::span<const std::byte> range, const std::atomic<bool>& stop) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.data() + range.size());
  for (uintptr_t at = begin; at < end; at += kAtOnce) {
    if (stop.load(std::memory_order_relaxed)) return false;
    if (madvise(reinterpret_cast<void*>(at), std::min(kAtOnce, end - at), kPopulateRead) != 0) return false;
  }
  return true;
}

}  // namespace

WeightToucher::WeightToucher(const DecoderWeights& weights) {
  const auto add = [&](const Weight& w) {
    const WeightView& view = w.view;
    if (view.tiles == nullptr) ranges_.push_back({view.data, static_cast<size_t>(view.rows * view.row_bytes)});
  };
  const auto add_ffn = [&](const FfnWeights& ffn) {
    for (const Weight* w : {&ffn.gate, &ffn.up, &ffn.down}) add(*w);
  };
  add(weights.lm_head);
  for (const LayerWeights& layer : weights.layers) {
    for (const Weight* w : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.router}) add(*w);
    add_ffn(layer.dense);
    for (const FfnWeights& expert : layer.experts) add_ffn(expert);
    for (const FfnWeights& expert : layer.decode_experts) add_ffn(expert);
  }
  try {
    thread_ = std::thread([this] {
      for (const auto& range : ranges_) {
        if (!Touch(range, stop_)) return;
      }
    });
  } catch (const std::system_error&) {  // no thread to be had: steps take their faults themselves
  }
}

WeightToucher::~WeightToucher() {
  stop_.store(true, std::memory_order_relaxed);
  if (thread_.joinable()) thread_.join();
}

}  // namespace minimo
