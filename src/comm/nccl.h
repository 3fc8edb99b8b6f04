// Collectives between GPUs. NCCL is opened at run time (libnccl.so.2, or MINIMO_NCCL_LIBRARY), so that one binary runs
// where it is not installed; its C interface is declared in nccl_api.h, so that it builds there too. The unique id
// travels through a host Communicator: threads of one process or MPI.
//
// Calls are queued on a CUDA stream and return at once; pointers are device memory of the calling rank's GPU, which the
// caller has made current. Failures inside the kernels show in Check.
//
// Thread rule: one thread at a time; Abort from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "comm/communicator.h"
#include "comm/nccl_api.h"

namespace minimo {

using CudaStream = void*;  // cudaStream_t, without CUDA's headers

class NcclCommunicator {
 public:
  // Collective over `host`; one GPU a rank, already current.
  static Result<std::unique_ptr<NcclCommunicator>> Create(Communicator& host);
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  static Result<int> Version();  // 22703 for 2.27.3

  Status AllReduceSum(void* values, int64_t count, nccl::DataType type, CudaStream stream);
  // all [size * count]
  Status AllGather(const void* mine, void* all, int64_t count, nccl::DataType type, CudaStream stream);
  // values [size * count], mine [count]
  Status ReduceScatterSum(const void* values, void* mine, int64_t count, nccl::DataType type, CudaStream stream);
  Status Broadcast(void* data, int64_t bytes, int root, CudaStream stream);
  // As Communicator::AllToAllV, in bytes.
  Status AllToAllV(const void* send, std::span<const int64_t> send_bytes, void* receive,
                   std::span<const int64_t> receive_bytes, CudaStream stream);

  // The error, if any, of what was queued before; does not wait.
  Status Check();
  // Makes kernels that wait for a lost rank give up.
  void Abort();

  nccl::Comm* raw() const { return comm_; }

 private:
  NcclCommunicator(const nccl::Api& api, nccl::Comm* comm, int rank, int size)
      : api_(api), comm_(comm), rank_(rank), size_(size) {}
  Status Checked(nccl::Code code, const char* call) const;

  const nccl::Api& api_;
  nccl::Comm* comm_;
  std::mutex abort_mutex_;
  bool aborted_ = false;
  int rank_;
  int size_;
};

}  // namespace minimo
