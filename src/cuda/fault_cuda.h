// Faults that a test asks for: MINIMO_CUDA_FAULT=step:N lets the N-th step of this process trap on the device,
// MINIMO_CUDA_FAULT=allocation:N lets the N-th allocation fail, counted from 1; MINIMO_CUDA_FAULT=generation:N takes
// every device for one of compute capability N / 10.
#pragma once

#include <cuda_runtime.h>

namespace minimo::cuda {

enum class Fault { kStep, kAllocation };

// Counts one event of this kind; true at the one that is to fail.
bool FaultDue(Fault kind);

// 0: what the device says.
int PretendedGeneration();

// A kernel that traps: a sticky error of the device.
cudaError_t LaunchTrap(cudaStream_t stream);

}  // namespace minimo::cuda
