#include "bench/paired_times.h"

#include <algorithm>
#include <chrono>

#include "bench/interrupt.h"

namespace minimo::bench {

PairedTimes TimeBesideReads(const PairedWork& work, double seconds, size_t least) {
  using Clock = std::chrono::steady_clock;
  const auto run_us = [&] {
    if (work.prepare) work.prepare();
    const auto start = Clock::now();
    work.run();
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  };
  run_us();
  PairedTimes times;
  double before = work.read_gbs ? work.read_gbs() : 0;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while ((Clock::now() < end || times.us.size() < least) && !InterruptScope::Requested()) {
    times.us.push_back(run_us());
    if (!work.read_gbs) continue;
    const double after = work.read_gbs();
    times.reads_gbs.push_back((before + after) / 2);
    before = after;
  }
  return times;
}

Summary ShareOfReads(const PairedTimes& times, double bytes, double least_us) {
  std::vector<double> shares;
  for (size_t i = 0; i < times.reads_gbs.size(); ++i) {
    shares.push_back(std::max(bytes / times.reads_gbs[i] * 1e-3, least_us) / times.us[i]);
  }
  return Summarize(std::move(shares), std::vector<double>{25, 75});
}

}  // namespace minimo::bench
