// When each request of a load is sent, in seconds from the start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "minimo/result.h"

namespace minimo::bench {

enum class RampUp { kNone, kLinear, kExponential };

struct ArrivalOptions {
  double request_rate = std::numeric_limits<double>::infinity();  // requests a second; infinite: all at once
  double burstiness = 1.0;  // shape of the gamma distribution of the gaps: 1 is Poisson, infinite is a metronome
  RampUp ramp_up = RampUp::kNone;
  double ramp_up_start_rps = 0;
  double ramp_up_end_rps = 0;
  uint64_t seed = 0;
};

Status Validate(const ArrivalOptions& options);

// Gaps are drawn from Gamma(burstiness, 1 / (rate * burstiness)); without a ramp the schedule is then scaled so that
// the last request leaves at count / rate exactly (vLLM does so to take the seed out of the throughput).
std::vector<double> ArrivalTimes(const ArrivalOptions& options, size_t count);

}  // namespace minimo::bench
