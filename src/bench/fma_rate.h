// What the cores can do without any memory: the floor of what is bound by float32 arithmetic.
#pragma once

#include "base/thread_team.h"

namespace minimo::bench {

// 1e12 float32 operations a second of fused products and sums (two each) in the widest vectors that the operators use,
// on all threads of the team at once; the best of some passes.
double MeasureFmaTflops(ThreadTeam& team);

}  // namespace minimo::bench
