// CUDA's resources as values: memory, streams, events; errors as Status.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/error.h"
#include "cuda/fault_cuda.h"
#include "minimo/result.h"

namespace minimo::cuda {

inline Status ToStatus(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return {};
  return Errorf("CUDA: {}: {} ({})", what, cudaGetErrorString(code), cudaGetErrorName(code));
}

#define MINIMO_CUDA_TRY(expr) MINIMO_TRY(::minimo::cuda::ToStatus((expr), #expr))

// Device memory, or page-locked host memory if kHost.
template <bool kHost>
class Memory {
 public:
  Memory() = default;
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() { Free(); }

  Status Allocate(int64_t bytes) {
    Free();
    if (bytes == 0) return {};
    const cudaError_t code =
        FaultDue(Fault::kAllocation) ? cudaErrorMemoryAllocation
        : kHost ? cudaMallocHost(&data_, static_cast<size_t>(bytes)) : cudaMalloc(&data_, static_cast<size_t>(bytes));
    if (code != cudaSuccess) {
      cudaGetLastError();  // an allocation failure is not sticky
      data_ = nullptr;
      return Errorf("{} bytes of {} memory: {}", bytes, kHost ? "page-locked" : "device", cudaGetErrorString(code));
    }
    bytes_ = bytes;
    return {};
  }
  Status AllocateZeroed(int64_t bytes) {
    MINIMO_TRY(Allocate(bytes));
    if (bytes > 0) MINIMO_CUDA_TRY(cudaMemset(data_, 0, static_cast<size_t>(bytes)));
    return {};
  }

  int64_t bytes() const { return bytes_; }
  template <typename T = uint8_t>
  T* As(int64_t byte_offset = 0) const {
    return reinterpret_cast<T*>(static_cast<uint8_t*>(data_) + byte_offset);
  }

 private:
  void Free() {
    if (data_ == nullptr) return;
    if (kHost) {
      cudaFreeHost(data_);
    } else {
      cudaFree(data_);
    }
    data_ = nullptr;
    bytes_ = 0;
  }
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};
using DeviceMemory = Memory<false>;
using HostMemory = Memory<true>;

class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }
  Status Create() { return ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Status Create(bool timing = false) {
    return ToStatus(cudaEventCreateWithFlags(&event_, timing ? cudaEventDefault : cudaEventDisableTiming), "event");
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace minimo::cuda
