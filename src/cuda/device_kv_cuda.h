// K and V of every layer on the device.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/device_cuda.h"
#include "cuda/kernels/tokens.cuh"
#include "kv/kv_layout.h"
#include "minimo/result.h"
#include "spec/model_spec.h"

namespace minimo::cuda {

class DeviceKv {
 public:
  static int64_t Bytes(const KvLayout& layout) {
    return layout.num_blocks * layout.BytesPerBlock() + layout.num_rings * layout.BytesPerRing();
  }
  Status Allocate(const ModelSpec& spec, const KvLayout& layout);
  const KvView& k(int layer) const { return k_[layer]; }
  const KvView& v(int layer) const { return v_[layer]; }

 private:
  std::vector<DeviceMemory> memory_;
  std::vector<KvView> k_, v_;
};

}  // namespace minimo::cuda
