#include "layers/kv_storage.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "base/check.h"

namespace minimo {

namespace {

std::shared_ptr<HugeBytes> Memory(int64_t bytes) {
  auto memory = HugeBytes::Map(std::max<int64_t>(bytes, 1), true);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

KvGrouping GroupKv(const ModelSpec& spec) {
  KvGrouping grouping;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec& a = layer.attention;
    const auto same = [&](const KvGroup& g) {
      return g.window == a.window && g.kv_heads == a.kv_heads && g.head_dim == a.head_dim &&
             g.v_head_dim == a.v_head_dim;
    };
    auto group = std::find_if(grouping.groups.begin(), grouping.groups.end(), same);
    if (group == grouping.groups.end()) {
      group = grouping.groups.insert(group, {a.window, 0, a.kv_heads, a.head_dim, a.v_head_dim});
    }
    grouping.group_of_layer.push_back(static_cast<int>(group - grouping.groups.begin()));
    grouping.index_in_group.push_back(group->layers++);
  }
  return grouping;
}

KvStorage::KvStorage(const KvGrouping& grouping, const KvLayout& layout, DType dtype)
    : layout_(layout), dtype_(dtype), group_of_layer_(grouping.group_of_layer),
      index_in_group_(grouping.index_in_group) {
  for (const KvGroup& geometry : grouping.groups) {
    Group g;
    g.geometry = geometry;
    const bool sliding = geometry.window > 0;
    CHECK(!sliding || layout.ring_tokens >= geometry.window);
    g.unit_tokens = sliding ? layout.ring_tokens : layout.block_size;
    g.units = sliding ? layout.num_rings : layout.num_blocks;
    const int64_t count = g.units * geometry.layers;
    g.k = Memory(count * g.UnitBytes(geometry.head_dim, SizeOf(dtype)));
    g.v = Memory(count * g.UnitBytes(geometry.v_head_dim, SizeOf(dtype)));
    groups_.push_back(std::move(g));
  }
}

void KvStorage::Interleave(std::span<const NumaNode> nodes) {
  for (Group& g : groups_) {
    for (const auto* memory : {&g.k, &g.v}) InterleaveMemory((*memory)->data(), (*memory)->size(), nodes);
  }
}

KvSegment KvStorage::Segment(const Group& g, int layer, int64_t unit, int32_t row, int32_t first,
                             int32_t count) const {
  const int64_t element = SizeOf(dtype_);
  const int64_t at = unit * g.geometry.layers + index_in_group_[layer];
  KvSegment s;
  s.k = g.k->data() + at * g.UnitBytes(g.geometry.head_dim, element) + int64_t{row} * g.geometry.head_dim * element;
  s.v = g.v->data() + at * g.UnitBytes(g.geometry.v_head_dim, element) + int64_t{row} * g.geometry.v_head_dim * element;
  s.k_head_stride = int64_t{g.unit_tokens} * g.geometry.head_dim;
  s.v_head_stride = int64_t{g.unit_tokens} * g.geometry.v_head_dim;
  s.first = first;
  s.count = count;
  return s;
}

void KvStorage::AppendSegments(int layer, const StepRecord& step, const SequenceStep& s, bool include_new,
                               std::vector<KvSegment>* segments) const {
  const Group& g = groups_[group_of_layer_[layer]];
  const bool sliding = g.geometry.window > 0;
  const int32_t end = s.past + (include_new ? s.num_tokens : 0);
  int32_t position = sliding ? std::max(0, s.past - g.geometry.window + 1) : 0;
  while (position < end) {
    const int32_t row = position % g.unit_tokens;
    const int32_t count = std::min(g.unit_tokens - row, end - position);
    const int64_t unit = sliding ? s.ring : step.block_tables[s.block_table + position / g.unit_tokens];
    segments->push_back(Segment(g, layer, unit, row, position, count));
    position += count;
  }
}

void KvStorage::Store(int layer, const StepRecord& step, const SequenceStep& s, const std::byte* k,
                      int64_t k_head_stride, const std::byte* v, int64_t v_head_stride) {
  const Group& g = groups_[group_of_layer_[layer]];
  const bool sliding = g.geometry.window > 0;
  const int64_t element = SizeOf(dtype_);
  // Of a chunk longer than the ring only the last ring_tokens stay.
  int32_t i = sliding ? std::max(0, s.num_tokens - g.unit_tokens) : 0;
  while (i < s.num_tokens) {
    const int32_t position = s.past + i;
    const int32_t row = position % g.unit_tokens;
    const int32_t count = std::min(g.unit_tokens - row, s.num_tokens - i);
    const int64_t unit = sliding ? s.ring : step.block_tables[s.block_table + position / g.unit_tokens];
    const KvSegment to = Segment(g, layer, unit, row, position, count);
    const auto copy = [&](const std::byte* to_base, int64_t to_stride, const std::byte* from, int64_t from_stride,
                          int dim) {
      for (int64_t h = 0; h < g.geometry.kv_heads; ++h) {
        std::memcpy(const_cast<std::byte*>(to_base) + h * to_stride * element,
                    from + (h * from_stride + int64_t{i} * dim) * element, int64_t{count} * dim * element);
      }
    };
    copy(to.k, to.k_head_stride, k, k_head_stride, g.geometry.head_dim);
    copy(to.v, to.v_head_stride, v, v_head_stride, g.geometry.v_head_dim);
    i += count;
  }
}

void KvStorage::CopyUnits(bool sliding, std::span<const CacheCopy> copies) {
  for (Group& g : groups_) {
    if ((g.geometry.window > 0) != sliding) continue;
    const int64_t k_bytes = g.geometry.layers * g.UnitBytes(g.geometry.head_dim, SizeOf(dtype_));
    const int64_t v_bytes = g.geometry.layers * g.UnitBytes(g.geometry.v_head_dim, SizeOf(dtype_));
    for (const CacheCopy& c : copies) {
      std::memcpy(g.k->data() + c.to * k_bytes, g.k->data() + c.from * k_bytes, k_bytes);
      std::memcpy(g.v->data() + c.to * v_bytes, g.v->data() + c.from * v_bytes, v_bytes);
    }
  }
}

void KvStorage::CopyBlocks(std::span<const CacheCopy> copies) { CopyUnits(false, copies); }
void KvStorage::CopyRings(std::span<const CacheCopy> copies) { CopyUnits(true, copies); }

}  // namespace minimo
