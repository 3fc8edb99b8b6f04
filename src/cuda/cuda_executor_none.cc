// The CUDA backend of a build without a CUDA toolkit.
#include "base/error.h"
#include "cuda/cuda_executor.h"

namespace minimo::cuda {
namespace {

Error NotBuilt() { return Errorf("this minimo was built without CUDA (no nvcc was found); use the cpu backend"); }

}  // namespace

Result<CudaDevice> FindCudaDevice(int) { return NotBuilt(); }

Result<int64_t> CudaExecutor::BytesBesideKv(const ModelSpec&, const DecoderWeights*, const CudaOptions&) {
  return NotBuilt();
}

Result<std::unique_ptr<CudaExecutor>> CudaExecutor::Create(const ModelSpec&, const DecoderWeights*, const KvLayout&,
                                                           const CudaOptions&, ThreadTeam&) {
  return NotBuilt();
}

}  // namespace minimo::cuda
