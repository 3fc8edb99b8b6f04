// What programs that call kernels by hand share: an array on the device, its errors, the time of a launch.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace minimo::cuda {

inline void Must(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  std::printf("{\"error\": \"%s: %s\"}\n", what, cudaGetErrorString(code));
  std::fflush(stdout);
  std::exit(3);
}
#define MUST(x) Must((x), #x)

template <typename T>
struct Device {
  T* data = nullptr;
  int64_t count = 0;
  Device() = default;
  explicit Device(int64_t n) : count(n) {
    MUST(cudaMalloc(&data, n * sizeof(T) + 4096));
    MUST(cudaMemset(data, 0xff, n * sizeof(T) + 4096));  // poison: NaN
  }
  explicit Device(const std::vector<T>& v) : Device(static_cast<int64_t>(v.size())) {
    MUST(cudaMemcpy(data, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(Device&& o) noexcept { std::swap(data, o.data), std::swap(count, o.count); }
  Device& operator=(Device&& o) noexcept {
    std::swap(data, o.data), std::swap(count, o.count);
    return *this;
  }
  ~Device() { cudaFree(data); }
  std::vector<T> Get() const {
    std::vector<T> v(static_cast<size_t>(count));
    MUST(cudaMemcpy(v.data(), data, v.size() * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
};

// Seconds a launch: the median of five runs of eight.
template <typename F>
double Time(F launch) {
  for (int i = 0; i < 3; ++i) launch();
  cudaEvent_t event[2];
  MUST(cudaEventCreate(&event[0]));
  MUST(cudaEventCreate(&event[1]));
  std::vector<float> times;
  for (int r = 0; r < 5; ++r) {
    MUST(cudaEventRecord(event[0]));
    for (int i = 0; i < 8; ++i) launch();
    MUST(cudaEventRecord(event[1]));
    MUST(cudaEventSynchronize(event[1]));
    float ms;
    MUST(cudaEventElapsedTime(&ms, event[0], event[1]));
    times.push_back(ms / 8);
  }
  std::sort(times.begin(), times.end());
  return times[2] * 1e-3;
}

}  // namespace minimo::cuda
