// Steps in which prompts are read while others decode.
#pragma once

#include <string>

#include "tests/gpu/bench_model.h"

namespace minimo::testing {

// `steps`: "31+900,..": 31 sequences that decode at context 945 and 900 tokens of prompts of 900, activations in e4m3.
void BenchMixed(BenchModel model, const std::string& format, const std::string& steps, bool fp8_cache);

}  // namespace minimo::testing
