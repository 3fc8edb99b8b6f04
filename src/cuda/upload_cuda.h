// Host memory to the device through page-locked staging: the team fills one slot while another is on its way.
#pragma once

#include <cstdint>

#include "cuda/device_cuda.h"
#include "cuda/weight_tiles.h"
#include "minimo/result.h"
#include "tensor/weight_view.h"

namespace minimo {
class ThreadTeam;
}

namespace minimo::cuda {

class Uploader {
 public:
  Uploader(ThreadTeam& team, cudaStream_t stream) : team_(team), stream_(stream) {}
  Status Allocate();

  Status Copy(void* device, const void* host, int64_t bytes);
  // Any source format as float32, [rows, cols] dense.
  Status CopyAsFloat(float* device, const WeightView& view);
  // A matrix (or a gate/up pair, interleaved) into tiles. shape.units and format are used; tiles as the view needs.
  Status Repack(const TileShape& shape, const WeightView& top, const WeightView* bottom, uint8_t* weights,
                uint8_t* scales);

 private:
  static constexpr int kSlots = 3;
  static constexpr int64_t kSlotBytes = int64_t{48} << 20;

  // The next slot, free to fill.
  Result<int> NextSlot();
  // Sends the first `bytes` of a filled slot to its twin on the device.
  Status Send(int slot, int64_t bytes);
  void ParallelCopy(void* to, const void* from, int64_t bytes);

  ThreadTeam& team_;
  cudaStream_t stream_;
  HostMemory host_[kSlots];
  DeviceMemory device_[kSlots];
  Event done_[kSlots];
  int next_ = 0;
};

}  // namespace minimo::cuda
