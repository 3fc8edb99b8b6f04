// What an executor takes of a device, decided from its options before anything is loaded.
#pragma once

#include "cuda/cuda_executor.h"
#include "cuda/device_weights_cuda.h"
#include "cuda/exchange_cuda.h"
#include "cuda/workspace_cuda.h"

namespace minimo::cuda {

WeightOptions WeightsOf(const CudaOptions& options);
bool UsesFp8Prefill(const CudaOptions& options, const DeviceWeights& weights);
int LogitRows(const CudaOptions& options);  // of one pass of the head; also the tokens of a decode step
ExchangeOptions ExchangeOf(const CudaOptions& options, bool fp8_prefill);

// What decode steps have of their own where ranks share the experts in another way than in prefill.
struct DecodePhase {
  DecodePhase(const ModelSpec& whole, const DeviceWeights& both, const CudaOptions& options);
  ModelSpec spec;
  DeviceWeights weights;
  Workspace workspace;
};

// Refuses what does not fit the device.
Status CheckFits(const ModelSpec& spec, const DecoderWeights* weights, const KvLayout& layout,
                 const CudaOptions& options, const DeviceWeights& plan);

}  // namespace minimo::cuda
