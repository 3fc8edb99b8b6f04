#include "bench/arrivals.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "base/error.h"

namespace minimo::bench {
namespace {

double RateAt(const ArrivalOptions& o, size_t index, size_t count) {
  if (o.ramp_up == RampUp::kNone) return o.request_rate;
  const double progress = static_cast<double>(index) / static_cast<double>(std::max<size_t>(count - 1, 1));
  if (o.ramp_up == RampUp::kLinear) {
    return o.ramp_up_start_rps + (o.ramp_up_end_rps - o.ramp_up_start_rps) * progress;
  }
  return o.ramp_up_start_rps * std::pow(o.ramp_up_end_rps / o.ramp_up_start_rps, progress);
}

}  // namespace

Status Validate(const ArrivalOptions& o) {
  if (!(o.burstiness > 0)) return Errorf("--burstiness {}: expected a positive number", o.burstiness);
  if (o.ramp_up == RampUp::kNone) {
    if (!(o.request_rate > 0)) return Errorf("--request-rate {}: expected a positive number or inf", o.request_rate);
    return {};
  }
  if (std::isfinite(o.request_rate)) return Errorf("--ramp-up-strategy sets the rate: leave out --request-rate");
  if (!(o.ramp_up_start_rps > 0) || !(o.ramp_up_end_rps >= o.ramp_up_start_rps)) {
    return Errorf("--ramp-up-start-rps {} --ramp-up-end-rps {}: expected 0 < start <= end", o.ramp_up_start_rps,
                  o.ramp_up_end_rps);
  }
  return {};
}

std::vector<double> ArrivalTimes(const ArrivalOptions& o, size_t count) {
  std::mt19937_64 rng(o.seed);
  std::vector<double> times(count);
  double now = 0;
  for (size_t i = 0; i < count; ++i) {
    const double rate = RateAt(o, i, count);
    if (std::isinf(rate)) continue;
    if (std::isinf(o.burstiness)) {
      now += 1.0 / rate;
    } else {
      now += std::gamma_distribution<double>(o.burstiness, 1.0 / (rate * o.burstiness))(rng);
    }
    times[i] = now;
  }
  if (o.ramp_up == RampUp::kNone && now > 0) {
    const double factor = static_cast<double>(count) / o.request_rate / now;
    for (double& t : times) t *= factor;
  }
  return times;
}

}  // namespace minimo::bench
