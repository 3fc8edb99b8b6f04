// Models of the released shapes with random weights, made on the device.
#pragma once

#include <string>

#include "cuda/cuda_executor.h"
#include "tests/gpu/synthetic_model.h"

namespace minimo::testing {

// "m2 8 w4": spec, options.
struct BenchModel {
  ModelSpec spec;
  cuda::CudaOptions options;
  std::string name;
};
inline BenchModel MakeBench(const std::string& model, int layers, const std::string& format) {
  BenchModel b;
  b.name = model;
  b.spec = model == "m2" ? M2Spec(layers > 0 ? layers : 62, 256, 200064)
                         : MiMoSpec(layers > 0 ? layers : 48, 256, 152576);
  b.options.random_weights = true;
  if (format != "fp8") b.options.random_int4_group = 64, b.options.random_fp8_head = true;
  return b;
}

}  // namespace minimo::testing
