#include "cuda/cuda_executor.h"
#include "cuda/device_cuda.h"

namespace minimo::cuda {

Result<CudaDevice> FindCudaDevice(int device) {
  int count = 0, driver = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (code == cudaErrorInsufficientDriver) {
    cudaDriverGetVersion(&driver);
    if (driver == 0) return Errorf("no CUDA device: no NVIDIA driver is installed");
    return Errorf("the NVIDIA driver knows CUDA {}.{}, minimo was built with {}.{}: update the driver", driver / 1000,
                  driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  }
  if (code != cudaSuccess || count == 0) return Errorf("no CUDA device: {}", cudaGetErrorString(code));
  if (device < 0 || device >= count) return Errorf("CUDA device {}: this machine has 0 to {}", device, count - 1);
  cudaDeviceProp properties;
  MINIMO_CUDA_TRY(cudaGetDeviceProperties(&properties, device));
  CudaDevice found{properties.name, properties.major, properties.minor, 0, 0};
  if (const int n = PretendedGeneration(); n > 0) found.major = n / 10, found.minor = n % 10;
  if (found.major != 9 || found.minor != 0) {
    return Errorf("CUDA device {} is a {} (compute capability {}.{}); minimo's kernels are for Hopper (9.0)", device,
                  found.name, found.major, found.minor);
  }
  MINIMO_CUDA_TRY(cudaSetDevice(device));
  size_t free = 0, total = 0;
  MINIMO_CUDA_TRY(cudaMemGetInfo(&free, &total));
  found.free_bytes = static_cast<int64_t>(free);
  found.total_bytes = static_cast<int64_t>(total);
  return found;
}

}  // namespace minimo::cuda
