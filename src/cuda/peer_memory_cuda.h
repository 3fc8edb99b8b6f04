// Memory that the GPUs of one host write into each other: every rank allocates an inbox and addresses those of all.
// Between processes by CUDA IPC handles, between threads of one process by its address.
#pragma once

#include "comm/communicator.h"
#include "cuda/device_cuda.h"
#include "cuda/kernels/exchange.cuh"

namespace minimo::cuda {

class PeerMemory {
 public:
  PeerMemory() = default;
  ~PeerMemory();
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // Collective over `host`, the rank's device current. An error on every rank if they are on several hosts, more than
  // kMaxPeers, or one cannot reach another's memory: NCCL serves then.
  // `values` float32 of packets and `many` parts of rows fit an exchange.
  struct Room {
    int64_t values = 0;
    int64_t many_bytes = 0;  // 0: none
    int many_chunks = 0;
  };
  Status Create(Communicator& host, const Room& room);
  static int64_t Bytes(int ranks, const Room& room);  // of an inbox
  static PeerView Arrange(int rank, int ranks, const Room& room);  // where things lie in inboxes; without addresses

  PeerView view() const { return view_; }
  // How long a packet is waited for. Not while an exchange is running.
  void set_timeout_ms(int ms) { view_.timeout_ns = static_cast<uint64_t>(ms) * 1'000'000; }
  // True once a rank has been given up: all sums since are wrong.
  bool fault() const { return *static_cast<volatile uint32_t*>(host_fault_.As<uint32_t>()) != 0; }

 private:
  PeerView view_;
  DeviceMemory inbox_, state_;
  HostMemory host_fault_;
  void* opened_[kMaxPeers] = {};  // by cudaIpcOpenMemHandle
};

}  // namespace minimo::cuda
