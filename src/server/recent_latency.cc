#include "server/recent_latency.h"

#include <algorithm>

namespace minimo::server {

void RecentLatency::Add(std::span<const int64_t> us) {
  if (us.empty()) return;
  const std::lock_guard lock(mutex_);
  const size_t room = kMax - recent_.size();
  recent_.insert(recent_.end(), us.begin(), us.begin() + static_cast<ptrdiff_t>(std::min(room, us.size())));
}

RecentLatency::Summary RecentLatency::Take() {
  std::vector<int64_t> taken;
  {
    const std::lock_guard lock(mutex_);
    taken.swap(recent_);
  }
  if (taken.empty()) return {};
  std::sort(taken.begin(), taken.end());
  const auto quantile = [&](size_t percent) {
    return static_cast<double>(taken[std::min(taken.size() - 1, taken.size() * percent / 100)]) / 1000.0;
  };
  return {quantile(50), quantile(99)};
}

}  // namespace minimo::server
