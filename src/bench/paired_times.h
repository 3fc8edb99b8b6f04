// Times of something that reads memory, each beside plain reads: what a shared host's memory gives moves from one
// second to the next, so that only figures of the same moment compare.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "bench/stats.h"

namespace minimo::bench {

struct PairedTimes {
  std::vector<double> us;
  std::vector<double> reads_gbs;  // of each run: the mean of the reads right before and right after it; or none
};

struct PairedWork {
  std::function<void()> prepare;       // before each run, untimed; may be empty
  std::function<void()> run;
  std::function<double()> read_gbs;  // empty: nothing is read beside
};

// Runs and reads in turns for `seconds`, both together, and at least `least` times, after one run that does not count.
PairedTimes TimeBesideReads(const PairedWork& work, double seconds, size_t least);

// Of the time that each run took: how much `bytes` at its reads' rate would take, and no less than `least_us`. With
// quartiles.
Summary ShareOfReads(const PairedTimes& times, double bytes, double least_us);

}  // namespace minimo::bench
